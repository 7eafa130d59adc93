"""One way to read a recipe: a YAML file and flags together, flags win, and a wrong name is told with the closest."""

from __future__ import annotations

import difflib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from transformers import HfArgumentParser


class RecipeError(ValueError):
    """A recipe that cannot be run, told before any long work."""


def parse_recipe(
    argument_classes: Sequence[Any], description: str, argv: Sequence[str] | None = None
) -> tuple[Any, ...]:
    """Parse `[CONFIG.yaml] [--argument value ...]` into one instance of each class.

    Args:
        argument_classes: dataclasses; `_argument_group_name` names their group in `--help`.
        description: what the command does, for `--help`.
        argv: the command line without the program's name; that of this process by default.

    Returns:
        an instance of each class, in order.

    Raises:
        RecipeError: for a file that is no recipe, a key or flag that does not exist, a value of the wrong type.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv and not argv[0].startswith("-"):
        return parse_settings(argument_classes, read_recipe(argv[0]), argv[1:], description, f"{argv[0]}: ")
    return parse_settings(argument_classes, {}, argv, description)


def parse_settings(
    argument_classes: Sequence[Any],
    settings: Mapping[str, Any],
    flags: Sequence[str] = (),
    description: str = "",
    where: str = "",
) -> tuple[Any, ...]:
    """As `parse_recipe`, of settings that were read already.

    Args:
        argument_classes: dataclasses, as there.
        settings: names and values; None and empty lists too.
        flags: win over them.
        description: as there.
        where: what the message about an unknown name begins with.
    """
    parser = HfArgumentParser(list(argument_classes), description=description, usage=_usage(), exit_on_error=False)
    known = _known_names(parser)
    for key in settings:
        if key not in known:
            raise RecipeError(where + _unknown(key, known))
    # Values go through argparse like those of the flags, which come later and win.
    flags = [*_as_flags(settings), *flags]
    parser.set_defaults(**{key: value for key, value in settings.items() if value is None or value == []})
    for flag in flags:
        name = flag.split("=")[0].lstrip("-").replace("-", "_")
        if flag.startswith("--") and name not in (*known, "help"):
            raise RecipeError(_unknown(name, known))
    try:
        return parser.parse_args_into_dataclasses(args=flags)
    except RecipeError:
        raise
    except Exception as error:
        if isinstance(error, (ValueError, TypeError)) or type(error).__name__ == "ArgumentError":
            raise RecipeError(str(error).splitlines()[0]) from None
        raise


def read_recipe(path: str | Path) -> dict[str, Any]:
    """The settings of a YAML recipe.

    Raises:
        RecipeError: if it is missing, not YAML, or no mapping.
    """
    if not Path(path).is_file():
        raise RecipeError(f"{path}: no such recipe. Give a YAML file first, then flags.")
    try:
        settings = yaml.safe_load(Path(path).read_text("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: not YAML ({' '.join(str(error).split())}).") from None
    if not isinstance(settings, dict):
        raise RecipeError(f"{path}: expected `name: value` lines, found {type(settings).__name__}.")
    return settings


def _usage() -> str:
    return "%(prog)s [CONFIG.yaml] [--argument value ...]   (flags win over the file)"


def _known_names(parser: HfArgumentParser) -> list[str]:
    return sorted({action.dest for action in parser._actions} - {"help"})


def _unknown(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"unknown argument {name!r}." + (f" Did you mean {close[0]!r}?" if close else " See --help for all of them.")


def _as_flags(settings: Mapping[str, Any]) -> list[str]:
    flags: list[str] = []
    for key, value in settings.items():
        if value is None or value == []:
            continue  # argparse has no spelling for these: they became defaults
        flags.append(f"--{key}")
        if isinstance(value, list):
            flags += [str(item) for item in value]
        else:
            flags.append(json.dumps(value) if isinstance(value, dict) else str(value))
    return flags
