"""Per-residue state predictors over a frozen protein language model: one class for each family of backbones.

    model = EsmForSecondaryStructure.from_backbone("facebook/esm2_t6_8M_UR50D", adapter="bottleneck", top_blocks=2)
    output = model(input_ids, attention_mask, labels=labels)   # loss, logits (batch, tokens, states) fp32
    model.save_pretrained("my_model")                          # what was trained, and the configuration
    model = EsmForSecondaryStructure.from_pretrained("my_model")
    model = EsmForSecondaryStructure.from_pretrained("my_model", backbone="where/the/backbone/is/now")

`SecondaryStructureModel.from_backbone` and `.from_pretrained` find the class of the family by themselves.

A model is a backbone and a head, and both can be used apart: `model.hidden_states(input_ids, attention_mask)` gives
(batch, tokens, hidden), `model.head(hidden, residue_mask)` gives logits, similarities and embeddings;
`model.residue_mask(attention_mask)` tells residues from special tokens and padding. The hidden states come in two
steps: `model.frozen_prefix(...)`, all that no training changes, then `model.trained_blocks(...)`.

Frozen blocks below the lowest trained one run in evaluation mode (no dropout) and without gradients, also while the
model trains: nothing below is learned, and their output can be kept.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from adapters.context import ForwardContext
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_outputs import TokenClassifierOutput

from .adapter_methods import ADAPTERS, add_adapter, merge_adapter, prefix_length
from .artefact import check_fingerprint, copy_code, fetch_backbone, read_weights, write_artefact
from .backbones import (
    BackboneFamily,
    fingerprint,
    get_family,
    portable_name,
    read_backbone_config,
    restore_rotary_precision,
)
from .configuration import (
    BertSecondaryStructureConfig,
    EsmSecondaryStructureConfig,
    SecondaryStructureConfig,
    T5SecondaryStructureConfig,
)
from .heads import StateHead
from .losses import margins, residue_loss
from .sequences import plan_windows

HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "proxies", "subfolder", "token")
LEFT_OUT = 2 / 3  # fraction of the blocks, the lower ones, without an adapter: LIFT_SS leaves out 16 of 24


@dataclass
class SecondaryStructureOutput(TokenClassifierOutput):
    """What forward returns; the last three only where asked for.

    Attributes:
        loss: () mean over labelled residues; None without labels.
        logits: (batch, tokens, states) fp32; their softmax is the probabilities before calibration.
        similarities: (batch, tokens, states) cosines with the centroids, which ensembles average.
        embeddings: (batch, tokens, size) what the classifier saw.
        last_hidden_state: (batch, tokens, hidden) of the backbone.
    """

    similarities: torch.Tensor | None = None
    embeddings: torch.Tensor | None = None
    last_hidden_state: torch.Tensor | None = None


class BlockMix(nn.Module):
    """A learned weighted mean of the embeddings and the outputs of all blocks (Peters et al. 2018, ELMo)."""

    def __init__(self, num_outputs: int):
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(num_outputs))
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, outputs: list[torch.Tensor]) -> torch.Tensor:
        """num_outputs x (batch, tokens, hidden) to (batch, tokens, hidden)."""
        shares = self.weights.softmax(0)
        return self.scale * torch.stack([share * out for share, out in zip(shares, outputs, strict=True)]).sum(0)


class SecondaryStructureModel(PreTrainedModel):
    """A backbone, an adapter in some of its blocks, and a head. Use the class of the backbone's family.

    Args:
        config: everything but the weights.
        backbone: the pretrained encoder, without adapters; None builds one with random weights.
    """

    config_class = SecondaryStructureConfig
    base_model_prefix = "backbone"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = True  # Trainer passes num_items_in_batch
    _supports_sdpa = True
    _supports_flash_attn = True
    _no_split_modules: ClassVar[list[str]] = ["EsmLayer", "BertLayer", "T5Block"]

    def __init__(self, config: SecondaryStructureConfig, backbone: PreTrainedModel | None = None):
        super().__init__(config)
        self.family: BackboneFamily = get_family(config.backbone_config.model_type)
        self.backbone = self.family.build(config.backbone_config) if backbone is None else backbone
        own_names = set(self.backbone.state_dict())
        if config.adapter is not None:
            self.family.init_adapters(self.backbone)
            add_adapter(self.backbone, config.adapter, config.adapter_options, config.leave_out, config.num_blocks)
        self.block_mix = BlockMix(config.num_blocks + 1) if config.block_mix else None
        self.head = StateHead(config)
        margin = margins(config.class_counts) if config.class_counts and config.loss == "ldam" else None
        self.register_buffer("margin", margin, persistent=False)
        self._prefix_length = prefix_length(config.adapter, config.adapter_options)
        self._freeze(own_names)
        self.post_init()
        self.eval()

    # ---- building, saving, loading ---------------------------------------------------------------------------------

    @classmethod
    def from_backbone(
        cls,
        name_or_path: str | os.PathLike,
        adapter: str | None = "bottleneck",
        head: str = "lift_ss",
        loss: str = "centroid",
        states: str = "q9",
        leave_out: Sequence[int] | None = None,
        top_blocks: int | None = None,
        freeze: str | int | None = "all",
        revision: str | None = None,
        dtype: torch.dtype | str | None = None,
        attn_implementation: str | None = None,
        **options: Any,
    ) -> SecondaryStructureModel:
        """Put a new adapter and a new head on a pretrained backbone.

        The three regimes: adapter and head (the default), feature extraction (`adapter=None`), full fine-tuning
        (`adapter=None, freeze=None`, or `freeze=n` to leave the lowest n blocks as they are).

        Args:
            name_or_path: Hub id or folder of the backbone. A folder is recorded as given.
            adapter: a name of `adapter_methods.ADAPTERS`, or None.
            head: `lift_ss` or `linear`.
            loss: `centroid`, `ldam` or `cross_entropy`.
            states: a name of `states.ALPHABETS`.
            leave_out: numbers of the blocks without an adapter; by default the lower two thirds, as in LIFT_SS.
            top_blocks: instead of `leave_out`: how many blocks, from the top, get an adapter.
            freeze: `all`, None, or the number of lowest blocks to freeze.
            revision: of the backbone on the Hub.
            dtype: of the frozen weights in memory, fp32 by default; what is trained is fp32 in any case.
            attn_implementation: `sdpa`, `eager`, ...
            options: other arguments of `SecondaryStructureConfig` (head_channels, class_counts, max_residues, ...),
                and where to fetch from: cache_dir, force_download, local_files_only, proxies, subfolder, token.

        Raises:
            ValueError: for a backbone that is no encoder of the class's family, and what cannot be built on it.
            TypeError: for an option that does not exist.
        """
        hub = {key: options.pop(key) for key in HUB_OPTIONS if key in options} | {"revision": revision}
        backbone_config = read_backbone_config(name_or_path, **hub)
        model_class = cls._of_family(backbone_config.model_type)
        name, commit = portable_name(name_or_path)
        config = model_class.config_class(
            backbone_config=backbone_config,
            backbone_name=name,
            backbone_revision=commit or getattr(backbone_config, "_commit_hash", None) or revision,
            adapter=adapter,
            head=head,
            loss=loss,
            states=states,
            leave_out=_left_out(adapter, leave_out, top_blocks, backbone_config.num_hidden_layers),
            freeze=freeze,
            **_config_options(options),
        )
        dtype = _as_dtype(dtype)
        backbone = get_family(backbone_config.model_type).load(
            os.fspath(name_or_path), dtype=dtype, attn_implementation=attn_implementation, **hub
        )
        config.backbone_config, config.backbone_fingerprint = backbone.config, fingerprint(backbone)
        return model_class(config, backbone)._set_precision(dtype)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike,
        *args: Any,
        backbone: str | os.PathLike | PreTrainedModel | None = None,
        config: SecondaryStructureConfig | None = None,
        revision: str | None = None,
        dtype: torch.dtype | str | None = None,
        attn_implementation: str | None = None,
        **options: Any,
    ) -> SecondaryStructureModel:
        """Load what `save_pretrained` wrote, and the backbone it belongs to. Returns it in evaluation mode.

        Args:
            pretrained_model_name_or_path: Hub id or folder of the artefact.
            args: unused; the Auto classes may pass some.
            backbone: where the backbone is now, if not where the configuration says; or the backbone itself, without
                adapters, which the model takes over. Either must be the one the model was trained on.
            config: instead of the artefact's own.
            revision: of the artefact on the Hub.
            dtype: of the frozen weights in memory, fp32 by default; what was trained is fp32 in any case.
            attn_implementation: `sdpa`, `eager`, ...
            options: cache_dir, force_download, local_files_only, proxies, subfolder, token.

        Raises:
            ValueError: if a file is missing or damaged, or the backbone is not the one the model was trained on.
        """
        dtype = _as_dtype(options.pop("torch_dtype", None) or dtype)  # the older name, which Auto classes pass on
        hub = {key: options[key] for key in HUB_OPTIONS if options.get(key) is not None}
        name = pretrained_model_name_or_path
        if config is None:
            config = cls._read_config(name, revision=revision, **hub)
        model_class = cls._of_family(config.backbone_config.model_type)
        weights = read_weights(name, revision=revision, **hub)
        if config.includes_backbone:
            base = get_family(config.backbone_config.model_type).build(
                _with_attention(config.backbone_config, attn_implementation), initialise=False
            )
        else:
            hub.pop("subfolder", None)  # of the artefact
            base = (
                backbone
                if isinstance(backbone, PreTrainedModel)
                else fetch_backbone(config, name, backbone, dtype=dtype, attn_implementation=attn_implementation, **hub)
            )
            check_fingerprint(base, config, backbone if isinstance(backbone, str) else config.backbone_name)
        return model_class(config, base)._load_artefact(weights, name)._set_precision(dtype)

    @classmethod
    def _read_config(cls, name: str | os.PathLike, **hub: Any) -> SecondaryStructureConfig:
        """The configuration of an artefact, in the class of its family."""
        content, _ = SecondaryStructureConfig.get_config_dict(name, **hub)
        for model_class in MODELS.values():
            if model_class.config_class.model_type == content.get("model_type"):
                return model_class.config_class.from_dict(content)
        known = ", ".join(sorted(model.config_class.model_type for model in MODELS.values()))
        raise ValueError(
            f"{name} holds a model of type {content.get('model_type')!r}. Expected what save_pretrained wrote here: "
            f"one of {known}. To start from a backbone use from_backbone."
        )

    @classmethod
    def _of_family(cls, model_type: str) -> type[SecondaryStructureModel]:
        """The class for a backbone's family: this one, or from the base class the one that fits."""
        get_family(model_type)
        model_class = MODELS[model_type]
        if not issubclass(model_class, cls) and not issubclass(cls, model_class):
            raise ValueError(f"the backbone is of type {model_type!r}: use {model_class.__name__}, not {cls.__name__}.")
        return cls if issubclass(cls, model_class) else model_class

    def _load_artefact(self, weights: Mapping[str, torch.Tensor], name: str | os.PathLike) -> SecondaryStructureModel:
        """Take over saved weights; every one must be there."""
        needed = self._artefact_names(self.config.includes_backbone)
        for problem, names in (("lacks", needed - set(weights)), ("does not know", set(weights) - needed)):
            if names:
                subject = "the file" if problem == "lacks" else "the configuration"
                raise ValueError(
                    f"the weights in {name} do not fit its configuration: {subject} {problem} {len(names)} weights, "
                    f"the first is {min(names)}. Fetch or write both files again."
                )
        try:
            self.load_state_dict(weights)
        except RuntimeError as error:
            raise ValueError(f"the weights in {name} do not fit its configuration: {error}") from error
        return self

    def _artefact_names(self, includes_backbone: bool) -> set[str]:
        """Names of the weights that a saved artefact has: what is trained, or all, each once."""
        return set(self.state_dict()) - (self.second_names if includes_backbone else self.frozen_names)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load weights. The backbone's frozen ones may be absent, as they are in checkpoints of Trainer."""
        result = super().load_state_dict(state_dict, strict=False, assign=assign)
        optional = self.frozen_names | self.second_names
        result.missing_keys[:] = [key for key in result.missing_keys if key not in optional]
        if strict and (result.missing_keys or result.unexpected_keys):
            raise RuntimeError(f"missing weights: {result.missing_keys}; unexpected weights: {result.unexpected_keys}")
        return result

    def merge_adapter(self) -> SecondaryStructureModel:
        """Merge a LoRA or IA3 adapter into the backbone's weights, in place; it runs as fast as without.

        From here on the model is saved with its backbone, and is not trained further.

        Raises:
            ValueError: for an adapter that is not a change of weights.
        """
        mergeable = sorted(name for name, method in ADAPTERS.items() if method.mergeable)
        if self.config.adapter not in mergeable:
            raise ValueError(f"adapter {self.config.adapter!r} cannot be merged. Only {', '.join(mergeable)} can.")
        merge_adapter(self.backbone)
        config = self.config
        config.adapter, config.adapter_options, config.leave_out = None, {}, []
        config.includes_backbone = True
        config.backbone_name = config.backbone_revision = config.backbone_fingerprint = None
        self._freeze({name.removeprefix(f"{self.base_model_prefix}.") for name in self.backbone_names})
        return self.eval()

    def _set_precision(self, dtype: torch.dtype | None) -> SecondaryStructureModel:
        """Hold what is frozen in `dtype`, and what is trained in fp32."""
        for name, parameter in self.named_parameters():
            is_frozen = name in self.frozen_names and parameter.is_floating_point()
            parameter.data = parameter.data.to((dtype or torch.float32) if is_frozen else torch.float32)
        return self

    def save_pretrained(
        self,
        save_directory: str | os.PathLike,
        is_main_process: bool = True,
        state_dict: Mapping[str, torch.Tensor] | None = None,
        push_to_hub: bool = False,
        include_backbone: bool | None = None,
        include_code: bool | None = None,
        **kwargs: Any,
    ) -> None:
        """Write `config.json` and `model.safetensors`: what was trained, not the backbone.

        Args:
            save_directory: folder, made where absent. Files are replaced whole.
            is_main_process: write only if True.
            state_dict: the weights, where they are not in the model (Trainer with DeepSpeed or FSDP passes them).
            push_to_hub: also upload to the Hub.
            include_backbone: write the backbone's weights too, for a copy that stands alone; None: if it was loaded
                from such a copy, or an adapter was merged.
            include_code: copy the source too, for `trust_remote_code=True` where the package is not installed; None:
                if this model's own source came that way.
            kwargs: others of transformers' method, which do not matter here; `repo_id` and the like for the Hub.

        Raises:
            ValueError: if `safe_serialization=False`, or the folder is a file.
        """
        if not kwargs.pop("safe_serialization", True):
            raise ValueError("weights are written as safetensors only. Leave out safe_serialization=False.")
        folder = Path(save_directory)
        if folder.is_file():
            raise ValueError(f"{folder} is a file. Give a folder to save_pretrained.")
        if push_to_hub:
            repository = kwargs.get("repo_id", folder.name)
            self.push_to_hub(repository, include_backbone=include_backbone, include_code=include_code)
        if not is_main_process:
            return
        config = copy.deepcopy(self.config)
        config.includes_backbone = config.includes_backbone if include_backbone is None else include_backbone
        if config.backbone_name is None and not config.includes_backbone:
            raise ValueError(
                "this model's backbone is in no checkpoint: it was merged with an adapter, or built with random "
                "weights. Save with include_backbone=True."
            )
        config.architectures = [type(self).__name__]
        folder.mkdir(parents=True, exist_ok=True)
        came_as_code = type(self).__module__.startswith("transformers_modules.")
        if came_as_code if include_code is None else include_code:
            config.auto_map = copy_code(folder, self)
        elif hasattr(config, "auto_map"):
            del config.auto_map
        names = self._artefact_names(config.includes_backbone)
        state = self.state_dict() if state_dict is None else state_dict
        write_artefact(folder, config, {name: state[name] for name in sorted(names)})

    # ---- which parameters are trained ------------------------------------------------------------------------------

    @property
    def lowest_trained_block(self) -> int:
        """Number of the lowest block that training changes; the number of blocks if it changes none."""
        config = self.config
        if config.adapter is not None:
            return min(set(range(config.num_blocks)) - set(config.leave_out))
        return config.num_blocks if config.freeze == "all" else config.freeze or 0

    @property
    def _trains_embeddings(self) -> bool:
        return self.config.adapter is None and self.config.freeze in (None, 0)

    def _freeze(self, own_names: set[str]) -> None:
        """Set requires_grad, and remember which weights are the backbone's own and stay out of the artefact."""
        canonical = dict(self.backbone.named_parameters())
        blocks = list(self.family.blocks(self.backbone))
        frozen_modules = [*blocks[: self.lowest_trained_block]]
        if not self._trains_embeddings:
            frozen_modules.append(self.family.embeddings(self.backbone))
        frozen_ids = {id(p) for module in frozen_modules for p in module.parameters()}
        is_backbone_frozen = self.config.freeze == "all"
        frozen = set()
        for name in own_names:
            parameter = canonical.get(name)  # None for buffers, and for second names of tied weights
            if parameter is None or is_backbone_frozen or id(parameter) in frozen_ids:
                frozen.add(f"{self.base_model_prefix}.{name}")
        for name, parameter in canonical.items():
            parameter.requires_grad_(f"{self.base_model_prefix}.{name}" not in frozen)
        parameters_and_buffers = {**canonical, **dict(self.backbone.named_buffers())}
        self.second_names = frozenset(
            f"{self.base_model_prefix}.{name}" for name in own_names if name not in parameters_and_buffers
        )
        self.backbone_names = frozenset(f"{self.base_model_prefix}.{name}" for name in own_names)
        self.frozen_names = frozenset(frozen)

    def train(self, mode: bool = True) -> SecondaryStructureModel:
        """Switch dropout on or off; what lies below the lowest trained block stays in evaluation mode."""
        super().train(mode)
        if self.lowest_trained_block == self.config.num_blocks:
            self.backbone.eval()
            return self
        if not self._trains_embeddings:
            self.family.embeddings(self.backbone).eval()
        for block in self.family.blocks(self.backbone)[: self.lowest_trained_block]:
            block.eval()
        return self

    # ---- what transformers asks of a model -------------------------------------------------------------------------

    def init_weights(self) -> None:
        """Nothing: backbone, adapters and head have set their own, and the backbone's are pretrained."""

    def _apply(self, fn: Any, recurse: bool = True) -> SecondaryStructureModel:
        super()._apply(fn, recurse)
        restore_rotary_precision(self.backbone)
        return self

    def get_input_embeddings(self) -> nn.Module:
        """The token embeddings of the backbone."""
        return self.backbone.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the token embeddings of the backbone."""
        self.backbone.set_input_embeddings(value)

    def gradient_checkpointing_enable(self, gradient_checkpointing_kwargs: Mapping[str, Any] | None = None) -> None:
        """Recompute trained blocks in the backward pass instead of keeping their activations.

        Raises:
            ValueError: for `use_reentrant=True`, in which adapters cannot see the pass they belong to.
        """
        options = {"use_reentrant": False, **(gradient_checkpointing_kwargs or {})}
        if options["use_reentrant"]:
            raise ValueError("use_reentrant=True does not work with adapters. Leave it out, or set it to False.")

        def run(function: Any, *args: Any) -> Any:
            context = ForwardContext.get_context() or contextlib.nullcontext()
            return checkpoint(function, *args, context_fn=lambda: (contextlib.nullcontext(), context), **options)

        self._set_gradient_checkpointing(enable=True, gradient_checkpointing_func=run)

    # ---- backbone --------------------------------------------------------------------------------------------------

    def residue_mask(self, attention_mask: torch.Tensor) -> torch.Tensor:
        """Tell residues from special tokens and padding.

        Args:
            attention_mask: (batch, tokens), 1 = keep; padding on either side.

        Returns:
            (batch, tokens) bool, True where a token stands for a residue.
        """
        place = attention_mask.cumsum(1)  # 1 at a row's first token
        last = place[:, -1:] - self.family.num_trailing
        return (attention_mask > 0) & (place > self.family.num_leading) & (place <= last)

    @property
    def max_residues(self) -> int | None:
        """Longest chain that is run whole [residues]; None means any."""
        limits = (self.config.max_residues, self.family.max_residues(self.config.backbone_config))
        return min((limit for limit in limits if limit is not None), default=None)

    def hidden_states(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """Run the backbone; chains that are too long in overlapping windows, stitched together again.

        Each residue's state is taken from the window it is farthest inside of.

        Args:
            input_ids: (batch, tokens) int64, special tokens included.
            attention_mask: (batch, tokens) int64, 1 = keep; None takes padding from the tokens.

        Returns:
            (batch, tokens, hidden)
        """
        attention_mask = self._attention_mask(input_ids, attention_mask)
        num_specials = self.family.num_leading + self.family.num_trailing
        if self.max_residues is None or input_ids.shape[1] - num_specials <= self.max_residues:
            return self.trained_blocks(self.frozen_prefix(input_ids, attention_mask), attention_mask)
        token_index, window_mask, row, column = self._windows(attention_mask)
        if len(token_index) == len(input_ids) and token_index.shape[1] >= input_ids.shape[1]:
            return self.trained_blocks(self.frozen_prefix(input_ids, attention_mask), attention_mask)
        window_ids = input_ids.flatten()[token_index]  # (windows, window tokens)
        hidden = self.trained_blocks(self.frozen_prefix(window_ids, window_mask), window_mask)
        return hidden[row, column]  # (batch, tokens, hidden)

    def _windows(self, attention_mask: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Where each window's tokens come from, and where each token's hidden state is found.

        Returns:
            (windows, window tokens) indices into the flattened batch, the windows' attention mask, and for each
            token of the batch the row and the column of its hidden state, (batch, tokens) each.
        """
        leading, trailing = self.family.num_leading, self.family.num_trailing
        batch, tokens = attention_mask.shape
        first = attention_mask.argmax(1).tolist()
        lengths = attention_mask.sum(1).tolist()
        row = torch.zeros(batch, tokens, dtype=torch.long)
        column = torch.zeros(batch, tokens, dtype=torch.long)
        sources: list[torch.Tensor] = []
        for chain in range(batch):
            residues = lengths[chain] - leading - trailing
            start = chain * tokens + first[chain]  # of the chain, in the flattened batch
            for window in plan_windows(residues, self.max_residues, self.config.window_overlap):
                inside = torch.arange(leading + window.start, leading + window.stop)
                ends = torch.arange(leading + residues, lengths[chain])
                sources.append(start + torch.cat([torch.arange(leading), inside, ends]))
                # the chain's own special tokens are kept from its first and its last window
                low = 0 if window.start == 0 else leading + window.keep_start
                high = lengths[chain] if window.stop == residues else leading + window.keep_stop
                kept = slice(first[chain] + low, first[chain] + high)
                row[chain, kept] = len(sources) - 1
                column[chain, kept] = torch.arange(low, high) - window.start
        width = max(len(source) for source in sources)
        index = torch.zeros(len(sources), width, dtype=torch.long)
        mask = torch.zeros(len(sources), width, dtype=attention_mask.dtype)
        for number, source in enumerate(sources):
            index[number, : len(source)] = source
            mask[number, : len(source)] = 1
        device = attention_mask.device
        return index.to(device), mask.to(device), row.to(device), column.to(device)

    def frozen_prefix(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> list[torch.Tensor]:
        """Run all that no training changes: embeddings and blocks below the lowest trained one.

        Without gradients, and without dropout while the model trains. Does not window.

        Args:
            input_ids: (batch, tokens) int64.
            attention_mask: (batch, tokens) int64, 1 = keep.

        Returns:
            The (batch, tokens, hidden) that goes into the lowest trained block; with a block mix also all before it.
        """
        trains = torch.is_grad_enabled() and self._trains_embeddings
        with self._precision(), torch.set_grad_enabled(trains):
            hidden = self.family.embed(self.backbone, input_ids, attention_mask)
            return self._run_blocks([hidden], attention_mask, 0, self.lowest_trained_block)

    def trained_blocks(self, prefix: list[torch.Tensor], attention_mask: torch.Tensor) -> torch.Tensor:
        """Run the blocks from the lowest trained one on, and the backbone's last norm.

        Args:
            prefix: what `frozen_prefix` returned.
            attention_mask: (batch, tokens) int64, 1 = keep.

        Returns:
            (batch, tokens, hidden), of the last block or mixed of all.
        """
        num_blocks = self.config.num_blocks
        trains = (torch.is_grad_enabled() and self.config.freeze != "all") or self.config.adapter is not None
        with self._precision(), self._adapter_context(prefix[-1], attention_mask):
            with torch.set_grad_enabled(torch.is_grad_enabled() and trains):
                outputs = self._run_blocks(prefix, attention_mask, self.lowest_trained_block, num_blocks)
                outputs[-1] = self.family.finish(self.backbone, outputs[-1])
            return outputs[-1] if self.block_mix is None else self.block_mix(outputs)

    def _run_blocks(
        self, outputs: list[torch.Tensor], attention_mask: torch.Tensor, start: int, stop: int
    ) -> list[torch.Tensor]:
        """Run blocks `start` to `stop` on the last of `outputs`; all outputs with a block mix, or else the last."""
        blocks = self.family.blocks(self.backbone)
        inputs = (
            self.family.attention_inputs(self.backbone, attention_mask, self._prefix_length) if stop > start else ()
        )
        outputs = list(outputs)
        for number in range(start, stop):
            has_prefix = self._prefix_length > 0 and number not in self.config.leave_out
            hidden = self.family.run_block(blocks[number], outputs[-1], inputs, has_prefix)
            outputs = [*outputs, hidden] if self.block_mix is not None else [hidden]
        return outputs

    def _adapter_context(self, hidden: torch.Tensor, attention_mask: torch.Tensor) -> contextlib.AbstractContextManager:
        """What the adapters library keeps for one pass: prefixes, shared weights, and our mask for its gates."""
        if self.config.adapter is None:
            return contextlib.nullcontext()
        context = ForwardContext(self.backbone, inputs_embeds=hidden, attention_mask=attention_mask)
        context.token_mask = attention_mask
        return context

    def _precision(self) -> contextlib.AbstractContextManager:
        """Autocast where the backbone is held in half precision: what is trained stays in fp32."""
        dtype = self.get_input_embeddings().weight.dtype
        device = self.get_input_embeddings().weight.device.type
        if dtype == torch.float32 or torch.is_autocast_enabled(device):
            return contextlib.nullcontext()
        return torch.autocast(device, dtype=dtype)

    def _attention_mask(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        if attention_mask is None:
            attention_mask = input_ids != self.config.backbone_config.pad_token_id
        return attention_mask.long()  # adapters takes the argmax, which booleans do not have

    # ---- the whole -------------------------------------------------------------------------------------------------

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        residue_mask: torch.Tensor | None = None,
        prefix: list[torch.Tensor] | None = None,
        return_similarities: bool = False,
        return_embeddings: bool = False,
        output_hidden_states: bool = False,
        return_dict: bool | None = None,
    ) -> SecondaryStructureOutput | tuple:
        """Predict the states of a batch of chains.

        Args:
            input_ids: (batch, tokens) int64, special tokens included.
            attention_mask: (batch, tokens), 1 = keep; None takes padding from the tokens.
            labels: (batch, tokens) int64; -100 on special tokens, padding and unresolved residues.
            num_items_in_batch: labelled residues of the accumulated batch; Trainer passes it.
            residue_mask: (batch, tokens) bool; None derives it from the attention mask.
            prefix: what `frozen_prefix` returned for these tokens; they need not be given then.
            return_similarities: also return the cosines with the centroids.
            return_embeddings: also return what the classifier saw.
            output_hidden_states: also return the backbone's output, as `last_hidden_state`.
            return_dict: False returns a tuple.

        Raises:
            ValueError: if neither tokens nor a prefix are given, or a prefix without its mask.
        """
        if prefix is not None and attention_mask is not None:
            attention_mask = attention_mask.long()
            hidden = self.trained_blocks(prefix, attention_mask)
        elif input_ids is not None:
            attention_mask = self._attention_mask(input_ids, attention_mask)
            hidden = self.hidden_states(input_ids, attention_mask)
        else:
            raise ValueError("forward needs input_ids, or a prefix and its attention_mask.")
        if residue_mask is None:
            residue_mask = self.residue_mask(attention_mask)
        output = self.head(hidden.to(self.head_dtype), residue_mask)
        loss = None if labels is None else residue_loss(output.logits, labels, self.margin, num_items_in_batch)
        result = SecondaryStructureOutput(
            loss=loss,
            logits=output.logits,
            similarities=output.similarities if return_similarities else None,
            embeddings=output.embeddings if return_embeddings else None,
            last_hidden_state=hidden if output_hidden_states else None,
        )
        return result.to_tuple() if return_dict is False else result

    @property
    def head_dtype(self) -> torch.dtype:
        """Of the head's weights: fp32, unless the whole model was cast."""
        return next(self.head.parameters()).dtype

    def probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        """Calibrated probabilities of the states: softmax of logits over the temperature; the last axis sums to 1."""
        return (logits.float() / self.config.temperature).softmax(-1)

    def parameter_summary(self) -> dict[str, dict[str, int]]:
        """Count parameters by part.

        Returns:
            `{part: {"trained": n, "frozen": n}}` for embeddings, blocks, adapter, head, centroids and total.
        """
        parts = ("embeddings", "blocks", "adapter", "head", "centroids", "total")
        summary = {part: {"trained": 0, "frozen": 0} for part in parts}
        for name, parameter in self.named_parameters():
            kind = "trained" if parameter.requires_grad else "frozen"
            for part in (self._part(name), "total"):
                summary[part][kind] += getattr(parameter, "ds_numel", parameter.numel())  # ds_: split by DeepSpeed
        return summary

    def _part(self, name: str) -> str:
        if name.endswith("classifier.centroids"):
            return "centroids"
        if not name.startswith(f"{self.base_model_prefix}."):
            return "head"
        if name not in self.backbone_names:
            return "adapter"
        embeddings = {id(parameter) for parameter in self.family.embeddings(self.backbone).parameters()}
        return "embeddings" if id(self.get_parameter(name)) in embeddings else "blocks"


class EsmForSecondaryStructure(SecondaryStructureModel):
    """Over ESM-1b, ESM-2 of every size, and any checkpoint of model type `esm`."""

    config_class = EsmSecondaryStructureConfig


class T5ForSecondaryStructure(SecondaryStructureModel):
    """Over the encoders of ProtT5 and Ankh."""

    config_class = T5SecondaryStructureConfig


class BertForSecondaryStructure(SecondaryStructureModel):
    """Over ProtBert."""

    config_class = BertSecondaryStructureConfig


MODELS: dict[str, type[SecondaryStructureModel]] = {
    model.config_class.backbone_config_class.model_type: model
    for model in (EsmForSecondaryStructure, T5ForSecondaryStructure, BertForSecondaryStructure)
}


def _left_out(
    adapter: str | None, leave_out: Sequence[int] | None, top_blocks: int | None, num_blocks: int
) -> Sequence[int]:
    """The numbers of the blocks without an adapter, from the two ways to say it."""
    if leave_out is not None and top_blocks is not None:
        raise ValueError("leave_out and top_blocks say one thing in two ways. Give one of them.")
    if top_blocks is not None:
        if adapter is None:
            raise ValueError("top_blocks was given without an adapter. To train the top k blocks freeze the others.")
        if not 1 <= top_blocks <= num_blocks:
            raise ValueError(f"top_blocks is {top_blocks}. Expected 1 to {num_blocks}, the depth of the backbone.")
        return range(num_blocks - top_blocks)
    if leave_out is not None:
        return leave_out
    return range(int(num_blocks * LEFT_OUT)) if adapter is not None else ()


def _config_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options that the configuration knows; PretrainedConfig would swallow a misspelt one."""
    known = set(inspect.signature(SecondaryStructureConfig).parameters) - {"kwargs"}
    unknown = sorted(set(options) - known)
    if unknown:
        raise TypeError(f"unknown option {unknown[0]!r}. Choose from: {', '.join(sorted(known | {*HUB_OPTIONS}))}.")
    return dict(options)


def _as_dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    """A dtype by name or itself; None and "auto" are fp32."""
    if isinstance(dtype, str) and dtype != "auto":
        return getattr(torch, dtype)
    return None if isinstance(dtype, str) else dtype


def _with_attention(config: Any, attn_implementation: str | None) -> Any:
    if attn_implementation is None:
        return config
    config = copy.deepcopy(config)
    config._attn_implementation = attn_implementation
    return config
