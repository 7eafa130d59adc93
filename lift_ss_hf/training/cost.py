"""Estimate how long a training run takes before it is launched: floating-point operations, and this machine's speed.

The operations are counted by torch on fake tensors, as the memory is in `memory`, so that nothing here repeats the
architecture, and a backbone's weights are not needed.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ..models.modeling import SecondaryStructureModel
from .arguments import CorpusArguments, ModelArguments, RecipeTrainingArguments
from .corpora import TrainingCorpora
from .job import planned_options
from .memory import fake_weights, planned_model

CHAIN_LENGTH = 256  # of the chains that operations are counted and timed for, about the corpora's mean [tokens]
TIMED_STEPS = 3  # after one that allocates memory
SCORINGS = 2  # of the validation chains, besides those after each epoch: before training, and to calibrate


@dataclass(frozen=True)
class Operations:
    """Floating-point operations of a model for each token.

    Attributes:
        step: of a training step, forward and backward.
        forward: of a prediction.
        frozen: of the blocks that training does not change, which are part of both.
        trained_parameters: number of parameters that are trained.
    """

    step: float
    forward: float
    frozen: float
    trained_parameters: int


def count_operations(arguments: ModelArguments) -> Operations:
    """Count the operations of a recipe's model; only the configuration of its backbone is fetched.

    Raises:
        ValueError: if the model cannot be built.
    """
    with fake_weights():
        model = planned_model(arguments)
        tokens = torch.ones(1, CHAIN_LENGTH, dtype=torch.int64)
        mask = torch.ones_like(tokens)
        counted = []
        for run in (
            lambda: model.train()(tokens, attention_mask=mask).logits.sum().backward(),  # a loss has no fake tensors
            lambda: model.eval()(tokens, attention_mask=mask),
            lambda: model.run_frozen_blocks(tokens, mask, model.num_frozen_blocks),
        ):
            # torch 2.13 has no formula for the CPU's own attention kernel. Drop the choice of a kernel when it has.
            with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
                run()
            counted.append(counter.get_total_flops() / CHAIN_LENGTH)
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    step, forward, frozen = counted
    return Operations(step, forward, frozen, trained)


def run_operations(
    operations: Operations, corpora: TrainingCorpora, corpus: CorpusArguments, training: RecipeTrainingArguments
) -> float:
    """Return the operations of a run: training, validation after each epoch, and the tests.

    Cached states save the frozen blocks in training and in the validation of its epochs, and in scoring if the tests
    are cached; filling the cache is not counted, since runs share it.

    Args:
        operations: of the run's model.
        corpora: chains of a run with all training chains.
        corpus: the run's arguments of the corpora, of which `train_fraction` counts.
        training: the run's arguments.
    """
    epochs = training.num_train_epochs
    cached = operations.frozen if training.prefix_cache_settings is not None else 0.0
    train = sum(corpora.train["num_residues"]) * corpus.train_fraction
    validation = sum(corpora.validation["num_residues"])
    distinct = {sequence for part in corpora.tests.values() for sequence in part["sequence"]}
    tests = sum(map(len, distinct))  # a chain that is in several tests is predicted once
    trained = train * epochs * (operations.step - cached)
    validated = validation * epochs * (operations.forward - cached)
    scoring = operations.forward - (cached if training.scoring_cache is not None else 0.0)
    return trained + validated + (SCORINGS * validation + tests) * scoring


def measure_speed(arguments: ModelArguments, training: RecipeTrainingArguments, operations: Operations) -> float:
    """Return how many operations a second this machine does in training, by a few steps of a model.

    Args:
        arguments: of the model.
        training: how it is trained.
        operations: of the model.

    Raises:
        ValueError: if the model cannot be loaded.
    """
    options = planned_options(arguments)
    model = SecondaryStructureModel.from_backbone(arguments.backbone, dtype=arguments.backbone_dtype, **options)
    model = model.to(training.device)
    rows = max(1, training.max_tokens_per_batch // CHAIN_LENGTH)
    # 5 is a residue in the vocabulary of every family
    tokens = torch.full((rows, CHAIN_LENGTH), 5, device=training.device)
    seconds = []
    for _ in range(TIMED_STEPS + 1):
        started = time.perf_counter()
        with torch.autocast(training.device.type, torch.bfloat16, enabled=bool(training.bf16)):
            loss = model.train()(tokens, attention_mask=torch.ones_like(tokens), labels=torch.zeros_like(tokens)).loss
        loss.backward()
        float(loss.detach())  # waits for the device
        if training.device.type != "cpu":
            getattr(torch, training.device.type).synchronize()
        seconds.append(time.perf_counter() - started)
    return operations.step * tokens.numel() / min(seconds[1:])  # the others were slowed down by something else
