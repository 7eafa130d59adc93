"""Read a recipe: a YAML file and flags, where flags win and unknown names get a suggestion."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args, get_type_hints

import transformers
import yaml
from transformers import HfArgumentParser
from transformers.hf_argparser import string_to_bool

from ..models.wording import did_you_mean, first_line, no_such_file
from .arguments import CorpusArguments, ModelArguments, RecipeTrainingArguments
from .precision import AUTO
from .presets import preset_names, preset_text

RESUME = "resume_from_checkpoint"  # the Trainer's argument; `--resume`, as lift-ss predict has it, means its last one
USAGE = "%(prog)s [CONFIG.yaml] [--argument value ...]   (flags win over the file)"
PRESET_USAGE = "%(prog)s {first} [--preset NAME] [--argument value ...]   (flags win over {others})\npresets: {presets}"


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows defaults, and leaves the lines of the description as they are."""


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


def parse_training(
    argv: Sequence[str],
    description: str,
    train: Sequence[str] = (),
    preset: str | None = None,
    also: Sequence[Any] = (),
) -> tuple[Any, ...]:
    """Parse the arguments of a training run: `[CONFIG.yaml] [--preset NAME] [--argument value ...]`.

    Flags win over the file, and the file over the preset.

    Args:
        argv: the command line without the program's name.
        description: as in `parse_recipe`.
        train: training corpora; then there can be no file.
        preset: the preset if the command line names none; None for the arguments' own defaults.
        also: further classes of arguments.

    Returns:
        Instances of ModelArguments, CorpusArguments and RecipeTrainingArguments, and of the further classes.

    Raises:
        RecipeError: as in `parse_recipe`.
        ValueError: if there is no such preset.

    Example:
        >>> model, corpora, _ = parse_training(["--preset", "lift_ss", "--head", "linear"], "", ["mine.txt"])
        >>> model.adapter, model.head, corpora.train
        ('bottleneck', 'linear', ['mine.txt'])
    """
    front = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    front.add_argument("--preset", default=preset)
    chosen, flags = front.parse_known_args(argv)
    settings: dict[str, Any] = {}
    if chosen.preset is not None:
        settings = yaml.load(preset_text(chosen.preset), _Loader)
    where = ""
    if flags and not flags[0].startswith("-") and not train:
        where = f"{flags[0]}: "
        settings |= read_recipe(flags.pop(0))
    if train:
        settings["train"] = list(train)
    classes = (ModelArguments, CorpusArguments, RecipeTrainingArguments, *also)
    first, others = ("train CHAINS", "the preset") if train else ("[CONFIG.yaml]", "the file, the file over the preset")
    usage = PRESET_USAGE.format(first=first, others=others, presets=", ".join(preset_names()))
    return parse_settings(classes, settings, flags, description, where, usage)


def parse_settings(
    argument_classes: Sequence[Any],
    settings: Mapping[str, Any],
    flags: Sequence[str] = (),
    description: str = "",
    where: str = "",
    usage: str = USAGE,
) -> tuple[Any, ...]:
    """Parse settings that were read from a file; see `parse_recipe`.

    Args:
        argument_classes: as in `parse_recipe`.
        settings: names and values; None and empty lists are allowed.
        flags: command line flags, which win over the settings.
        description: as in `parse_recipe`.
        where: start of the error message for an unknown name.
        usage: first line of `--help`.

    Example:
        >>> from lift_ss_hf.training.arguments import ModelArguments
        >>> (model,) = parse_settings([ModelArguments], {"adapter": None, "head": "linear"}, ["--head", "dilated"])
        >>> model.adapter, model.head
        (None, 'dilated')
    """
    parser = HfArgumentParser(
        list(argument_classes),
        description=description,
        usage=usage,
        exit_on_error=False,
        formatter_class=_HelpFormatter,
    )
    for action in parser._actions:
        if action.type is string_to_bool:  # `--bf16` alone means true, although its default is unset
            action.nargs, action.const, action.type = "?", True, _bool
        if action.dest == "bf16":
            action.type = _bool_or_auto
        # transformers 4.57 has "10% slower" in a help text, which argparse formats. Drop when it is escaped there.
        action.help = action.help and re.sub(r"(?<!%)%(?!%|\(default\)s)", "%%", action.help)
    known = _known_names(parser)
    for key in settings:
        if key not in known:
            raise RecipeError(where + _unknown(key, known))
    settings = _checked(settings, parser, where)
    options = [*known, "help"]
    if RESUME in known:
        parser.add_argument("--resume", dest=RESUME, action="store_const", const="last", help=f"--{RESUME} last")
        options.append("resume")
    # Values go through argparse as flags do; the user's flags come later and win.
    flags = [*_as_flags(settings), *flags]
    parser.set_defaults(**{key: value for key, value in settings.items() if value is None or value == []})
    for flag in flags:
        name = flag.split("=")[0].lstrip("-").replace("-", "_")
        if flag.startswith("--") and name not in options:
            raise RecipeError(_unknown(name, known))
    try:
        return parser.parse_args_into_dataclasses(args=flags)
    except (argparse.ArgumentError, ValueError, TypeError) as error:
        raise RecipeError(first_line(error)) from None


class _Loader(yaml.SafeLoader):
    """Reads `on`, `off`, `yes` and `no` as words, as YAML does since 1.2: `prefix_cache: off`, `eval_strategy: no`."""


BOOLEAN = "tag:yaml.org,2002:bool"
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != BOOLEAN]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(BOOLEAN, re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))


def read_recipe(path: str | Path) -> dict[str, Any]:
    """Read the settings of a YAML recipe.

    Raises:
        RecipeError: if the file is missing, not YAML, or not a mapping.
    """
    if not Path(path).is_file():
        raise RecipeError(f"{no_such_file(path, 'recipe')} Give a YAML file first, then flags.")
    try:
        settings = yaml.load(Path(path).read_text("utf-8"), _Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: not YAML ({' '.join(str(error).split())}).") from None
    if not isinstance(settings, dict):
        raise RecipeError(f"{path}: expected `name: value` lines, found {type(settings).__name__}.")
    return settings


def _bool(text: str) -> bool:
    return string_to_bool({"on": "true", "off": "false"}.get(text.lower(), text))


def _bool_or_auto(text: str) -> bool | str:
    return AUTO if text.lower() == AUTO else _bool(text)


def _checked(settings: Mapping[str, Any], parser: HfArgumentParser, where: str) -> dict[str, Any]:
    """Return the settings, with an empty list where a list of values is left empty.

    Raises:
        RecipeError: if a value would be read as another one: nothing, or true or false where words are expected.
    """
    actions = {action.dest: action for action in parser._actions}
    hints = [hint for kind in parser.dataclass_types for hint in get_type_hints(kind).items()]
    may_be_none = {name for name, hint in hints if type(None) in get_args(hint)}
    checked = dict(settings)
    for key, value in settings.items():
        action = actions[key]
        if value is None and key not in may_be_none and action.default is not None:
            if action.nargs not in ("+", "*"):
                raise RecipeError(f"{where}{key} is empty. Write a value, or leave the line out.")
            checked[key] = []
        if isinstance(value, bool) and action.type is str:
            raise RecipeError(f"{where}{key} is {str(value).lower()}. Expected a word or a path; see --help.")
    return checked


def _known_names(parser: HfArgumentParser) -> list[str]:
    return sorted({action.dest for action in parser._actions} - {"help"})


# Arguments that one version of transformers has, and what to do with the other. `warmup_ratio` and
# `overwrite_output_dir` of 4.57 are not among them: here they work with both.
LEAVE_OUT = "Leave it out, or use the other version."
ONLY_IN_4_57 = {
    "adafactor": "Write optim: adafactor.",
    "fp16_backend": "Leave it out: mixed precision is torch's own.",
    "fp16_opt_level": "Leave it out: mixed precision is torch's own.",
    "fsdp_min_num_params": "Write min_num_params in fsdp_config.",
    "fsdp_transformer_layer_cls_to_wrap": "Write transformer_layer_cls_to_wrap in fsdp_config.",
    "group_by_length": "Leave it out: chains of similar length are batched together (--batching).",
    "half_precision_backend": "Leave it out: mixed precision is torch's own.",
    "include_inputs_for_metrics": "Write include_for_metrics: [inputs].",
    "include_tokens_per_second": "Write include_num_input_tokens_seen: all.",
    "jit_mode_eval": "Leave it out, or write torch_compile.",
    "logging_dir": "Set the environment variable TENSORBOARD_LOGGING_DIR.",
    "mp_parameters": "Leave it out: it was for SageMaker's launcher.",
    "no_cuda": "Write use_cpu.",
    "past_index": "Leave it out: an encoder has no past.",
    "per_gpu_eval_batch_size": "Write per_device_eval_batch_size.",
    "per_gpu_train_batch_size": "Write per_device_train_batch_size.",
    "push_to_hub_model_id": "Write hub_model_id.",
    "push_to_hub_organization": "Write hub_model_id, with the organization before a slash.",
    "push_to_hub_token": "Write hub_token.",
    "ray_scope": "Leave it out: it was for searches with Ray.",
    "save_safetensors": "Leave it out: weights are always saved as safetensors.",
    "torchdynamo": "Write torch_compile_backend.",
    "tpu_metrics_debug": "Write debug: tpu_metrics_debug.",
    "tpu_num_cores": "Leave it out: the launcher knows.",
    "use_legacy_prediction_loop": "Leave it out: there is one loop.",
    "use_mps_device": "Leave it out: an MPS device is used where there is one.",
}
ONLY_IN_5 = {
    "activation_checkpointing": "Write gradient_checkpointing.",
    "activation_checkpointing_kwargs": "Write gradient_checkpointing_kwargs.",
    "dataloader_in_order": LEAVE_OUT,
    "dataloader_multiprocessing_context": LEAVE_OUT,
    "ddp_static_graph": LEAVE_OUT,
    "enable_jit_checkpoint": "Leave it out: on SIGTERM a run saves a checkpoint anyway.",
    "train_sampling_strategy": "Leave it out, or write batching.",
    "trackio_bucket_id": LEAVE_OUT,
    "trackio_static_space_id": LEAVE_OUT,
    "use_cache": "Leave it out: an encoder keeps no keys and values.",
}


def _unknown(name: str, known: Sequence[str]) -> str:
    instead = ONLY_IN_4_57.get(name) or ONLY_IN_5.get(name)
    if instead and "learning_rate" in known:  # of the arguments of the Trainer
        where = "4.57" if name in ONLY_IN_4_57 else "5"
        found = transformers.__version__
        return f"{name!r} is an argument of transformers {where}; transformers {found} does not have it. {instead}"
    return f"unknown argument {name!r}." + (did_you_mean(name, known) or " See --help for all of them.")


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
