"""Check the files of a tokenizer before they are used: they must not run code, read other files or fill memory."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import transformers
from transformers.utils import CONFIG_NAME, cached_file

from .adapter_methods import is_number
from .safety import LARGEST, read_json_object, shortened

TOKENIZER_CONFIG = "tokenizer_config.json"
TOKENIZER_FILE = "tokenizer.json"
OTHER_FILES = ("added_tokens.json", "special_tokens_map.json")
# Old versions of transformers recorded these paths; none reads them.
UNREAD_FILES = ("added_tokens_file", "chat_template_file", "special_tokens_map_file", "tokenizer_config_file")
SPECIAL_TOKENS = re.compile(r"(bos|cls|eos|mask|pad|sep|unk)_token")
STRINGS = ("padding_side", "tokenizer_class", "truncation_side")
ANY_FAST = "PreTrainedTokenizerFast"  # reads tokenizer.json, whatever class wrote it
ANY_FAST_5 = "TokenizersBackend"  # its name from transformers 5 on
MOST_TOKENS = LARGEST["vocab_size"]


def check_tokenizer_files(
    name: str | os.PathLike,
    classes: Collection[str],
    own_class: str,
    model: Mapping[str, Any] | None = None,
    **hub_options: Any,
) -> str | None:
    """Check the files of a tokenizer.

    Args:
        name: Hub id or folder.
        classes: names of the tokenizer classes of transformers that may be used, each also with `Fast`.
        own_class: name of our own class. Its `auto_map` is ignored, since the class is known without it.
        model: the `config.json` there, if it has been read.
        hub_options: revision, cache_dir, token, ...

    Returns:
        The class that the files name; None if they name none.

    Raises:
        OSError: if there is no such folder or repository.
        ValueError: if a file would run code, read another file or fill memory, or is not a tokenizer's; the message
            names the value.
    """
    missing_is_fine = {f"_raise_exceptions_for_{what}": False for what in ("gated_repo", "connection_errors")}
    options = missing_is_fine | hub_options
    config = read_json_object(name, TOKENIZER_CONFIG, **options) or {}
    where = f"the {TOKENIZER_CONFIG} of {str(name)!r}"
    if model is None:
        model = read_json_object(name, CONFIG_NAME, **options) or {}
    found = config.get("tokenizer_class") or model.get("tokenizer_class")
    allowed = sorted({own_class, ANY_FAST, ANY_FAST_5, *classes, *(f"{name}Fast" for name in classes)})
    if found != own_class:
        _check_auto_map(config, where)
        _check_auto_map(model, f"the config.json of {str(name)!r}")
    if found is not None and found not in allowed:
        raise ValueError(f"{where} has tokenizer_class {shortened(found)}. Expected one of: {', '.join(allowed)}.")
    backend = read_json_object(name, TOKENIZER_FILE, **options)
    _check_tokenizer_config(config, where, has_backend=backend is not None)
    for file in OTHER_FILES:
        for value in (read_json_object(name, file, **options) or {}).values():
            if isinstance(value, int):
                _check_id(value, f"the {file} of {str(name)!r}")
    if backend is not None:
        _check_backend(backend, f"the {TOKENIZER_FILE} of {str(name)!r}")
    elif found != own_class and (found or classes):
        vocabulary = _find_vocabulary(name, tokenizer_class(found or next(iter(classes))), options)
        if vocabulary is None and not config:  # transformers 5 would make an empty tokenizer
            raise OSError("it has no tokenizer files.")
    return found


def options_for_other_versions(name: str | os.PathLike, **hub_options: Any) -> dict[str, Any]:
    """Return options of `from_pretrained` without which a tokenizer of another version of transformers is not read.

    Args:
        name: Hub id or folder.
        hub_options: revision, cache_dir, token, ...
    """
    if not transformers.__version__.startswith("4."):
        return {}
    extra = (read_json_object(name, TOKENIZER_CONFIG, **hub_options) or {}).get("extra_special_tokens")
    if isinstance(extra, list):  # a dictionary before transformers 5
        return {"extra_special_tokens": {}, "additional_special_tokens": extra}
    return {}


def tokenizer_class(name: str) -> Any:
    """Return a class of transformers, the fast one if there are two."""
    if name == ANY_FAST_5:
        name = ANY_FAST
    slow = name.removesuffix("Fast")
    return getattr(transformers, f"{slow}Fast", None) or getattr(transformers, slow)


def _find_vocabulary(name: str | os.PathLike, stock: Any, options: Mapping[str, Any]) -> str | None:
    """Return which file of a tokenizer has its vocabulary, if there is one.

    Raises:
        ValueError: if it can only be read by a library that is not installed.
    """
    for file in stock.vocab_files_names.values():
        if not cached_file(os.fspath(name), file, _raise_exceptions_for_missing_entries=False, **options):
            continue
        if file.endswith(".model") and importlib.util.find_spec("sentencepiece") is None:
            raise ValueError(
                f"the tokenizer of {str(name)!r} has its vocabulary in {file}, which sentencepiece reads. Install it: "
                "pip install sentencepiece protobuf."
            )
        return file
    return None


def _check_auto_map(content: Mapping[str, Any], where: str) -> None:
    auto_map = content.get("auto_map")
    if auto_map and (not isinstance(auto_map, Mapping) or "AutoTokenizer" in auto_map):
        raise ValueError(
            f"{where} has auto_map {shortened(auto_map)}, which names code for the tokenizer. It is not run: use the "
            "tokenizer files of the original backbone."
        )


def _check_tokenizer_config(config: Mapping[str, Any], where: str, has_backend: bool) -> None:
    for key, value in config.items():
        found, expected = f"{where} has {shortened(key)} {shortened(value)}", None
        is_file = key.endswith(("_file", "_files")) and key not in UNREAD_FILES
        is_read = is_file and (key != "tokenizer_file" or has_backend)  # transformers drops it without a backend
        if value and (is_read or key in ("init_inputs", "sp_model_kwargs")):
            raise ValueError(f"{found}, which could read a file from elsewhere. Remove it.")
        if (SPECIAL_TOKENS.fullmatch(key) and not _is_token(value)) or (
            key in STRINGS and not isinstance(value, str | None)
        ):
            expected = "a string"
        elif key == "added_tokens_decoder" and not (
            isinstance(value, Mapping) and all(map(str.isdecimal, value)) and all(map(_is_token, value.values()))
        ):
            expected = "numbers of tokens, each with a token"
        elif key == "model_max_length" and not is_number(value):
            expected = "a number"
        elif key == "model_input_names" and not (isinstance(value, list) and all(isinstance(v, str) for v in value)):
            expected = "a list of strings"
        if expected:
            raise ValueError(f"{found}. Expected {expected}.")
    for number in config.get("added_tokens_decoder") or {}:
        _check_id(int(number[:20]), where)


def _is_token(value: Any) -> bool:
    """Return True for a token of a JSON file: a string, a table with its content, or null."""
    if isinstance(value, Mapping):
        return isinstance(value.get("content"), str)
    return isinstance(value, str | None)


def _check_backend(content: Mapping[str, Any], where: str) -> None:
    """Check the ids of the tokens of a `tokenizer.json`; the rest is read by a parser that checks it."""
    for number in _ids(content):
        _check_id(number, where)


def _ids(content: Mapping[str, Any]) -> Iterator[int]:
    for token in content.get("added_tokens") or []:
        if isinstance(token, Mapping) and isinstance(token.get("id"), int):
            yield token["id"]
    model = content.get("model")
    vocabulary = model.get("vocab") if isinstance(model, Mapping) else None
    if isinstance(vocabulary, Mapping):
        yield from (number for number in vocabulary.values() if isinstance(number, int))


def _check_id(number: int, where: str) -> None:
    if not 0 <= number < MOST_TOKENS:
        raise ValueError(
            f"{where} has a token with id {shortened(number)}. Expected ids from 0 to {MOST_TOKENS - 1:,}."
        )
