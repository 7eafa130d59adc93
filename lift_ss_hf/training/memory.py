"""Estimate what a recipe needs before it is launched: parameters, and memory for each device.

The model is built and run forward on torch's fake tensors, which have shapes but no data. Autograd's own hooks count
the activations kept for the backward pass, so nothing here repeats the architecture.

Existing estimators do not apply. `accelerate estimate-memory` reads a model's configuration from the Hub and assumes
that all weights are trained; DeepSpeed's `estimate_zero*_model_states_mem_needs` take a built model and assume the
same. With a frozen backbone gradients and optimizer states are a few percent of that, and the activations, which both
leave out, are most of the memory.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from ..batches.cached_chains import cached_states_bytes
from ..models.adapters_library import IA3, LoRA, bottleneck_maths
from ..models.configuration import check_at_least
from ..models.modeling import SecondaryStructureModel
from .arguments import ModelArguments, RecipeTrainingArguments
from .job import planned_options

ADAM_STATES = 2  # mean and variance of each gradient, fp32
# What a process that trains on a CPU takes besides a step's tensors: Python, the libraries, a corpus of some hundred
# chains. torch 2.13, transformers 5.23 and 4.57, Python 3.11, Linux [bytes]
PROCESS = 650_000_000
# Resident memory for each byte of a step's tensors: gaps in the heap between two returns of free memory
# (callbacks.ReturnFreeMemory). Both numbers are fitted to runs with ESM-2 8M: benchmarks/training.md.
GAPS = 1.8


@dataclass
class EstimateArguments:
    """The devices and the batch to estimate for."""

    _argument_group_name = "devices"
    num_processes: int = field(default=1, metadata={"help": "number of devices"})
    chain_length: int = field(default=512, metadata={"help": "length of the chains of a batch [residues]"})

    def __post_init__(self):
        for name in ("num_processes", "chain_length"):
            check_at_least(name, getattr(self, name), 1)


@dataclass
class Estimate:
    """Memory of a model that is trained on one device.

    Attributes:
        parameters: `parameter_summary()` of the model.
        weights: all weights [bytes].
        gradients: gradients of the trained weights [bytes].
        optimizer: AdamW's mean and variance of each gradient [bytes].
        activations: tensors that autograd keeps for the backward pass [bytes].
        step: the most that all tensors of a step take at a time, short-lived ones too [bytes].
        cached: size of the prefix cache [bytes per residue]; 0 without a cache.
    """

    parameters: dict[str, dict[str, int]]
    weights: int
    gradients: int
    optimizer: int
    activations: int
    step: int = 0
    cached: int = 0

    @property
    def on_cpu(self) -> int:
        """Resident memory of a process that trains on a CPU, without the prefix cache [bytes].

        The prefix cache is mapped from files: its pages are counted as resident while they are not needed elsewhere.
        """
        return PROCESS + round(GAPS * self.step)

    def on_each_device(self, stage: int, num_processes: int) -> dict[str, int]:
        """Return the memory of each device under DDP or ZeRO.

        Args:
            stage: 0 for DDP; ZeRO-1 shards the optimizer states, ZeRO-2 also gradients, ZeRO-3 also weights.
            num_processes: number of devices.

        Returns:
            The size of each part, and `total` [bytes].

        Example:
            >>> Estimate({}, weights=100, gradients=40, optimizer=80, activations=7).on_each_device(2, 4)
            {'weights': 100, 'gradients': 10, 'optimizer': 20, 'activations': 7, 'total': 137}
        """
        held: dict[str, int] = {}
        for first_stage, part in ((3, "weights"), (2, "gradients"), (1, "optimizer"), (4, "activations")):
            whole = getattr(self, part)
            held[part] = -(-whole // num_processes) if stage >= first_stage else whole
        return held | {"total": sum(held.values())}

    def by_launch(self, num_processes: int) -> dict[str, dict[str, int]]:
        """Return `on_each_device` for each launch: `alone` on one device, else `DDP` and `ZeRO-1` to `ZeRO-3`."""
        launches = ["DDP", "ZeRO-1", "ZeRO-2", "ZeRO-3"] if num_processes > 1 else ["alone"]
        return {launch: self.on_each_device(stage, num_processes) for stage, launch in enumerate(launches)}


def estimate(model: ModelArguments, training: RecipeTrainingArguments, chain_length: int = 512) -> Estimate:
    """Estimate the memory that a recipe needs on one device.

    Args:
        model: the recipe's model; only the configuration of its backbone is fetched.
        training: the recipe's training arguments.
        chain_length: length of the chains that fill the token budget; at least one chain (default: 512) [residues].

    Raises:
        ValueError: if the model cannot be built.
    """
    with fake_weights():
        built = planned_model(model)
        if training.gradient_checkpointing:
            built.gradient_checkpointing_enable()
        is_random = training.batching == "random"
        rows = training.per_device_train_batch_size if is_random else training.max_tokens_per_batch // chain_length
        tokens = torch.ones(max(1, rows), chain_length, dtype=torch.int64)
        activations = saved_activations(built, tokens, bool(training.bf16))
        step = step_peak(built, tokens, bool(training.bf16))
        cached = 0
        if training.prefix_cache_settings is not None and built.num_frozen_blocks:
            cached = cached_states_bytes(built, built.num_frozen_blocks, [chain_length]) // chain_length
    trained = sum(parameter.numel() for parameter in built.parameters() if parameter.requires_grad)
    return Estimate(
        parameters=built.parameter_summary(),
        weights=sum(parameter.numel() * parameter.element_size() for parameter in built.parameters()),
        gradients=4 * trained,
        optimizer=4 * ADAM_STATES * trained,
        activations=activations,
        step=step,
        cached=cached,
    )


def planned_model(arguments: ModelArguments) -> SecondaryStructureModel:
    """Build the model of a recipe without loading weights; under `fake_weights` it takes no memory.

    Raises:
        ValueError: if the model cannot be built.
    """
    plan = SecondaryStructureModel.plan(arguments.backbone, **planned_options(arguments))
    return SecondaryStructureModel.untrained(plan, arguments.backbone_dtype)


@contextlib.contextmanager
def fake_weights() -> Iterator[None]:
    """Let tensors have shapes but no values, and adapters 1.3.0 build and run on such tensors.

    Its `kronecker_product` computes the shape of the result with tensors, and its LoRA and IA3 are moved to the device
    that they are on, which torch refuses for a process's first fake parameter. Drop either when it does neither.
    """
    product = bottleneck_maths.kronecker_product
    bottleneck_maths.kronecker_product = _kronecker_product
    for module in (LoRA, IA3):
        module.to = lambda self, *_: self
    try:
        with FakeTensorMode():
            yield
    finally:
        bottleneck_maths.kronecker_product = product
        for module in (LoRA, IA3):
            del module.to


def _kronecker_product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return the Kronecker product of (n, i, j) and (n, k, l): (n, i k, j l)."""
    outer = a[..., :, None, :, None] * b[..., None, :, None, :]
    return outer.reshape(*outer.shape[:-4], a.shape[-2] * b.shape[-2], a.shape[-1] * b.shape[-1])


def saved_activations(model: SecondaryStructureModel, tokens: torch.Tensor, bf16: bool = False) -> int:
    """Run a model forward in training mode, and return the size of what autograd keeps besides the weights.

    Args:
        model: a secondary structure model; it is left in training mode.
        tokens: (batch, tokens) int64, without padding.
        bf16: use bfloat16 autocast (default: False).

    Returns:
        Size of the kept tensors, each counted once [bytes].
    """
    weights = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def count(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = storage  # a reference, so that its address is not reused
        return tensor

    model.train()
    autocast = torch.autocast(tokens.device.type, torch.bfloat16, enabled=bf16)
    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor), autocast:
        model(tokens, attention_mask=torch.ones_like(tokens))
    return sum(storage.nbytes() for storage in kept.values())


def step_peak(model: SecondaryStructureModel, tokens: torch.Tensor, bf16: bool = False) -> int:
    """Run two training steps, and return the most that tensors take at a time, weights included.

    Args:
        model: a secondary structure model; it is left in training mode.
        tokens: (batch, tokens) int64, without padding.
        bf16: use bfloat16 autocast (default: False).

    Returns:
        Size of all tensors that live at the same time, each storage counted once [bytes].
    """
    model.train()
    optimizer = torch.optim.AdamW([parameter for parameter in model.parameters() if parameter.requires_grad])
    autocast = torch.autocast(tokens.device.type, torch.bfloat16, enabled=bf16)
    with _LiveTensors(model.parameters()) as live:
        for _ in range(2):  # the optimizer's states exist from the second step on
            with autocast:
                logits = model(tokens, attention_mask=torch.ones_like(tokens)).logits
            logits.sum().backward()  # in place of the loss, whose tensors are as small
            del logits
            optimizer.step()
            optimizer.zero_grad()
    return live.peak


class _LiveTensors(TorchDispatchMode):
    """Counts the storages of tensors, and of what operators return, until they are freed.

    Args:
        tensors: what is there already.

    Attributes:
        peak: the most that they took at a time [bytes].
    """

    def __init__(self, tensors: Iterable[torch.Tensor]):
        super().__init__()
        self.peak = self._now = 0
        self._sizes: dict[int, int] = {}
        for tensor in tensors:
            self._count(tensor)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operator."""
        returned = func(*args, **(kwargs or {}))
        tree_map_only(torch.Tensor, self._count, returned)
        return returned

    def _count(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._sizes:
            self._sizes[storage._cdata] = storage.nbytes()
            self._now += storage.nbytes()
            self.peak = max(self.peak, self._now)
            weakref.finalize(storage, self._free, storage._cdata)

    def _free(self, address: int) -> None:
        self._now -= self._sizes.pop(address)
