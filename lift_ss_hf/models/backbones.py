"""Backbones: how one architecture of protein language model is loaded, run and identified.

`BackboneFamily` is the base of the families (`esm.py`, `t5.py`, `bert.py`), which `families.py` lists. Blocks are run
one by one here rather than through the forward of transformers, so that frozen blocks below the lowest trained one cost
no gradient work and can be cached. A test checks that both ways give the same output.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import importlib.util
import logging
import os
from collections.abc import Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
import transformers
from huggingface_hub.errors import HFValidationError
from safetensors import SafetensorError
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.integrations import deepspeed as transformers_deepspeed
from transformers.utils import CONFIG_NAME
from transformers.utils import logging as transformers_logging

from .adapted_blocks import put_adapters
from .origins import read_origin
from .pickles import find_copy, find_pickles, refusal
from .rows import Row
from .safety import (
    building,
    check_checkpoint,
    check_config_content,
    check_config_values,
    check_weights,
    in_one_line,
    pickle_hint,
    read_json_object,
)
from .wording import did_you_mean_path

NamesInReport: type[set] | type[list]  # of `output_loading_info`
try:
    from transformers.initialization import no_init_weights

    NamesInReport = set
except ImportError:  # transformers 4.57
    from transformers.modeling_utils import no_init_weights  # type: ignore[attr-defined, no-redef]

    NamesInReport = list

BUNDLED = "bundled"  # name of the backbone, and of the model over it, that come with the package
FIRST_VERSIONS = {"esmc": "5.16"}  # of transformers, for families that 4.57 does not have
ATTENTION = ("eager", "sdpa")  # other implementations need another form of mask


class BackboneError(ValueError):
    """A backbone that cannot be found or loaded."""


class PickleError(BackboneError):
    """A backbone without weights as safetensors."""


class BackboneFamily:
    """How one architecture is loaded and run. Has no state; the backbone is always passed in.

    A new family is one file: a subclass of this class, of `SecondaryStructureConfig` and of `SecondaryStructureModel`,
    and a line in `families.py`. Most of the methods below suit any encoder that looks like BERT.

    Attributes:
        model_type: of the backbone's configuration in transformers.
        model_class: the encoder in transformers.
        build_options: further arguments of its constructor.
        block_class: name of a block's class, which FSDP and `device_map` must not split.
        num_leading, num_trailing: special tokens before and after the residues of a chain.
        leading_tokens: tokens of which a checkpoint expects one before the residues, after those of `num_leading`, if
            its vocabulary has it.
        tokenizer_classes: of transformers that checkpoints may name, besides `PreTrainedTokenizerFast`; without `Fast`.
            The first is used if a checkpoint names none.
        replaced_residues: residues that go to the backbone as X, whether its vocabulary has them or not.
        has_quadratic_attention: memory of the stock attention grows with the square of a chain's length.
        feed_forward: class of a block's feed-forward part to the names of its first linear map and its activation, for
            kernels that compute both at once.
        computed: ends of the names of buffers that follow from the configuration, so that no artefact needs them; where
            they are depends on the version of transformers.
        overflows_in_float16: it is computed in bfloat16 or float32 only, whatever its weights are stored in.
        with_adapters: the backbone's classes to those with places for adapters, see `adapted_blocks.py`.
        citation: of the backbones, for model cards.
    """

    model_type: str
    model_class: type[PreTrainedModel]
    build_options: ClassVar[dict[str, Any]] = {"add_pooling_layer": False}
    block_class: str = ""
    num_leading = 1
    num_trailing = 1
    leading_tokens: Sequence[str] = ()
    tokenizer_classes: Sequence[str] = ()
    replaced_residues = ""
    has_quadratic_attention = False
    feed_forward: ClassVar[Mapping[type[nn.Module], tuple[str, str]]] = {}
    computed: tuple[str, ...] = ()
    overflows_in_float16 = False
    with_adapters: ClassVar[Mapping[type, type]] = {}
    citation = ""

    # ---- building and loading ----------------------------------------------------------------------------------------

    def check(self, config: PretrainedConfig) -> None:
        """Raise ValueError unless the configuration is an encoder's."""
        if getattr(config, "is_decoder", False):
            raise ValueError(
                "the backbone's configuration has is_decoder: a decoder sees only one side of a residue. "
                "Use an encoder checkpoint."
            )
        if getattr(config, "pad_token_id", None) is None:
            raise ValueError(
                "the backbone's configuration has no pad_token_id. Use the original checkpoint's config.json."
            )
        if getattr(config, "token_dropout", False) and config.mask_token_id is None:
            raise ValueError(
                "the backbone's configuration has token_dropout, but no mask_token_id. Use the original checkpoint's "
                "config.json."
            )

    def build(self, config: PretrainedConfig, initialise: bool = True) -> PreTrainedModel:
        """Build a backbone with random weights, or with uninitialised ones that are about to be loaded."""
        self.check(config)
        if initialise:
            return self.trim(self.model_class(config, **self.build_options))
        with no_init_weights():
            backbone = self.model_class(config, **self.build_options)
        backbone.tie_weights()  # which transformers 5 leaves to the initialisation
        return self.trim(backbone)

    def load(
        self, name: str, dtype: torch.dtype | None = None, config: PretrainedConfig | None = None, **options: Any
    ) -> PreTrainedModel:
        """Load a backbone with the weights of a checkpoint.

        Args:
            name: Hub id or folder.
            dtype: of the weights in memory; None means fp32.
            config: instead of the checkpoint's own.
            options: of `from_pretrained` of transformers (revision, cache_dir, token, attn_implementation, ...).

        Raises:
            BackboneError: if the checkpoint cannot be found, is damaged, or lacks weights of the encoder.
            ValueError: if an option does not exist, or a file is not safe to read.
        """
        attention = options.get("attn_implementation")
        if attention not in (None, *ATTENTION):
            raise ValueError(f"unknown attn_implementation {attention!r}. Choose one of: {', '.join(ATTENTION)}.")
        self.check_precision(dtype)
        # Through fp32 to fp16, so that the fingerprint, taken in bf16, sees weights that were rounded once.
        loading_dtype = torch.float32 if dtype in (None, torch.float16) else dtype
        fixed = {"dtype": loading_dtype, "output_loading_info": True, "use_safetensors": True, **self.build_options}
        # other sizes are refused below, by name, which transformers 5 only logs
        fixed |= {"trust_remote_code": False, "ignore_mismatched_sizes": True}
        try:
            place, options["revision"], fixed["config"] = self._find_weights(name, config, options)
            with whole_weights(), quietly():
                loaded: Any = self.model_class.from_pretrained(place, **fixed, **options)
        except (OSError, HFValidationError) as error:
            message = f"cannot fetch the backbone {str(name)!r}: {in_one_line(error)}"
            if "safetensors" in str(error):
                raise PickleError(f"{message} {pickle_hint(name)}") from error
            raise BackboneError(message) from error
        except (SafetensorError, RuntimeError, TypeError) as error:
            raise BackboneError(
                f"the backbone {str(name)!r} is damaged: {in_one_line(error)}. Download its files again."
            ) from error
        backbone, report = loaded
        _check_report(report, name)
        self.restore_precision(backbone, always=True)
        check_weights(dict(backbone.named_parameters()), repr(str(name)))
        return self.trim(backbone)

    def _find_weights(
        self, name: str, config: PretrainedConfig | None, options: Mapping[str, Any]
    ) -> tuple[str, str | None, PretrainedConfig | None]:
        """Check a checkpoint, and return where its weights are as safetensors.

        Args:
            name: Hub id or folder.
            config: instead of the checkpoint's own.
            options: as of `load`.

        Returns:
            The Hub id or folder; its commit, or the revision as given if that is not known; and the configuration for
            the weights, None if it lies beside them. With a commit transformers never asks the Hub to convert pickles,
            for which it would send the user's token.

        Raises:
            PickleError: if there are pickles only, which nobody has converted.
            OSError: if there is no such checkpoint.
            ValueError: if a file is not safe to read.
        """
        where, config_class = locate(name), cast(Any, self.model_class.config_class)
        hub = {key: value for key, value in options.items() if key != "attn_implementation" and value is not None}
        commit, has_weights, _ = check_checkpoint(where, config_class, **hub)
        pickles = None if has_weights else find_pickles(where, commit, **hub)
        if pickles is None:  # where there are no weights at all, the loader says so
            return where, commit or hub.get("revision"), config
        found = find_copy(pickles, **hub)
        if found is None:
            raise PickleError(refusal(pickles, hub.get("revision")))
        place, revision = found
        check_checkpoint(place, config_class, **{**hub, "revision": revision})
        config = copy.deepcopy(config or read_backbone_config(where, **hub))
        config._commit_hash = revision  # where transformers 4.57 looks for the weights
        return place, revision, config

    def check_precision(self, dtype: torch.dtype | None) -> None:
        """Raise ValueError if the family cannot be computed in a dtype."""
        if dtype == torch.float16 and self.overflows_in_float16:
            raise ValueError(
                f"{self.model_type} backbones overflow in float16, even those stored in it. Use bfloat16, or float32."
            )

    def trim(self, backbone: Any) -> Any:
        """Remove, in place, weights that no hidden state depends on; unused weights make DDP fail."""
        if getattr(backbone, "pooler", None) is not None:
            backbone.pooler = None
        return backbone

    def restore_precision(self, backbone: Any, always: bool = False) -> None:
        """Compute again, in place, constants that casting to half precision has rounded.

        Args:
            backbone: the backbone.
            always: even if they are fp32 now, since they may come from a file in half precision.
        """

    def init_adapters(self, backbone: Any) -> None:
        """Make the backbone ready for adapters, in place.

        Raises:
            ValueError: if the family has no blocks with adapters.
        """
        if not self.with_adapters:
            raise ValueError(
                f"{type(self).__name__} has no blocks with adapters. Set `with_adapters`, or train with adapter=None."
            )
        put_adapters(backbone, self.with_adapters)

    # ---- structure ---------------------------------------------------------------------------------------------------

    def leading_token(self, vocabulary: Container[str]) -> str | None:
        """Return the token that a checkpoint with this vocabulary expects before the residues, if there is one.

        Example:
            >>> get_family("t5").leading_token(["A", "<AA2fold>"])
            '<AA2fold>'
        """
        return next((token for token in self.leading_tokens if token in vocabulary), None)

    def max_residues(self, config: PretrainedConfig) -> int | None:
        """Return the length of the longest chain that the positions cover [residues]; None means no limit."""
        return None

    def embeddings(self, backbone: Any) -> nn.Module:
        """Return the module below the first block."""
        return backbone.embeddings

    def blocks(self, backbone: Any) -> nn.ModuleList:
        """Return the transformer blocks, from the bottom."""
        return backbone.encoder.layer

    def attention(self, block: Any) -> nn.Module:
        """Return the self-attention of a block."""
        return block.attention.self

    def block_end(self, block: Any) -> Any:
        """Return the module at the end of a block in which a bottleneck acts on the block's output alone, or None."""
        return None

    def final_norm(self, backbone: Any) -> nn.Module | None:
        """Return the norm after the last block, if the architecture has one."""
        return None

    # ---- running -----------------------------------------------------------------------------------------------------

    def embed(self, backbone: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Embed (batch, tokens) to (batch, tokens, hidden), the input of the first block."""
        return backbone.embeddings(input_ids=input_ids)

    def attention_inputs(
        self, backbone: Any, attention_mask: torch.Tensor, prefix_length: int, prefix_shift: bool = False
    ) -> tuple[Any, ...]:
        """Compute, once for all blocks, what each block needs besides its input, as it takes them by position.

        Args:
            backbone: the backbone.
            attention_mask: (batch, tokens) int64, 1 = keep.
            prefix_length: keys that prefix tuning puts before those of the tokens.
            prefix_shift: count them in the distances between tokens.
        """
        dtype = backbone.dtype
        return ((1 - attention_mask[:, None, None].to(dtype)) * torch.finfo(dtype).min,)  # added to the scores

    def run_block(
        self,
        block: nn.Module,
        hidden: torch.Tensor,
        inputs: tuple[Any, ...],
        has_prefix: bool,
        **options: Any,
    ) -> torch.Tensor:
        """Run one block: (batch, tokens, hidden) to (batch, tokens, hidden); `options` go to the block."""
        output = block(hidden, *inputs, **options)
        return output[0] if isinstance(output, tuple) else output

    def run_block_with_attention(
        self, block: Any, hidden: torch.Tensor, inputs: tuple[Any, ...], has_prefix: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Run one block with eager attention, the only one that has weights to return.

        Returns:
            The block's output, (batch, tokens, hidden), and its attention, (batch, heads, tokens, keys).

        Raises:
            ValueError: if the block is computed again for its gradients, when attention is not eager any more.
        """
        attention, kept = self.attention(block), []
        config = getattr(attention, "config", None)  # stock blocks without one take output_attentions
        implementation = getattr(config, "_attn_implementation", None)
        if implementation not in (None, "eager") and block.gradient_checkpointing and block.training:
            raise ValueError(
                "output_attentions with gradient checkpointing needs eager attention. Load the model with "
                'attn_implementation="eager".'
            )
        if config is not None:
            config._attn_implementation = "eager"
        hook = attention.register_forward_hook(lambda module, args, output: kept.append(output[-1]))
        try:
            return self.run_block(block, hidden, inputs, has_prefix, output_attentions=True), kept[0]
        finally:
            hook.remove()
            if config is not None:
                config._attn_implementation = implementation

    def finish(self, backbone: Any, hidden: torch.Tensor) -> torch.Tensor:
        """Turn the last block's output, (batch, tokens, hidden), into the backbone's output."""
        norm = self.final_norm(backbone)
        return hidden if norm is None else norm(hidden)

    def make_row(self, backbone: Any, lengths: Sequence[int], shifted_prefix: int = 0) -> Row | None:
        """Return how blocks run on a row of chains; None if that is not supported.

        Args:
            backbone: the backbone.
            lengths: of the chains [tokens].
            shifted_prefix: length of a prefix that shifts the distances between tokens.
        """
        return None


def read_config_file(name: str | os.PathLike, **options: Any) -> dict[str, Any]:
    """Read the `config.json` of a model or a backbone, and check that it is safe to use.

    Args:
        name: Hub id or folder.
        options: revision, cache_dir, token, ...

    Raises:
        ValueError: if there is no such file, it has no model type, or it is not safe to use.
    """
    where = locate(name)
    try:
        # of a folder we know better what is missing
        content = read_json_object(where, CONFIG_NAME, must_exist=not Path(where).is_dir(), **options)
    except (OSError, HFValidationError) as error:
        raise ValueError(
            f"cannot read the configuration of {str(name)!r}: {in_one_line(error)}{did_you_mean_path(name)}"
        ) from error
    if content is None or not isinstance(content.get("model_type"), str):
        inside = Path(name) / "model"  # of a run's directory
        meant = repr(str(inside)) if (inside / "config.json").is_file() else "the folder or Hub id of a model"
        raise ValueError(f"{str(name)!r} has no config.json with a model_type. Give {meant}.")
    check_config_content(content, repr(str(name)))
    return content


def _check_report(report: Mapping[str, Any], name: str) -> None:
    """Raise BackboneError if weights of the encoder were missing in a checkpoint, or had another size."""
    # transformers 4.57 has names here, transformers 5 names with both sizes
    if mismatched := sorted(key if isinstance(key, str) else key[0] for key in report["mismatched_keys"]):
        raise BackboneError(
            f"the backbone {str(name)!r} is damaged: the size of {len(mismatched)} weights is not that of its "
            f"configuration, the first is {mismatched[0]}. Download its files again."
        )
    missing = sorted(key for key in report["missing_keys"] if not key.startswith("contact_head"))
    if missing:
        raise BackboneError(
            f"the checkpoint {name} lacks {len(missing)} weights of its encoder, the first is {missing[0]}. "
            "Use a complete checkpoint of an encoder."
        )


def model_classes() -> dict[str, type[Any]]:
    """Return the model class over each family of backbones, by the backbone's model type."""
    from .families import MODEL_CLASSES  # here, since the modules of the families import this one

    return MODEL_CLASSES


def check_version(model_type: str) -> None:
    """Raise ValueError for a family of backbones that the installed transformers does not have."""
    if model_type in FIRST_VERSIONS and model_type not in model_classes():
        raise ValueError(
            f"a backbone of model type {model_type!r} needs transformers {FIRST_VERSIONS[model_type]} or later, but "
            f"{transformers.__version__} is installed. Upgrade it: pip install -U transformers."
        )


def get_model_class(model_type: str) -> type[Any]:
    """Return the model class over backbones of a model type.

    Raises:
        ValueError: if there is no such family, or transformers is too old for it.
    """
    check_version(model_type)
    classes = model_classes()
    if model_type not in classes:
        raise ValueError(
            f"a backbone of model type {model_type!r} cannot be used here. "
            f"Choose an encoder of type: {', '.join(sorted(classes))}."
        )
    return classes[model_type]


def get_family(model_type: str) -> BackboneFamily:
    """Return the family of a backbone's model type.

    Raises:
        ValueError: if there is no such family.

    Example:
        >>> get_family("t5").num_leading, get_family("esm").num_leading
        (0, 1)
    """
    return get_model_class(model_type).family


def read_backbone_config(name_or_path: str | os.PathLike, **options: Any) -> PretrainedConfig:
    """Read the configuration of a checkpoint that can be a backbone.

    Raises:
        ValueError: if there is no such checkpoint, or it is not an encoder of a known family.
    """
    content = read_config_file(name_or_path, **options)
    family = get_family(content["model_type"])
    where = repr(str(name_or_path))
    config_class: Any = family.model_class.config_class
    check_config_values(content, config_class, where)
    with building(where):
        config = config_class.from_dict(content)
    config._commit_hash = content["_commit_hash"]  # which transformers 5 leaves out
    for name in ("hidden_size", "num_hidden_layers", "vocab_size"):
        value = getattr(config, name, None)
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"the config.json of {where} has {name} {value!r}. Expected a whole number.")
    family.check(config)
    return config


@contextlib.contextmanager
def whole_weights() -> Iterator[None]:
    """Load weights whole also under DeepSpeed ZeRO-3, where transformers would split them among the processes.

    Fingerprints are of whole weights, and adapters 1.3.0 builds on them; DeepSpeed splits them before training.
    """
    zero3 = transformers_deepspeed._hf_deepspeed_config_weak_ref
    transformers_deepspeed._hf_deepspeed_config_weak_ref = None
    try:
        yield
    finally:
        transformers_deepspeed._hf_deepspeed_config_weak_ref = zero3


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Load or save weights without the bars that transformers 5 shows for them; downloads keep theirs.

    transformers' public switch would turn off both. The report of weights that a checkpoint has or lacks is left out
    too, in both versions: what is missing is an error here, and a checkpoint's head for masked residues is no surprise.
    """
    reporter, shows_bars = logging.getLogger(PreTrainedModel.__module__), transformers_logging._tqdm_active
    transformers_logging._tqdm_active = False
    reporter.addFilter(_is_error)
    try:
        yield
    finally:
        transformers_logging._tqdm_active = shows_bars
        reporter.removeFilter(_is_error)


def _is_error(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR


def fingerprint(backbone: Any) -> str:
    """Identify a backbone by its weights.

    SHA-256 over names, shapes and values of all parameters, sorted by name, with values rounded to bfloat16. So it does
    not depend on the dtype in which the weights are stored or loaded (fp32, bf16, or fp16 loaded through fp32), on the
    file layout or on buffers, and any training changes it. Take it before adapters are added. About a second for 1 GB
    of bf16 weights.
    """
    digest = hashlib.sha256()
    for name, parameter in sorted(backbone.named_parameters()):
        digest.update(f"{name} {tuple(parameter.shape)}\n".encode())
        values = parameter.detach().to("cpu", torch.bfloat16).contiguous()
        digest.update(values.view(torch.int16).numpy().data)
    return f"sha256-bf16:{digest.hexdigest()}"


def locate(name: str | os.PathLike, what: str = "backbone") -> str:
    """Return where a backbone's or model's files are: for `bundled` the folder in the package, else the name itself.

    Args:
        name: Hub id or folder, or `bundled`.
        what: `backbone`, or `predictor` for the model trained over it.

    Raises:
        ValueError: if the package is not installed, which can be so where a model runs its own code.
    """
    if name != BUNDLED:
        return os.fspath(name)
    spec = importlib.util.find_spec("lift_ss_hf")
    if spec is None or spec.origin is None:
        raise ValueError(f"the {what} {BUNDLED!r} comes with the package lift_ss_hf. Install it, or name another.")
    return str(Path(spec.origin).with_name("assets") / what)


def portable_name(name: str | os.PathLike) -> tuple[str, str | None]:
    """Return the Hub id and commit of a folder in the Hub's cache, or of one that `lift-ss convert-backbone -o` wrote.

    Any other name is recorded as it was given: pass a relative folder to move model and backbone together.
    """
    if name == BUNDLED:
        return BUNDLED, None
    parts = Path(name).parts
    if len(parts) >= 3 and parts[-2] == "snapshots" and parts[-3].startswith("models--"):
        return parts[-3].removeprefix("models--").replace("--", "/"), parts[-1]
    return read_origin(name) or (os.fspath(name), None)
