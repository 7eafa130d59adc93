"""What a recipe needs, before anything is fetched or launched: parameters, memory for each device.

The model is built and run forwards on torch's fake tensors, which have shapes and no content; what autograd would keep
for the backward pass is counted by its own hooks, so nothing here repeats the architecture.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from adapters.methods import modeling as adapter_modules
from torch._subclasses.fake_tensor import FakeTensorMode

from ..models.modeling import SecondaryStructureModel
from ..models.states import get_alphabet
from .arguments import ModelArguments, RecipeTrainingArguments
from .job import model_options

ADAM_STATES = 2  # mean and variance of each gradient, fp32


@dataclass
class EstimateArguments:
    """The devices to estimate for."""

    _argument_group_name = "devices"
    num_processes: int = field(default=1, metadata={"help": "devices that share the work"})
    chain_length: int = field(default=512, metadata={"help": "chains of this length fill the batch [residues]"})


@dataclass
class Estimate:
    """What one device holds while a model is trained on it alone.

    Attributes:
        parameters: `parameter_summary()` of the model.
        weights, gradients, optimizer, activations: [bytes].
    """

    parameters: dict[str, dict[str, int]]
    weights: int
    gradients: int
    optimizer: int
    activations: int

    def on_each_device(self, stage: int, num_processes: int) -> dict[str, int]:
        """The same under ZeRO.

        Args:
            stage: 0 for DDP, 1 splits the optimizer's states, 2 gradients too, 3 weights too.
            num_processes: devices.

        Returns:
            [bytes] of each part, and `total`.
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
    """Estimate what a recipe holds in memory.

    Args:
        model: of the recipe; only the backbone's configuration is fetched.
        training: of the recipe.
        chain_length: chains of this length fill the token budget; a longer one is a batch of its own [residues].

    Raises:
        ValueError: for a model that cannot be built.
    """
    with FakeTensorMode(), _kronecker_products_by_shape():
        built = planned_model(model)
        if training.gradient_checkpointing:
            built.gradient_checkpointing_enable()
        rows = max(1, training.max_tokens_per_batch // chain_length)
        tokens = torch.ones(rows, chain_length, dtype=torch.int64)
        activations = saved_activations(built, tokens, training.bf16)
    trained = sum(parameter.numel() for parameter in built.parameters() if parameter.requires_grad)
    return Estimate(
        parameters=built.parameter_summary(),
        weights=sum(parameter.numel() * parameter.element_size() for parameter in built.parameters()),
        gradients=4 * trained,
        optimizer=4 * ADAM_STATES * trained,
        activations=activations,
    )


def planned_model(arguments: ModelArguments) -> SecondaryStructureModel:
    """The model of a recipe without its weights: under FakeTensorMode it takes no memory.

    Raises:
        ValueError: for a model that cannot be built.
    """
    options = model_options(arguments)
    if arguments.loss == "ldam" or arguments.balance:
        options["class_counts"] = [1] * len(get_alphabet(arguments.states))  # of no account for shapes
    plan = SecondaryStructureModel.plan(arguments.backbone, **options)
    return SecondaryStructureModel.untrained(plan, arguments.backbone_dtype)


@contextlib.contextmanager
def _kronecker_products_by_shape() -> Iterator[None]:
    """Let compacters run without content: adapters 1.3.0 multiplies their shapes as tensors. Drop when it does not."""
    stock = adapter_modules.kronecker_product

    def product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """(n, i, j) and (n, k, l) to (n, i k, j l), as the stock one."""
        outer = a[..., :, None, :, None] * b[..., None, :, None, :]
        return outer.reshape(*outer.shape[:-4], a.shape[-2] * b.shape[-2], a.shape[-1] * b.shape[-1])

    adapter_modules.kronecker_product = product
    try:
        yield
    finally:
        adapter_modules.kronecker_product = stock


def saved_activations(model: SecondaryStructureModel, tokens: torch.Tensor, bf16: bool = False) -> int:
    """Run a model forwards in training mode and count what autograd keeps, each tensor once, weights apart.

    Args:
        model: it stays in training mode.
        tokens: (batch, tokens) int64, all kept.
        bf16: under autocast.

    Returns:
        [bytes].
    """
    weights = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def count(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = storage  # held, lest its address be given to another
        return tensor

    model.train()
    autocast = torch.autocast(tokens.device.type, torch.bfloat16, enabled=bf16)
    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor), autocast:
        model(tokens, attention_mask=torch.ones_like(tokens))
    return sum(storage.nbytes() for storage in kept.values())
