"""The tokenizer of residues: a Hugging Face tokenizer in which one residue is one token, and labels to go with it.

The stock tokenizer of ESM merges a run of unknown letters into one `<unk>`, which shifts every label after it, and
those of ProtT5 and ProtBert expect a space between residues. This one is made from the stock tokenizer's vocabulary
and gives the same tokens for the same residues, after the token that ProstT5 and Ankh 3 expect before them:

    tokenizer = ResidueTokenizer.from_pretrained("my_model")            # or a backbone; AutoTokenizer works too
    tokenizer(["MKTAYIAK", "MKT"], padding=True, return_tensors="pt")   # as every tokenizer of transformers
    corpus.map(tokenizer.encode_batch, batched=True)                    # columns sequence and states to labelled tokens

`encode_sequence` and `encode_chain` are the fast way: a look-up in a table of 256 bytes.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from huggingface_hub.errors import HFValidationError
from tokenizers import Regex, Tokenizer
from tokenizers.decoders import Fuse
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.utils import CONFIG_NAME

from .artefact import read_backbone_location
from .backbones import BackboneFamily, get_family, locate
from .safety import HUB_OPTIONS, in_one_line, read_json_object, shortened
from .sequences import RARE_RESIDUES, STANDARD_RESIDUES, UNKNOWN_RESIDUE, CleanSequence, clean_sequence
from .states import IGNORE_INDEX, Alphabet, get_alphabet
from .tokenizer_files import (
    ANY_FAST,
    MOST_TOKENS,
    TOKENIZER_CONFIG,
    check_tokenizer_files,
    options_for_other_versions,
    tokenizer_class,
)
from .wording import counted

WORD_START = "▁"  # how sentencepiece writes the blank before a word; ProtT5 has residues as words


class NoTokenizerError(ValueError):
    """A model or backbone without tokenizer files."""


class ResidueTokenizer(PreTrainedTokenizerFast):
    """Turn residues into tokens, one each, with a backbone's special tokens around them.

    Sequences are cleaned first: lower case becomes upper case, rare residues that the backbone has no token for (or
    was not trained with) become X. What is not a residue raises `ResidueError`, which names its position.

    Build one with `from_pretrained`, or with `from_stock` from a backbone's own tokenizer.

    Attributes:
        num_leading, num_trailing: special tokens before and after the residues of a sequence.
        replaced: residues that the backbone sees as X, in alphabetical order.
    """

    vocab_files_names = {"tokenizer_file": "tokenizer.json"}  # noqa: RUF012  transformers' own form
    model_input_names = ["input_ids", "attention_mask"]  # noqa: RUF012
    slow_tokenizer_class = None

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        backend = self.backend_tokenizer
        self._forget_last_call()
        vocabulary = backend.get_vocab(with_added_tokens=True)
        around = backend.encode("A").ids
        if vocabulary["A"] not in around:
            raise ValueError(
                "the tokenizer gives A another token than its own. Use the tokenizer files of the backbone."
            )
        self.num_leading = around.index(vocabulary["A"])
        self.num_trailing = len(around) - 1 - self.num_leading
        self._leading, self._trailing = around[: self.num_leading], around[self.num_leading + 1 :]
        residues = STANDARD_RESIDUES + RARE_RESIDUES
        self.replaced = "".join(sorted(set(residues) - set(vocabulary)))
        self._tokens = np.zeros(256, dtype=np.int64)  # by the code of a residue
        self._is_replaced = np.zeros(256, dtype=bool)
        for residue in residues:
            self._tokens[ord(residue)] = vocabulary.get(residue, vocabulary[UNKNOWN_RESIDUE])
            self._is_replaced[ord(residue)] = residue in self.replaced
        if backend.encode(STANDARD_RESIDUES).ids != self.encode_sequence(STANDARD_RESIDUES).tolist():
            raise ValueError(
                "the tokenizer does not give each residue its own token. Use the tokenizer files of the backbone."
            )

    @classmethod
    def from_stock(cls, stock: PreTrainedTokenizerBase, family: BackboneFamily) -> ResidueTokenizer:
        """Make one from a backbone's own tokenizer.

        Args:
            stock: its vocabulary and special tokens are used.
            family: of the backbone.

        Raises:
            ValueError: if its special tokens are not the family's, or a standard residue has no token.
        """
        special = stock("")["input_ids"]
        _check_special_tokens(family.num_leading, len(special) - family.num_leading, family)
        num_leading, leading_token = family.num_leading, family.leading_token(stock.get_vocab())
        if leading_token is not None:
            special.insert(num_leading, stock.convert_tokens_to_ids(leading_token))
            num_leading += 1
        names: Any = stock.convert_ids_to_tokens(special)
        around = dict(zip(names, special, strict=True))
        vocabulary = _residue_vocabulary(stock, family.replaced_residues, around)
        backend = Tokenizer(WordLevel(vocabulary, unk_token=stock.unk_token))
        backend.pre_tokenizer = Split(Regex("."), "isolated")
        backend.decoder = Fuse()  # no blanks between residues
        template: list[str] = [*names[:num_leading], "$A", *names[num_leading:]]
        backend.post_processor = TemplateProcessing(single=" ".join(template), special_tokens=[*around.items()])
        roles = {role: token for role, token in stock.special_tokens_map.items() if isinstance(token, str)}
        # for transformers 5 too, which calls them extra_special_tokens
        more = {} if leading_token is None else {"additional_special_tokens": [leading_token]}
        return cls(tokenizer_object=backend, **roles, **more)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike,
        *args: Any,
        backbone: str | os.PathLike | None = None,
        **options: Any,
    ) -> ResidueTokenizer:
        """Load the tokenizer of a saved model or of a backbone.

        Args:
            pretrained_model_name_or_path: Hub id or folder. A model without tokenizer files uses its backbone's.
            args: unused; the Auto classes may pass some.
            backbone: where a model's backbone is now, if not where its configuration says.
            options: of `AutoTokenizer.from_pretrained` (revision, cache_dir, token, ...). `trust_remote_code` is
                ignored: no code of the folder or repository is run here.

        Raises:
            ValueError: if no tokenizer is found, a file of it is damaged or not safe to use, or it belongs to a
                backbone that cannot be used here.

        Example:
            >>> tokenizer = ResidueTokenizer.from_pretrained("bundled")
            >>> tokenizer("MKT")["input_ids"]
            [0, 20, 15, 11, 2]
        """
        name, revision = pretrained_model_name_or_path, options.pop("revision", None)
        hub: dict[str, Any] = {key: options[key] for key in HUB_OPTIONS if key in options}
        options = {**options, "trust_remote_code": False}
        try:
            location = read_backbone_location(name, backbone, revision=revision, **hub)
        except ValueError:
            if cls._is_saved_alone(locate(name), revision=revision, **hub):
                return cls._load(locate(name), revision, None, options)
            raise
        reasons = []
        for number, (place, place_revision) in enumerate(location.places):
            try:
                if number == 0:
                    tokenizer = cls._load(
                        place, place_revision, location.model_type, options, location.is_artefact, location.config
                    )
                else:
                    beside = {key: value for key, value in options.items() if key != "subfolder"}  # of the model alone
                    tokenizer = cls._load(place, place_revision, location.model_type, beside, needs_class=False)
            except (OSError, HFValidationError) as error:
                reasons.append(f"{place}: {in_one_line(error)}")
                continue
            family = get_family(location.model_type)
            found = family.leading_token(tokenizer.get_vocab())
            leading_token = location.config.get("leading_token") if location.is_artefact else found
            tokenizer.check_fits(location.vocab_size, family, leading_token)
            return tokenizer
        raise NoTokenizerError(f"no tokenizer was found ({'; '.join(reasons)}). Save the backbone's with the model.")

    @classmethod
    def _is_saved_alone(cls, name: str, **hub: Any) -> bool:
        """Return True for a folder or repository with a tokenizer of ours and no model."""
        try:
            found = (read_json_object(name, TOKENIZER_CONFIG, **hub) or {}).get("tokenizer_class")
            return found == cls.__name__ and read_json_object(name, CONFIG_NAME, **hub) is None
        except (OSError, HFValidationError):
            return False  # reported when the configuration is read

    @classmethod
    def _load(
        cls,
        place: str,
        revision: str | None,
        model_type: str | None,
        options: dict[str, Any],
        needs_class: bool = True,
        config: Mapping[str, Any] | None = None,
    ) -> ResidueTokenizer:
        """Check the tokenizer files of one folder or repository, and load them.

        Args:
            place: folder or Hub id.
            revision: of the repository.
            model_type: of the backbone, whose stock tokenizers may be there; None if only our own may.
            options: of transformers' `from_pretrained`.
            needs_class: the files must name their class; old checkpoints of backbones do not.
            config: the `config.json` there, if it has been read.
        """
        options = {**options, "revision": revision or "main"}
        hub = {key: options[key] for key in (*HUB_OPTIONS, "revision") if key in options}
        family = None if model_type is None else get_family(model_type)
        classes = () if family is None else family.tokenizer_classes
        class_name = check_tokenizer_files(place, classes, cls.__name__, config, **hub)
        if class_name is None and needs_class:
            raise OSError(f"no {TOKENIZER_CONFIG}")
        options |= options_for_other_versions(place, **hub)
        with _reading(place):
            if class_name == cls.__name__ or family is None:
                tokenizer = super().from_pretrained(place, **options)
            else:
                stock_class = tokenizer_class(class_name or [*classes, ANY_FAST][0])
                tokenizer = cls.from_stock(stock_class.from_pretrained(place, **options), family)
        tokenizer._drop_chat_template()
        return tokenizer

    def save_pretrained(self, save_directory: str | os.PathLike, *args: Any, include_code: bool = False, **kwargs: Any):
        """Write the tokenizer's files.

        Args:
            save_directory: folder, created if missing.
            args: of transformers' method.
            include_code: for a folder into which the model's source was copied (`save_pretrained` of the model with
                `include_code=True`): name this module's class there, for `trust_remote_code=True`.
            kwargs: of transformers' method.

        Raises:
            ValueError: with `include_code`, if the source is not in the folder.
        """
        if include_code and not (Path(save_directory) / "tokenization.py").is_file():
            raise ValueError(f"{save_directory} has no tokenization.py. Save the model there first, with include_code.")
        self._drop_chat_template()
        self._forget_last_call()
        written = super().save_pretrained(save_directory, *args, **kwargs)
        if include_code:
            path = Path(save_directory) / TOKENIZER_CONFIG
            content = json.loads(path.read_text("utf-8"))
            content["auto_map"] = {"AutoTokenizer": [None, f"tokenization.{type(self).__name__}"]}
            path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", "utf-8")
        return written

    def _drop_chat_template(self) -> None:
        """Remove chat templates: they are programs, and transformers uses their names as paths."""
        self.chat_template = None
        self.init_kwargs.pop("chat_template", None)

    def check_fits(self, vocab_size: int | None, family: BackboneFamily, leading_token: str | None = None) -> None:
        """Raise ValueError unless the tokens of a sequence are what a backbone expects.

        Args:
            vocab_size: number of its embeddings; None if it is not known.
            family: of the backbone, which says how many special tokens stand before and after the residues.
            leading_token: that the backbone expects besides, as the model's configuration has it.
        """
        _check_special_tokens(self.num_leading, self.num_trailing, family, leading_token)
        used = [*self._leading, *self._trailing, *self._tokens.tolist(), self.masked_residue_id, self.pad_token_id or 0]
        if vocab_size is not None and max(used) >= vocab_size:
            raise ValueError(
                f"the tokenizer has the token {max(used)}, but the backbone has {vocab_size} embeddings, 0 to "
                f"{vocab_size - 1}. Use the tokenizer that belongs to the backbone."
            )

    def _forget_last_call(self) -> None:
        """Drop the padding and truncation of the last call, which the backend would keep and save."""
        self.backend_tokenizer.no_padding()
        self.backend_tokenizer.no_truncation()

    # ---- as every tokenizer of transformers: all ways in lead here -----------------------------------------------

    if hasattr(PreTrainedTokenizerFast, "_batch_encode_plus"):  # transformers 4.57

        def _batch_encode_plus(self, batch_text_or_text_pairs: Any, *args: Any, **kwargs: Any) -> Any:
            sequences = self._cleaned(batch_text_or_text_pairs)
            return super()._batch_encode_plus(sequences, *args, **kwargs)  # type: ignore[misc]
    else:

        def _encode_plus(self, text: Any, text_pair: Any = None, *args: Any, **kwargs: Any) -> Any:
            text = text if text_pair is None else (text, text_pair)
            return super()._encode_plus(self._cleaned(text), None, *args, **kwargs)

    def _cleaned(self, text: Any) -> Any:
        """Clean a sequence, or a list of them (or of residues, with `is_split_into_words`)."""
        if isinstance(text, tuple):
            raise ValueError("a protein sequence has no pair. Give one sequence, or a list of them.")
        if isinstance(text, list):
            return [self._cleaned(part) for part in text]
        if not isinstance(text, str):
            raise TypeError(f"expected a sequence (str) or a list of them, found {type(text).__name__}.")
        if not text.strip():
            return ""  # its special tokens alone, as every tokenizer gives them
        codes = clean_sequence(text).codes.copy()
        codes[self._is_replaced[codes]] = ord(UNKNOWN_RESIDUE)
        return codes.tobytes().decode("ascii")

    # ---- the table -----------------------------------------------------------------------------------------------

    def encode_sequence(self, sequence: str | CleanSequence) -> np.ndarray:
        """Turn a sequence into tokens.

        Args:
            sequence: residues, length L.

        Returns:
            (num_leading + L + num_trailing,) int64.

        Raises:
            ResidueError: if a character is not a residue.
            ValueError: if the sequence is empty.
        """
        clean = clean_sequence(sequence) if isinstance(sequence, str) else sequence
        tokens = np.empty(self.num_leading + len(clean) + self.num_trailing, dtype=np.int64)
        tokens[: self.num_leading], tokens[len(tokens) - self.num_trailing :] = self._leading, self._trailing
        self._tokens.take(clean.codes, out=tokens[self.residue_slice()], mode="clip")  # not checked: codes are bytes
        return tokens

    def count_replaced(self, sequence: CleanSequence) -> int:
        """Return the number of residues that the backbone sees as X, other than X itself."""
        return int(np.count_nonzero(self._is_replaced[sequence.codes]))

    def encode_labels(self, states: str, alphabet: str | Alphabet = "q9") -> np.ndarray:
        """Place one label on each residue's token.

        Args:
            states: DSSP states, one letter per residue, length L.
            alphabet: the reduction in use, or its name.

        Returns:
            (num_leading + L + num_trailing,) int64; IGNORE_INDEX on special tokens and unresolved residues.

        Raises:
            UnknownStateError: if a letter is not a state.
        """
        labels = get_alphabet(alphabet).encode(states)
        return np.pad(labels, (self.num_leading, self.num_trailing), constant_values=IGNORE_INDEX)

    def encode_chain(
        self, sequence: str, states: str | None = None, alphabet: str | Alphabet = "q9", name: str = "chain"
    ) -> dict[str, np.ndarray]:
        """Turn a chain into tokens and labels, and check one against the other.

        Args:
            sequence: residues.
            states: DSSP states of the same length; None for a chain that is to be predicted.
            alphabet: the reduction in use, or its name.
            name: of the chain, for error messages.

        Returns:
            `input_ids` and, with states, `labels`, equally long.

        Raises:
            ValueError: if the lengths differ, or a letter is invalid; the message names the chain.

        Example:
            >>> chain = ResidueTokenizer.from_pretrained("bundled").encode_chain("MKT", "XHP", "q3")
            >>> chain["labels"].tolist()
            [-100, -100, 2, 0, -100]
        """
        try:
            chain = {"input_ids": self.encode_sequence(sequence)}
            if states is not None:
                chain["labels"] = self.encode_labels(states, alphabet)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        if states is not None and len(chain["labels"]) != len(chain["input_ids"]):
            num_residues = len(chain["input_ids"]) - self.num_leading - self.num_trailing
            raise ValueError(
                f"{name}: {counted(num_residues, 'residue')} but {counted(len(states), 'state')}. "
                "Mark unresolved residues X instead of dropping them."
            )
        return chain

    def encode_batch(
        self, batch: Mapping[str, Sequence[str]], alphabet: str | Alphabet = "q9"
    ) -> dict[str, list[np.ndarray]]:
        """Encode rows of a corpus: `corpus.map(tokenizer.encode_batch, batched=True)`.

        Args:
            batch: the columns `sequence` and, for labels, `states`; `id`, if there, names chains in errors.
            alphabet: of the labels, or its name; `fn_kwargs={"alphabet": "q3"}` of `map` sets it.

        Returns:
            the columns `input_ids`, `attention_mask` and, with states, `labels`.

        Raises:
            ValueError: if a chain is invalid; the message names it.
        """
        sequences = batch["sequence"]
        states: Sequence[str | None] = batch.get("states", [None] * len(sequences))
        names = batch.get("id", [f"row {number} of the batch" for number in range(1, len(sequences) + 1)])
        if None in states and set(states) != {None}:
            raise ValueError(f"{names[[*states].index(None)]}: no states, but other rows have them. Drop such rows.")
        chains = [
            self.encode_chain(sequence, letters, alphabet, str(name))
            for name, sequence, letters in zip(names, sequences, states, strict=True)
        ]
        columns = {key: [chain[key] for chain in chains] for key in (chains[0] if chains else ())}
        return columns | {"attention_mask": [np.ones_like(chain["input_ids"]) for chain in chains]}

    def residue_slice(self) -> slice:
        """Return where the residues are among a sequence's tokens: `logits[tokenizer.residue_slice()]`."""
        return slice(self.num_leading, -self.num_trailing or None)

    @property
    def masked_residue_id(self) -> int:
        """The token of a masked residue: the vocabulary's mask, or X if it has none (ProtT5)."""
        mask = self.mask_token_id
        return int(self._tokens[ord(UNKNOWN_RESIDUE)] if mask is None else mask)


@contextlib.contextmanager
def _reading(place: str) -> Iterator[None]:
    """Report in one line what goes wrong while tokenizer files are read.

    transformers does not check them, and the tokenizers library raises bare `Exception`.

    Raises:
        OSError: if a file is missing.
        ValueError: for all other errors.
    """
    try:
        yield
    except OSError:
        raise
    except ValueError as error:
        raise ValueError(in_one_line(error)) from error
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":  # of Rust
            raise
        raise ValueError(
            f"the tokenizer files of {place!r} are damaged: {in_one_line(error)}. Download or write them again."
        ) from error


def _check_special_tokens(
    num_leading: int, num_trailing: int, family: BackboneFamily, leading_token: str | None = None
) -> None:
    expected = family.num_leading + (leading_token is not None)
    if (num_leading, num_trailing) != (expected, family.num_trailing):
        backbone = f"backbone of type {family.model_type}"
        backbone += "" if leading_token is None else f" with {shortened(leading_token)}"
        raise ValueError(
            f"the tokenizer puts {num_leading + num_trailing} special tokens around a sequence, but a {backbone} has "
            f"{expected} before and {family.num_trailing} after the residues. Use the tokenizer that belongs to the "
            "backbone."
        )


def _residue_vocabulary(stock: PreTrainedTokenizerBase, replaced: str, around: Mapping[str, int]) -> dict[str, int]:
    """Return the stock vocabulary with one letter for each residue, without those that become X, and `around` them."""
    stock_vocabulary = stock.get_vocab()
    residues = STANDARD_RESIDUES + RARE_RESIDUES
    tokens = {
        residue: stock_vocabulary.get(WORD_START + residue, stock_vocabulary.get(residue)) for residue in residues
    }
    missing = [residue for residue in STANDARD_RESIDUES + UNKNOWN_RESIDUE if tokens[residue] is None]
    if missing:
        raise ValueError(
            f"the tokenizer has no token for {', '.join(missing)}: it is not a tokenizer of protein residues. "
            "Use the one that belongs to the backbone."
        )
    if max(stock_vocabulary.values()) >= MOST_TOKENS:
        raise ValueError(
            f"the tokenizer has more than {MOST_TOKENS:,} tokens. Use the one that belongs to the backbone."
        )
    vocabulary = {token: stock_vocabulary[token] for token in stock.all_special_tokens if token in stock_vocabulary}
    vocabulary |= {residue: token for residue, token in tokens.items() if token is not None and residue not in replaced}
    vocabulary |= around
    # Fill unused ids: tokenizers warns about gaps.
    unused = set(range(max(vocabulary.values()))) - set(vocabulary.values())
    return vocabulary | {f"<unused_{token}>": token for token in sorted(unused)}
