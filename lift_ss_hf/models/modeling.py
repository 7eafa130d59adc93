"""Models that predict secondary structure over a protein language model: backbone, adapter, head.

    model = EsmForSecondaryStructure.from_backbone("facebook/esm2_t6_8M_UR50D", adapter="bottleneck", top_blocks=2)
    output = model(input_ids, attention_mask, labels=labels)   # loss, logits (batch, tokens, states) fp32
    model.save_pretrained("my_model")                          # what was trained, and the configuration
    model = EsmForSecondaryStructure.from_pretrained("my_model")
    model = EsmForSecondaryStructure.from_pretrained("my_model", backbone="where/the/backbone/is/now")

`SecondaryStructureModel.from_backbone` and `.from_pretrained` find the class of the family by themselves.

Backbone and head can be used apart: `model.hidden_states(input_ids, attention_mask)` gives (batch, tokens, hidden),
`model.head(hidden, residue_mask)` gives logits, similarities and embeddings, and `model.residue_mask(attention_mask)`
tells residues from special tokens and padding. The hidden states are computed in two steps: `run_frozen_blocks`, all
that training does not change, and `run_trained_blocks`, from there to the top.

Frozen blocks below the lowest trained one run in evaluation mode (no dropout) even while the model trains: nothing
below is learned, so autograd records nothing, and their output can be cached. An `output_bottleneck` in ESM and T5 acts
on its block's output alone, so there the lowest block with an adapter is itself a frozen one.

Weights of the backbone that you unfreeze yourself (`requires_grad_(True)`) are trained, saved and loaded as well.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.autograd.graph import save_on_cpu
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
from .adapters_library import AdapterSetup, ForwardContext
from .configuration import BALANCES, SecondaryStructureConfig
from .heads import StateHead, make_block_mixer
from .losses import margins, residue_loss, state_weights
from .pretrained import PretrainedSecondaryStructureModel
from .windows import WindowBatch, cut_batch

PRUNING = (
    "attention heads cannot be removed from a model over a backbone: the saved model names a backbone that has them. "
    "Prune the backbone by itself, save it, and start with from_backbone."
)


@dataclass
class SecondaryStructureOutput(TokenClassifierOutput):
    """Output of `forward`; all but loss and logits are set only if requested.

    Attributes:
        loss: () mean over labelled residues; None without labels.
        logits: (batch, tokens, states) fp32; their softmax is the probabilities before calibration.
        hidden_states: one (batch, tokens, hidden) for the embeddings and for each block, the last one normalised.
        attentions: one (batch, heads, tokens, keys) for each block; with prefix tuning the prefix's keys come first.
        similarities: (batch, tokens, states) cosines with the centroids, which ensembles average.
        embeddings: (batch, tokens, size) the input of the classifier.
        last_hidden_state: (batch, tokens, hidden) of the backbone.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None
    similarities: torch.Tensor | None = None
    embeddings: torch.Tensor | None = None
    last_hidden_state: torch.Tensor | None = None


@dataclass
class BlockTrace:
    """What is kept of a pass through the blocks.

    Attributes:
        keeps_outputs: keep the output of each block rather than of the last one only.
        attentions: where the attention of each block goes; None if it is not wanted.
    """

    keeps_outputs: bool
    attentions: list[torch.Tensor] | None


def asks_for_gradients(module: nn.Module) -> bool:
    """Return True if a parameter of a module is to be trained."""
    return any(parameter.requires_grad for parameter in module.parameters())


class SecondaryStructureModel(PretrainedSecondaryStructureModel):
    """A backbone, an adapter in some of its blocks, and a head. Use the class of the backbone's family.

    Args:
        config: everything but the weights.
        backbone: the pretrained encoder, without adapters; None builds one with random weights.
    """

    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = True  # Trainer passes num_items_in_batch
    _supports_sdpa = True
    margin: torch.Tensor | None
    state_weight: torch.Tensor | None

    def __init__(self, config: SecondaryStructureConfig, backbone: PreTrainedModel | None = None):
        config.check()  # it may have been changed since it was made
        if getattr(config, "pruned_heads", None):
            raise ValueError(PRUNING)
        if config.leading_token not in (None, *self.family.leading_tokens):
            known = ", ".join(["null", *sorted(self.family.leading_tokens)])
            raise ValueError(
                f"leading_token is {config.leading_token!r}. Backbones of type {self.family.model_type} have one of: "
                f"{known}."
            )
        super().__init__(config)
        self._no_split_modules = [self.family.block_class]
        self.backbone = self.family.build(config.backbone_config) if backbone is None else backbone
        own_names = set(self.backbone.state_dict())
        if config.adapter is not None:
            self.family.init_adapters(self.backbone)
            add_adapter(self.backbone, config.adapter, config.adapter_options, config.leave_out, config.num_blocks)
        self.block_mix = make_block_mixer(config)
        self.head = StateHead(config)
        margin = margins(config.class_counts) if config.class_counts and config.loss == "ldam" else None
        self.register_buffer("margin", margin, persistent=False)
        weight = state_weights(config.class_counts or [], BALANCES[config.balance]) if config.balance else None
        self.register_buffer("state_weight", weight, persistent=False)
        self._prefix_length = prefix_length(config.adapter, config.adapter_options)
        self._freeze(own_names)
        self.post_init()
        self.eval()

    def merge_adapter(self) -> SecondaryStructureModel:
        """Merge a LoRA or IA3 adapter into the backbone's weights, in place; it then runs as fast as without one.

        From then on the model is saved with its backbone, and cannot be trained further.

        Raises:
            ValueError: if the adapter is not a change of weights.
        """
        mergeable = sorted(name for name, method in ADAPTERS.items() if method.mergeable)
        if self.config.adapter not in mergeable:
            raise ValueError(f"adapter {self.config.adapter!r} cannot be merged. Only {', '.join(mergeable)} can.")
        merge_adapter(self.backbone)
        config = self.config
        config.adapter, config.adapter_options, config.leave_out = None, {}, []
        config.backbone_name = config.backbone_revision = config.backbone_fingerprint = None
        self.note_unfrozen()
        config.unfrozen = sorted(self.unfrozen_names)
        self._freeze({name.removeprefix(f"{self.base_model_prefix}.") for name in self.backbone_names})
        return self.eval()

    # ---- which parameters are trained ------------------------------------------------------------------------------

    @property
    def _lowest_planned_block(self) -> int:
        """Number of the lowest block that the configuration trains; the number of blocks if it trains none."""
        config = self.config
        if config.adapter is not None:
            return min(set(range(config.num_blocks)) - set(config.leave_out))
        return config.num_blocks if config.freeze == "all" else int(config.freeze or 0)

    @property
    def lowest_trained_block(self) -> int:
        """Number of the lowest block that training changes; the number of blocks if it changes none."""
        if self.trains_embeddings:
            return 0
        planned = self._lowest_planned_block
        blocks = self.family.blocks(self.backbone)[:planned]
        return next((number for number, block in enumerate(blocks) if asks_for_gradients(block)), planned)

    @property
    def num_frozen_blocks(self) -> int:
        """Number of lowest blocks that training does not change.

        The lowest block with an adapter is one of them if the adapter acts on the block's output alone.
        """
        lowest = self.lowest_trained_block
        if lowest < self._lowest_planned_block or not self._starts_with_adapter:
            return lowest
        block = self.family.blocks(self.backbone)[lowest]
        adapter = {id(parameter) for parameter in self.family.block_end(block).adapters.parameters()}
        return lowest + all(id(parameter) in adapter for parameter in block.parameters() if parameter.requires_grad)

    @property
    def _num_plain_blocks(self) -> int:
        """Number of lowest blocks that run without adapters: those that are frozen unless unfrozen by hand."""
        return self._lowest_planned_block + self._starts_with_adapter

    @property
    def _starts_with_adapter(self) -> bool:
        config = self.config
        if not acts_on_block_output(config.adapter, config.adapter_options):
            return False
        lowest = self.family.blocks(self.backbone)[self._lowest_planned_block]
        # FSDP gathers a block's weights when the block is called, not when its adapter is
        is_whole = os.environ.get("ACCELERATE_USE_FSDP", "").lower() != "true"
        return is_whole and self.family.block_end(lowest) is not None

    @property
    def trains_embeddings(self) -> bool:
        """True if training changes the embeddings."""
        is_planned = self.config.adapter is None and self.config.freeze in (None, 0)
        return is_planned or asks_for_gradients(self.family.embeddings(self.backbone))

    def _freeze(self, own_names: set[str]) -> None:
        """Set requires_grad, and record which weights are the backbone's own and stay out of the artefact."""
        canonical = dict(self.backbone.named_parameters())
        frozen_modules = [*self.family.blocks(self.backbone)[: self._lowest_planned_block]]
        if self.config.adapter is not None or self.config.freeze not in (None, 0):
            frozen_modules.append(self.family.embeddings(self.backbone))
        frozen_ids = {id(p) for module in frozen_modules for p in module.parameters()}
        is_backbone_frozen = self.config.freeze == "all"
        frozen = set()
        for name in own_names:
            parameter = canonical.get(name)  # None for buffers, and for second names of tied weights
            if parameter is None or is_backbone_frozen or id(parameter) in frozen_ids:
                frozen.add(f"{self.base_model_prefix}.{name}")
        first_names = {name for name, _ in [*self.named_parameters(), *self.named_buffers()]}
        if unknown := set(self.config.unfrozen) - (frozen & first_names):
            raise ValueError(f"unfrozen names {min(unknown)}, which is not a frozen weight of the backbone.")
        frozen -= set(self.config.unfrozen)
        for name, parameter in canonical.items():
            parameter.requires_grad_(f"{self.base_model_prefix}.{name}" not in frozen)
        self.second_names = frozenset(set(self.state_dict()) - first_names)
        self.backbone_names = frozenset(f"{self.base_model_prefix}.{name}" for name in own_names)
        self.frozen_names = frozenset(frozen)
        self.unfrozen_names = frozenset(self.config.unfrozen)
        self.backbone_shapes = {  # ds_shape: before DeepSpeed split it
            f"{self.base_model_prefix}.{name}": getattr(parameter, "ds_shape", parameter.shape)
            for name, parameter in canonical.items()
            if name in own_names
        }

    def train(self, mode: bool = True) -> SecondaryStructureModel:
        """Switch dropout on or off; blocks whose output training does not change stay in evaluation mode.

        All blocks are switched with the configuration's `backbone_dropout="reference"`.
        """
        super().train(mode)
        if not mode:
            return self
        self.note_unfrozen()
        if self.config.backbone_dropout == "reference":
            return self
        planned, num_frozen = self._lowest_planned_block, self.num_frozen_blocks
        if num_frozen == planned == self.config.num_blocks:
            self.backbone.eval()
            return self
        if not self.trains_embeddings:
            self.family.embeddings(self.backbone).eval()
        blocks = self.family.blocks(self.backbone)
        for block in blocks[:num_frozen]:
            block.eval()
        if num_frozen > planned:
            self.family.block_end(blocks[planned]).adapters.train()
        return self

    # ---- what transformers asks of a model -------------------------------------------------------------------------

    def init_weights(self) -> None:
        """Do nothing: backbone, adapters and head have initialised themselves, or are pretrained."""

    def _apply(self, fn: Any, recurse: bool = True) -> SecondaryStructureModel:
        super()._apply(fn, recurse)
        self.family.restore_precision(self.backbone)
        return self

    def get_input_embeddings(self) -> nn.Module:
        """Return the token embeddings of the backbone."""
        return self.backbone.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the token embeddings of the backbone."""
        self.backbone.set_input_embeddings(value)

    def resize_token_embeddings(self, new_num_tokens: int | None = None, *args: Any, **kwargs: Any) -> nn.Embedding:
        """Return the token embeddings if they have this size already.

        Raises:
            ValueError: for another size: the saved model names a backbone that has not got it.
        """
        embeddings: Any = self.get_input_embeddings()
        if new_num_tokens in (None, embeddings.num_embeddings) and not (args or kwargs.get("pad_to_multiple_of")):
            return embeddings
        raise ValueError(
            f"the {embeddings.num_embeddings} token embeddings of the backbone cannot be resized in a model over it: "
            "the saved model names a backbone that has these. Resize the backbone by itself, save it, and start with "
            "from_backbone."
        )

    def prune_heads(self, heads_to_prune: Mapping[int, Any]) -> None:
        """Refuse to remove attention heads.

        Raises:
            ValueError: always, since the saved model names a backbone that has them.
        """
        raise ValueError(PRUNING)

    def gradient_checkpointing_enable(  # type: ignore[override]
        self,
        gradient_checkpointing_kwargs: Mapping[str, Any] | None = None,
        every_n_layers: int = 1,
        offload: bool = False,
    ) -> None:
        """Recompute trained blocks in the backward pass instead of keeping their activations.

        Args:
            gradient_checkpointing_kwargs: options of `torch.utils.checkpoint.checkpoint`.
            every_n_layers: do so in each n-th block only; needs transformers 5.
            offload: move what is kept of the blocks' inputs to the memory of the host.

        Raises:
            ValueError: for `use_reentrant=True`, in which adapters cannot see the pass they belong to.
        """
        options = {"use_reentrant": False, **(gradient_checkpointing_kwargs or {})}
        if options["use_reentrant"]:
            raise ValueError("use_reentrant=True does not work with adapters. Leave it out, or set it to False.")

        def run(function: Any, *args: Any) -> Any:
            context = ForwardContext.get_context() or contextlib.nullcontext()
            with save_on_cpu(pin_memory=torch.accelerator.is_available()) if offload else contextlib.nullcontext():
                return checkpoint(function, *args, context_fn=lambda: (contextlib.nullcontext(), context), **options)

        which: dict[str, Any] = {} if every_n_layers == 1 else {"every_n_layers": every_n_layers}
        self._set_gradient_checkpointing(enable=True, gradient_checkpointing_func=run, **which)
        if getattr(self, "_hf_peft_config_loaded", False):  # as in PreTrainedModel, whose `disable` undoes it
            self.enable_input_require_grads()

    # ---- backbone --------------------------------------------------------------------------------------------------

    @property
    def num_leading(self) -> int:
        """Number of special tokens before the residues of a chain."""
        return self.family.num_leading + (self.config.leading_token is not None)

    def residue_mask(self, attention_mask: torch.Tensor) -> torch.Tensor:
        """Tell residues from special tokens and padding.

        Args:
            attention_mask: (batch, tokens), 1 = keep; padding on either side.

        Returns:
            (batch, tokens) bool, True where a token stands for a residue.
        """
        position = attention_mask.cumsum(1)  # 1 at a row's first token
        last = position[:, -1:] - self.family.num_trailing
        return (attention_mask > 0) & (position > self.num_leading) & (position <= last)

    @property
    def max_residues(self) -> int | None:
        """Length of the longest chain that is run whole [residues]; None means any."""
        limits = (self.config.max_residues, self.family.max_residues(self.config.backbone_config))
        return min((limit for limit in limits if limit is not None), default=None)

    def hidden_states(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, num_blocks: int | None = None
    ) -> torch.Tensor:
        """Run the backbone; chains that are too long run in overlapping windows and are stitched together again.

        Each residue's hidden state is taken from the window in which it is farthest from an edge.

        Args:
            input_ids: (batch, tokens) int64, special tokens included.
            attention_mask: (batch, tokens) int64, 1 = keep; None derives it from the padding tokens.
            num_blocks: return the output of this many blocks, 0 for the embeddings; None returns what the head sees.

        Returns:
            (batch, tokens, hidden)
        """
        attention_mask = self.attention_mask(input_ids, attention_mask)
        if num_blocks is None:
            return self.run_trained_blocks(self.run_frozen_blocks(input_ids, attention_mask), attention_mask)
        trace, windows = self._new_trace(output_hidden_states=True), self._windows(attention_mask)
        frozen = self._run_frozen_blocks(input_ids, attention_mask, None, trace)
        hidden = self._run_trained_blocks(frozen, attention_mask, None, trace)[num_blocks]
        return hidden if windows is None else windows.stitch(hidden)

    def _windows(self, attention_mask: torch.Tensor) -> WindowBatch | None:
        """Cut the batch into windows; None if every chain fits."""
        limit, leading, trailing = self.max_residues, self.num_leading, self.family.num_trailing
        if limit is None or attention_mask.shape[1] - leading - trailing <= limit:
            return None
        return cut_batch(attention_mask, leading, trailing, limit, self.config.window_overlap)

    def run_frozen_blocks(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, num_blocks: int | None = None
    ) -> list[torch.Tensor]:
        """Run what training does not change: the embeddings and the lowest blocks, without adapter.

        Runs without dropout even while the model trains, and without gradients unless the weights ask for them.

        Args:
            input_ids: (batch, tokens) int64.
            attention_mask: (batch, tokens) int64, 1 = keep.
            num_blocks: how many blocks, at most `num_frozen_blocks`; None means all that run without adapters.

        Returns:
            The last block's output, (rows, row tokens, hidden); with a block mix also all outputs below it, from the
            embeddings up. A row is a chain, or a window if a chain of the batch is too long.
        """
        return self._run_frozen_blocks(input_ids, attention_mask, num_blocks, self._new_trace())

    def _run_frozen_blocks(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, num_blocks: int | None, trace: BlockTrace
    ) -> list[torch.Tensor]:
        num_blocks = self._num_plain_blocks if num_blocks is None else num_blocks
        if windows := self._windows(attention_mask):
            padding = torch.full((), self.config.backbone_config.pad_token_id or 0, device=input_ids.device)
            input_ids = input_ids.flatten()[windows.token_index].where(windows.attention_mask > 0, padding)
            attention_mask = windows.attention_mask
        trains_embeddings = torch.is_grad_enabled() and self.trains_embeddings
        with self.autocast(), AdapterSetup(None):
            with torch.set_grad_enabled(trains_embeddings):
                hidden = self.family.embed(self.backbone, input_ids, attention_mask)
            if not trains_embeddings:
                hidden = hidden.detach()  # `enable_input_require_grads` makes even frozen ones ask for gradients
            return self._run_blocks([hidden], attention_mask, 0, num_blocks, trace)

    def run_trained_blocks(
        self, frozen: list[torch.Tensor], attention_mask: torch.Tensor, num_blocks: int | None = None
    ) -> torch.Tensor:
        """Run the remaining blocks and the backbone's last norm, and stitch windows.

        Args:
            frozen: what `run_frozen_blocks` returned.
            attention_mask: (batch, tokens) int64, 1 = keep; of the chains.
            num_blocks: how many blocks were run already; None means all that run without adapters.

        Returns:
            (batch, tokens, hidden), of the last block or a mean of all; with `block_mix` concat all side by side,
            (batch, tokens, (blocks + 1) x hidden).
        """
        outputs = self._run_trained_blocks(frozen, attention_mask, num_blocks, self._new_trace())
        return self._combined(outputs, self._windows(attention_mask))

    def _run_trained_blocks(
        self, frozen: list[torch.Tensor], attention_mask: torch.Tensor, num_blocks: int | None, trace: BlockTrace
    ) -> list[torch.Tensor]:
        num_plain = self._num_plain_blocks
        num_blocks = num_plain if num_blocks is None else num_blocks
        windows = self._windows(attention_mask)
        row_mask = attention_mask if windows is None else windows.attention_mask
        with self.autocast(), self.adapter_context(row_mask):
            with AdapterSetup(None):
                frozen = self._run_blocks(frozen, row_mask, num_blocks, num_plain, trace)
            outputs = self.run_first_adapter(frozen, num_plain)
            outputs = self._run_blocks(outputs, row_mask, num_plain, self.config.num_blocks, trace)
            outputs[-1] = self.family.finish(self.backbone, outputs[-1])
        return outputs

    def _combined(self, outputs: list[torch.Tensor], windows: WindowBatch | None) -> torch.Tensor:
        """Return what the head sees: the last of the outputs, or their mix, with windows stitched."""
        with self.autocast():
            hidden = outputs[-1] if self.block_mix is None else self.block_mix(outputs)
        return hidden if windows is None else windows.stitch(hidden)

    def run_first_adapter(self, frozen: list[torch.Tensor], num_blocks: int) -> list[torch.Tensor]:
        """Run the adapter of the last frozen block, if it has one.

        Args:
            frozen: what `run_frozen_blocks` returned, or the same for chains in one row.
            num_blocks: how many blocks were run; the adapter belongs to the last of those that it can run without.
        """
        if not self._starts_with_adapter or num_blocks < self._num_plain_blocks:
            return frozen
        lowest = self.family.blocks(self.backbone)[self._lowest_planned_block]
        adapter = self.family.block_end(lowest).adapters[ADAPTER_NAME]
        return [*frozen[:-1], adapter(frozen[-1], residual_input=frozen[-1])[0]]

    def _new_trace(self, output_hidden_states: bool = False, output_attentions: bool = False) -> BlockTrace:
        return BlockTrace(output_hidden_states or self.block_mix is not None, [] if output_attentions else None)

    def _run_blocks(
        self, outputs: list[torch.Tensor], attention_mask: torch.Tensor, start: int, stop: int, trace: BlockTrace
    ) -> list[torch.Tensor]:
        """Run blocks `start` to `stop` on the last of `outputs`; return all outputs if they are kept, else the last."""
        blocks = self.family.blocks(self.backbone)
        inputs: tuple[Any, ...] = ()
        if stop > start:
            prefix = (self._prefix_length, self.config.prefix_shift)
            inputs = self.family.attention_inputs(self.backbone, attention_mask, *prefix)
        outputs = list(outputs)
        for number in range(start, stop):
            has_prefix = self._prefix_length > 0 and number not in self.config.leave_out
            arguments = blocks[number], outputs[-1], inputs, has_prefix
            if trace.attentions is None:
                hidden = self.family.run_block(*arguments)
            else:
                hidden, attention = self.family.run_block_with_attention(*arguments)
                trace.attentions.append(attention)
            outputs = [*outputs, hidden] if trace.keeps_outputs else [hidden]
        return outputs

    def adapter_context(
        self, attention_mask: torch.Tensor, chain_lengths: Sequence[int] | None = None
    ) -> contextlib.AbstractContextManager:
        """Return what the adapters library keeps during a pass: prefixes, shared weights, tokens to average in gates.

        Args:
            attention_mask: (chains, tokens) int64, 1 = keep; with `chain_lengths`, of any number of tokens.
            chain_lengths: of chains that lie end to end in one row [tokens]; None means one chain in each row.
        """
        if self.config.adapter is None:
            return contextlib.nullcontext()
        context = ForwardContext(self.backbone, attention_mask=attention_mask)
        context.token_mask, context.chain_lengths = attention_mask, chain_lengths
        return context

    def autocast(self) -> contextlib.AbstractContextManager:
        """Return autocast if the backbone is held in half precision: what is trained stays in fp32.

        Raises:
            ValueError: if the backbone overflows in the precision that is asked for, here or by a Trainer's autocast.
        """
        weight: Any = self.get_input_embeddings().weight
        dtype, device = weight.dtype, weight.device.type
        is_enabled = torch.is_autocast_enabled(device)
        self.family.check_precision(torch.get_autocast_dtype(device) if is_enabled else dtype)
        if dtype == torch.float32 or is_enabled:
            return contextlib.nullcontext()
        return torch.autocast(device, dtype=dtype)

    def attention_mask(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        """Return the mask as integers; derived from the padding tokens if there is none."""
        if attention_mask is None:
            attention_mask = input_ids.ne(self.config.backbone_config.pad_token_id or 0)
        return attention_mask.long()  # adapters takes the argmax, which booleans do not have

    # ---- forward ---------------------------------------------------------------------------------------------------

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        residue_mask: torch.Tensor | None = None,
        cached_states: list[torch.Tensor] | None = None,
        num_cached_blocks: int | None = None,
        token_type_ids: torch.Tensor | None = None,
        inputs_embeds: None = None,
        return_similarities: bool = False,
        return_embeddings: bool = False,
        return_hidden_state: bool = False,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
    ) -> SecondaryStructureOutput | tuple:
        """Predict the states of a batch of chains.

        Args:
            input_ids: (batch, tokens) int64, special tokens included.
            attention_mask: (batch, tokens), 1 = keep; None derives it from the padding tokens.
            labels: (batch, tokens) int64; -100 on special tokens, padding and unresolved residues.
            num_items_in_batch: labelled residues of the accumulated batch; Trainer passes it.
            residue_mask: (batch, tokens) bool; None derives it from the attention mask.
            cached_states: what `run_frozen_blocks` returned for these tokens, which are then not needed.
            num_cached_blocks: its `num_blocks`.
            token_type_ids: (batch, tokens) zeros, which BERT's own tokenizers return.
            inputs_embeds: only None, which PEFT passes.
            return_similarities: also return the cosines with the centroids.
            return_embeddings: also return the input of the classifier.
            return_hidden_state: also return the backbone's output, as `last_hidden_state`.
            output_hidden_states: also return the embeddings and the output of each block; None asks the configuration.
            output_attentions: also return the attention of each block; None asks the configuration.
            return_dict: False returns a tuple; None asks the configuration.

        Raises:
            ValueError: if neither tokens nor cached states are given, or something is asked for that is not computed.
        """
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        if output_attentions is None:
            output_attentions = self.config.output_attentions
        trace = self._new_trace(bool(output_hidden_states), bool(output_attentions))
        if inputs_embeds is not None:
            raise ValueError("inputs_embeds is given, but long chains are cut by their tokens. Pass input_ids.")
        if token_type_ids is not None and token_type_ids.any():
            raise ValueError(
                "token_type_ids has other values than 0, but a protein sequence has no pair. Leave it out."
            )
        if cached_states is not None and attention_mask is not None:
            attention_mask = attention_mask.long()
            self._check_cached(num_cached_blocks, output_hidden_states or output_attentions)
        elif input_ids is not None:
            attention_mask = self.attention_mask(input_ids, attention_mask)
            if output_attentions and self._windows(attention_mask):
                raise ValueError(
                    f"output_attentions: a chain of more than {self.max_residues} residues runs in windows, between "
                    "which there is no attention. Leave output_attentions out, or give shorter chains."
                )
            cached_states = self._run_frozen_blocks(input_ids, attention_mask, num_cached_blocks, trace)
        else:
            raise ValueError("forward needs input_ids, or cached_states and their attention_mask.")
        outputs = self._run_trained_blocks(cached_states, attention_mask, num_cached_blocks, trace)
        windows = self._windows(attention_mask)
        hidden = self._combined(outputs, windows)
        if residue_mask is None:
            residue_mask = self.residue_mask(attention_mask)
        output = self.head(hidden.to(self.head_dtype), residue_mask)
        loss = None
        if labels is not None:
            loss = residue_loss(output.logits, labels, self.margin, num_items_in_batch, self.state_weight)
        hidden_states = None
        if output_hidden_states:
            hidden_states = tuple(outputs if windows is None else map(windows.stitch, outputs))
        result = SecondaryStructureOutput(
            loss=loss,
            logits=output.logits,
            hidden_states=hidden_states,
            attentions=None if trace.attentions is None else tuple(trace.attentions),
            similarities=output.similarities if return_similarities else None,
            embeddings=output.embeddings if return_embeddings else None,
            last_hidden_state=hidden if return_hidden_state else None,
        )
        return_dict = self.config.return_dict if return_dict is None else return_dict
        return result if return_dict else result.to_tuple()

    def _check_cached(self, num_blocks: int | None, wants_all_blocks: bool) -> None:
        """Raise ValueError if cached hidden states lack what is asked for, or are no longer those of the model."""
        if wants_all_blocks:
            raise ValueError(
                "cached_states lack the hidden states and attentions of the blocks below. Pass input_ids, or leave out "
                "output_hidden_states and output_attentions."
            )
        num_blocks = self._num_plain_blocks if num_blocks is None else num_blocks
        if torch.is_grad_enabled() and self.num_frozen_blocks < num_blocks:
            raise ValueError(
                f"cached_states are of {num_blocks} blocks, but block {self.num_frozen_blocks} is being trained. Pass "
                "input_ids, or freeze it again."
            )

    @property
    def head_dtype(self) -> torch.dtype:
        """Type of the head's weights: fp32, unless the whole model was cast."""
        return next(self.head.parameters()).dtype

    def probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        """Return calibrated probabilities of the model's own states: softmax of logits over the temperature.

        For coarser states sum before calibrating: `states.reduce_probabilities`, then `states.temper_probabilities`.
        """
        return (logits.float() / self.calibration_temperature).softmax(-1)

    @property
    def calibration_temperature(self) -> float:
        """What divides the logits in calibrated probabilities."""
        return self.config.calibration_temperature

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
