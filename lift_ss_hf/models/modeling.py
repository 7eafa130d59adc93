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
model trains: nothing below is learned, and their output can be kept. A bottleneck after the feed-forward part of ESM
and T5 acts on its block's output alone, so there the lowest block with an adapter is itself one of the frozen ones.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from adapters.context import AdapterSetup, ForwardContext
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_outputs import TokenClassifierOutput

from .adapter_methods import (
    ADAPTER_NAME,
    ADAPTERS,
    acts_on_block_output,
    add_adapter,
    merge_adapter,
    prefix_length,
)
from .backbones import BUNDLED, BackboneFamily, get_family, restore_rotary_precision
from .block_mix import BLOCK_MIXERS
from .configuration import (
    BALANCES,
    BertSecondaryStructureConfig,
    EsmSecondaryStructureConfig,
    SecondaryStructureConfig,
    T5SecondaryStructureConfig,
)
from .heads import StateHead
from .losses import margins, residue_loss, state_weights
from .pretrained import ArtefactModel
from .windows import WindowBatch, cut_batch


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

    loss: torch.Tensor | None = None  # type: ignore[assignment]
    logits: torch.Tensor | None = None  # type: ignore[assignment]
    similarities: torch.Tensor | None = None
    embeddings: torch.Tensor | None = None
    last_hidden_state: torch.Tensor | None = None


class SecondaryStructureModel(ArtefactModel):
    """A backbone, an adapter in some of its blocks, and a head. Use the class of the backbone's family.

    Args:
        config: everything but the weights.
        backbone: the pretrained encoder, without adapters; None builds one with random weights.
    """

    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = True  # Trainer passes num_items_in_batch
    _supports_sdpa = True
    _no_split_modules = ["EsmLayer", "BertLayer", "T5Block"]  # noqa: RUF012  transformers' own form
    margin: torch.Tensor | None
    state_weight: torch.Tensor | None

    def __init__(self, config: SecondaryStructureConfig, backbone: PreTrainedModel | None = None):
        config.check()  # it may have been changed since it was made
        super().__init__(config)
        self.family: BackboneFamily = get_family(config.backbone_config.model_type)
        self.backbone = self.family.build(config.backbone_config) if backbone is None else backbone
        own_names = set(self.backbone.state_dict())
        if config.adapter is not None:
            self.family.init_adapters(self.backbone)
            add_adapter(self.backbone, config.adapter, config.adapter_options, config.leave_out, config.num_blocks)
        self.block_mix = BLOCK_MIXERS[config.block_mix](config.num_blocks + 1) if config.block_mix else None
        self.head = StateHead(config)
        margin = margins(config.class_counts) if config.class_counts and config.loss == "ldam" else None
        self.register_buffer("margin", margin, persistent=False)
        weight = state_weights(config.class_counts or [], BALANCES[config.balance]) if config.balance else None
        self.register_buffer("state_weight", weight, persistent=False)
        self.max_prefix_blocks: int | None = None  # fewer than there could be, for a prefix that models share
        self._prefix_length = prefix_length(config.adapter, config.adapter_options)
        self._freeze(own_names)
        self.post_init()
        self.eval()

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
        config.backbone_name = config.backbone_revision = config.backbone_fingerprint = None
        self._freeze({name.removeprefix(f"{self.base_model_prefix}.") for name in self.backbone_names})
        return self.eval()

    # ---- which parameters are trained ------------------------------------------------------------------------------

    @property
    def lowest_trained_block(self) -> int:
        """Number of the lowest block that training changes; the number of blocks if it changes none."""
        config = self.config
        if config.adapter is not None:
            return min(set(range(config.num_blocks)) - set(config.leave_out))
        return config.num_blocks if config.freeze == "all" else int(config.freeze or 0)

    @property
    def num_prefix_blocks(self) -> int:
        """Number of blocks that `frozen_prefix` runs: all that are frozen, or `max_prefix_blocks`."""
        return min(self._num_frozen_blocks, self.max_prefix_blocks or self.config.num_blocks)

    @property
    def _num_frozen_blocks(self) -> int:
        """All below the lowest trained block; and that one too, where only its adapter on its output is trained."""
        return self.lowest_trained_block + self._starts_with_adapter

    @property
    def _starts_with_adapter(self) -> bool:
        config = self.config
        if not acts_on_block_output(config.adapter, config.adapter_options):
            return False
        lowest = self.family.blocks(self.backbone)[self.lowest_trained_block]
        # FSDP gathers a block's weights when the block is called, not when its adapter is
        is_whole = os.environ.get("ACCELERATE_USE_FSDP", "").lower() != "true"
        return is_whole and self.family.block_end(lowest) is not None

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
        first_names = {name for name, _ in [*self.named_parameters(), *self.named_buffers()]}
        self.second_names = frozenset(set(self.state_dict()) - first_names)
        self.backbone_names = frozenset(f"{self.base_model_prefix}.{name}" for name in own_names)
        self.frozen_names = frozenset(frozen)

    def train(self, mode: bool = True) -> SecondaryStructureModel:
        """Switch dropout on or off; blocks whose output no training changes stay in evaluation mode."""
        super().train(mode)
        if self.lowest_trained_block == self.config.num_blocks:
            self.backbone.eval()
            return self
        if not self._trains_embeddings:
            self.family.embeddings(self.backbone).eval()
        blocks = self.family.blocks(self.backbone)
        for block in blocks[: self._num_frozen_blocks]:
            block.eval()
        if self._starts_with_adapter:
            self.family.block_end(blocks[self.lowest_trained_block]).adapters.train(mode)
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
        attention_mask = self.attention_mask(input_ids, attention_mask)
        return self.trained_blocks(self.frozen_prefix(input_ids, attention_mask), attention_mask)

    def _windows(self, attention_mask: torch.Tensor) -> WindowBatch | None:
        """The batch cut into windows; None where every chain fits."""
        limit, leading, trailing = self.max_residues, self.family.num_leading, self.family.num_trailing
        if limit is None or attention_mask.shape[1] - leading - trailing <= limit:
            return None
        return cut_batch(attention_mask, leading, trailing, limit, self.config.window_overlap)

    def frozen_prefix(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> list[torch.Tensor]:
        """Run all that no training changes: embeddings and the lowest `num_prefix_blocks` blocks, without adapter.

        Without gradients, and without dropout while the model trains.

        Args:
            input_ids: (batch, tokens) int64.
            attention_mask: (batch, tokens) int64, 1 = keep.

        Returns:
            What goes into the lowest trained block, or into its adapter, (rows, row tokens, hidden); with a block mix
            also all before it.
            A row is a chain, or a window where a chain of the batch is too long.
        """
        trains = torch.is_grad_enabled() and self._trains_embeddings
        if windows := self._windows(attention_mask):
            padding = torch.full((), self.config.backbone_config.pad_token_id or 0, device=input_ids.device)
            input_ids = input_ids.flatten()[windows.token_index].where(windows.attention_mask > 0, padding)
            attention_mask = windows.attention_mask
        with self._precision(), torch.set_grad_enabled(trains), AdapterSetup(None):
            hidden = self.family.embed(self.backbone, input_ids, attention_mask)
            outputs = self._run_blocks([hidden], attention_mask, 0, self.num_prefix_blocks)
        # detached, because `enable_input_require_grads` makes even frozen embeddings ask for gradients
        return outputs if trains else [output.detach() for output in outputs]

    def trained_blocks(self, prefix: list[torch.Tensor], attention_mask: torch.Tensor) -> torch.Tensor:
        """Run the blocks from the lowest trained one on, and the backbone's last norm; stitch windows.

        Args:
            prefix: what `frozen_prefix` returned.
            attention_mask: (batch, tokens) int64, 1 = keep; of the chains.

        Returns:
            (batch, tokens, hidden), of the last block or a mean of all; with `block_mix` concat all side by side,
            (batch, tokens, (blocks + 1) x hidden).
        """
        config = self.config
        trains = torch.is_grad_enabled() and (config.freeze != "all" or config.adapter is not None)
        windows = self._windows(attention_mask)
        row_mask = attention_mask if windows is None else windows.attention_mask
        with self._precision(), self._adapter_context(prefix[-1], row_mask):
            num_frozen = self._num_frozen_blocks
            if self.num_prefix_blocks < num_frozen:
                with torch.no_grad(), AdapterSetup(None):
                    prefix = self._run_blocks(prefix, row_mask, self.num_prefix_blocks, num_frozen)
            with torch.set_grad_enabled(trains):
                outputs = self._run_blocks(self._run_first_adapter(prefix), row_mask, num_frozen, config.num_blocks)
                outputs[-1] = self.family.finish(self.backbone, outputs[-1])
            hidden = outputs[-1] if self.block_mix is None else self.block_mix(outputs)
        return hidden if windows is None else windows.stitch(hidden)

    def _run_first_adapter(self, prefix: list[torch.Tensor]) -> list[torch.Tensor]:
        """Run the adapter whose block the prefix ends with, where there is one."""
        if not self._starts_with_adapter:
            return prefix
        lowest = self.family.blocks(self.backbone)[self.lowest_trained_block]
        adapter = self.family.block_end(lowest).adapters[ADAPTER_NAME]
        return [*prefix[:-1], adapter(prefix[-1], residual_input=prefix[-1])[0]]

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
        weight: Any = self.get_input_embeddings().weight
        dtype, device = weight.dtype, weight.device.type
        if dtype == torch.float32 or torch.is_autocast_enabled(device):
            return contextlib.nullcontext()
        return torch.autocast(device, dtype=dtype)

    def attention_mask(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        """The mask as integers; taken from padding where there is none."""
        if attention_mask is None:
            attention_mask = input_ids.ne(self.config.backbone_config.pad_token_id or 0)
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
        return_hidden_state: bool = False,
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
            return_hidden_state: also return the backbone's output, as `last_hidden_state`.
            return_dict: False returns a tuple.

        Raises:
            ValueError: if neither tokens nor a prefix are given, or a prefix without its mask.
        """
        if prefix is not None and attention_mask is not None:
            attention_mask = attention_mask.long()
            hidden = self.trained_blocks(prefix, attention_mask)
        elif input_ids is not None:
            attention_mask = self.attention_mask(input_ids, attention_mask)
            hidden = self.hidden_states(input_ids, attention_mask)
        else:
            raise ValueError("forward needs input_ids, or a prefix and its attention_mask.")
        if residue_mask is None:
            residue_mask = self.residue_mask(attention_mask)
        output = self.head(hidden.to(self.head_dtype), residue_mask)
        loss = None
        if labels is not None:
            loss = residue_loss(output.logits, labels, self.margin, num_items_in_batch, self.state_weight)
        result = SecondaryStructureOutput(
            loss=loss,
            logits=output.logits,
            similarities=output.similarities if return_similarities else None,
            embeddings=output.embeddings if return_embeddings else None,
            last_hidden_state=hidden if return_hidden_state else None,
        )
        return result.to_tuple() if return_dict is False else result

    @property
    def head_dtype(self) -> torch.dtype:
        """Of the head's weights: fp32, unless the whole model was cast."""
        return next(self.head.parameters()).dtype

    def probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        """Calibrated probabilities of the states: softmax of logits over the temperature; the last axis sums to 1."""
        return (logits.float() / self.config.calibration_temperature).softmax(-1)

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

    config_class = EsmSecondaryStructureConfig  # type: ignore[assignment]


class T5ForSecondaryStructure(SecondaryStructureModel):
    """Over the encoders of ProtT5 and Ankh."""

    config_class = T5SecondaryStructureConfig  # type: ignore[assignment]
    _tied_weights_keys = ["backbone.encoder.embed_tokens.weight"]  # type: ignore[assignment]  # noqa: RUF012


class BertForSecondaryStructure(SecondaryStructureModel):
    """Over ProtBert."""

    config_class = BertSecondaryStructureConfig  # type: ignore[assignment]


def bundled_model(**options: Any) -> EsmForSecondaryStructure:
    """The nine-state predictor that comes with the package, over the bundled backbone: no network needed.

    Small and no rival to one over a large backbone; its card, `assets/predictor/README.md`, has the scores.

    Args:
        options: as for `EsmForSecondaryStructure.from_pretrained`.
    """
    return EsmForSecondaryStructure.from_pretrained(BUNDLED, **options)
