"""Read a recipe: a YAML file and flags, where flags win and unknown names get a suggestion."""

from __future__ import annotations

import argparse
import difflib
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import transformers
import yaml
from transformers import HfArgumentParser
from transformers.hf_argparser import string_to_bool


class RecipeError(ValueError):
    """A recipe cannot be run; raised before any long work."""


def parse_recipe(
    argument_classes: Sequence[Any], description: str, argv: Sequence[str] | None = None
) -> tuple[Any, ...]:
    """Parse `[CONFIG.yaml] [--argument value ...]` into one instance of each class.

    Args:
        argument_classes: dataclasses; `_argument_group_name` names their group in `--help`.
        description: what the command does, for `--help`.
        argv: the command line without the program's name (default: that of this process).

    Returns:
        An instance of each class, in order.

    Raises:
        RecipeError: if the file is not a recipe, a key or flag is unknown, or a value is invalid.

    Example:
        >>> from lift_ss_hf.training.arguments import CorpusArguments, ModelArguments
        >>> flags = ["--head", "linear", "--tests", "casp12", "casp13"]
        >>> model, corpora = parse_recipe([ModelArguments, CorpusArguments], "", flags)
        >>> model.head, model.loss, corpora.tests
        ('linear', 'centroid', ['casp12', 'casp13'])
        >>> parse_recipe([ModelArguments], "", ["--adaptor", "lora"])
        Traceback (most recent call last):
        ...
        lift_ss_hf.training.recipes.RecipeError: unknown argument 'adaptor'. Did you mean 'adapter'?
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
    """Parse settings that were read from a file; see `parse_recipe`.

    Args:
        argument_classes: as in `parse_recipe`.
        settings: names and values; None and empty lists are allowed.
        flags: command line flags, which win over the settings.
        description: as in `parse_recipe`.
        where: start of the error message for an unknown name.

    Example:
        >>> from lift_ss_hf.training.arguments import ModelArguments
        >>> (model,) = parse_settings([ModelArguments], {"adapter": None, "head": "linear"}, ["--head", "dilated"])
        >>> model.adapter, model.head
        (None, 'dilated')
    """
    parser = HfArgumentParser(list(argument_classes), description=description, usage=_usage(), exit_on_error=False)
    for action in parser._actions:
        if action.type is string_to_bool:  # `--bf16` alone means true, although its default is unset
            action.nargs, action.const = "?", True
        # transformers 4.57 has "10% slower" in a help text, which argparse formats. Drop when it is escaped there.
        action.help = action.help and re.sub(r"(?<!%)%(?!%|\(default\)s)", "%%", action.help)
    known = _known_names(parser)
    for key in settings:
        if key not in known:
            raise RecipeError(where + _unknown(key, known))
    # Values go through argparse as flags do; the user's flags come later and win.
    flags = [*_as_flags(settings), *flags]
    parser.set_defaults(**{key: value for key, value in settings.items() if value is None or value == []})
    for flag in flags:
        name = flag.split("=")[0].lstrip("-").replace("-", "_")
        if flag.startswith("--") and name not in (*known, "help"):
            raise RecipeError(_unknown(name, known))
    try:
        return parser.parse_args_into_dataclasses(args=flags)
    except (argparse.ArgumentError, ValueError, TypeError) as error:
        raise RecipeError(str(error).splitlines()[0]) from None


def read_recipe(path: str | Path) -> dict[str, Any]:
    """Read the settings of a YAML recipe.

    Raises:
        RecipeError: if the file is missing, not YAML, or not a mapping.
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


# Arguments of transformers 4.57 that transformers 5 no longer has, and what to do instead.
REMOVED = {
    "group_by_length": "Leave it out: chains of similar length are batched together (--batching).",
    "logging_dir": "Set the environment variable TENSORBOARD_LOGGING_DIR.",
    "no_cuda": "Write use_cpu.",
    "push_to_hub_model_id": "Write hub_model_id.",
    "push_to_hub_organization": "Write hub_model_id, with the organization before a slash.",
    "push_to_hub_token": "Write hub_token.",
    "save_safetensors": "Leave it out: weights are always saved as safetensors.",
}


def _unknown(name: str, known: Sequence[str]) -> str:
    if name in REMOVED:
        return f"transformers {transformers.__version__} has no argument {name!r} any more. {REMOVED[name]}"
    close = difflib.get_close_matches(name, known, n=1)
    return f"unknown argument {name!r}." + (f" Did you mean {close[0]!r}?" if close else " See --help for all of them.")


def _as_flags(settings: Mapping[str, Any]) -> list[str]:
    flags: list[str] = []
    for key, value in settings.items():
        if value is None or value == []:
            continue  # argparse cannot express these; they were set as defaults
        flags.append(f"--{key}")
        if isinstance(value, list):
            flags += [str(item) for item in value]
        else:
            flags.append(json.dumps(value) if isinstance(value, dict) else str(value))
    return flags
