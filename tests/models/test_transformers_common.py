"""transformers' own tests of all its models, on our three classes: with adapters, and with the whole backbone trained.

The tests come with the source distribution of transformers, not with its wheel:

    pip download --no-binary transformers --no-deps --constraint constraints-5.txt transformers
    tar --extract --file transformers-5.23.0.tar.gz
    TRANSFORMERS_TESTS_DIR=transformers-5.23.0/tests pytest tests/models/test_transformers_common.py
"""

from __future__ import annotations

import importlib
import os
import sys
import types
import unittest
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from tiny_models import TRANSFORMERS_4, batch_of_chains, tiny_backbone

from lift_ss_hf.models.backbones import get_model_class

FOLDER = os.environ.get("TRANSFORMERS_TESTS_DIR")
if not FOLDER or not (Path(FOLDER) / "test_modeling_common.py").is_file():
    pytest.skip(
        "needs transformers' own tests: set TRANSFORMERS_TESTS_DIR to `tests` in its source distribution",
        allow_module_level=True,
    )
pytest.importorskip("parameterized", reason="needs parameterized, which transformers' own tests use")

pytestmark = pytest.mark.tools

PRUNING = "prune_heads is refused: a saved model names its backbone, which has all its heads"
EMBEDDINGS = "inputs_embeds is refused: long chains are cut into windows by their tokens"
NO_RANDOM_WEIGHTS = "a file that lacks weights is refused; transformers would go on with random ones"
NO_INIT = "init_weights does nothing: the parts have initialised themselves, or are pretrained"
REENTRANT = "use_reentrant=True is refused: adapters do not see it"
SKIPS = {
    "test_inputs_embeds": EMBEDDINGS,
    "test_inputs_embeds_matches_input_ids": EMBEDDINGS,
    "test_resize_tokens_embeddings": "resizing is refused: a saved model names its backbone, which has its vocabulary",
    "test_correct_missing_keys": NO_RANDOM_WEIGHTS,
    "test_model_weights_reload_no_missing_tied_weights": NO_RANDOM_WEIGHTS,
    "test_from_pretrained_no_checkpoint": "from_pretrained needs files; without files a model is built by its class",
}
# of tests that one version of transformers has
SKIPS |= (
    {
        "test_head_pruning": PRUNING,
        "test_head_pruning_integration": PRUNING,
        "test_head_pruning_save_load_from_config_init": PRUNING,
        "test_head_pruning_save_load_from_pretrained": PRUNING,
        "test_headmasking": "forward takes no head_mask: transformers is about to remove it, with pruning",
        "test_training_gradient_checkpointing_use_reentrant": REENTRANT,
    }
    if TRANSFORMERS_4
    else {
        "test_training_gradient_checkpointing_use_reentrant_true": REENTRANT,
        "test_can_capture_specific_layers_hidden_states": "output_hidden_states is true or false, no list",
        "test_init_weights_can_init_buffers": NO_INIT,
        "test_all_tensors_are_parameter_or_buffer": NO_INIT,
        "test_keep_in_fp32_modules": "trained weights are always fp32, and frozen ones of the type that was asked for",
    }
)
ADAPTER_SKIPS = {
    "test_retain_grad_hidden_states_attentions": "below the lowest adapter nothing is trained or has gradients",
}


# Folders of tests that the source distribution leaves out: of text generation and, from transformers 5 on, of export.
LEFT_OUT = {"generation.test_utils": "GenerationTesterMixin", "exporters.test_export": "ExportTesterMixin"}


def import_common_tests(folder: str) -> types.ModuleType:
    """Import the tests, with empty classes where they import tests that the source distribution leaves out."""
    name = "transformers_tests"
    package = sys.modules[name] = types.ModuleType(name)
    package.__path__ = [folder]
    for path, mixin in LEFT_OUT.items():
        parent, module = f"{name}.{path.split('.')[0]}", f"{name}.{path}"
        sys.modules |= {parent: types.ModuleType(parent), module: types.ModuleType(module)}
        setattr(sys.modules[module], mixin, type(mixin, (), {}))
    return importlib.import_module(f"{name}.test_modeling_common")


common = import_common_tests(FOLDER)


class TinyModels:
    """What the tests ask of a `model_tester`."""

    is_training = True
    batch_size = 3
    num_hidden_layers = 2
    num_attention_heads = 4
    hidden_size = 32

    def __init__(self, family: str, options: dict[str, Any]):
        depth = "num_layers" if family == "t5" else "num_hidden_layers"
        self.backbone_config = tiny_backbone(family, **{depth: self.num_hidden_layers}).config
        self.config_class = get_model_class(family).config_class
        self.options = options
        self.batch = batch_of_chains(family, [10, 7, 4])
        self.seq_length = self.batch["input_ids"].shape[1]

    def get_config(self):
        config = type(self.backbone_config).from_dict(self.backbone_config.to_dict())
        return self.config_class(backbone_config=config, head_channels=16, **self.options)

    def prepare_config_and_inputs_for_common(self):
        return self.get_config(), {name: self.batch[name].clone() for name in ("input_ids", "attention_mask")}


class OurModels(common.ModelTesterMixin):
    family: str
    options: ClassVar[dict[str, Any]] = {}

    def setUp(self):
        skips = SKIPS | (ADAPTER_SKIPS if self.options.get("adapter", "bottleneck") else {})
        if reason := skips.get(self._testMethodName):
            self.skipTest(reason)
        if self.family == "t5" and "_fp16_" in self._testMethodName:
            self.skipTest("float16 is refused over T5, which overflows in it")
        torch.manual_seed(0)
        self.model_tester = TinyModels(self.family, self.options)
        self.all_model_classes = (get_model_class(self.family),)

    def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
        """As for models of transformers that classify tokens, which are known by their names."""
        inputs = super()._prepare_for_class(inputs_dict, model_class)
        return {**inputs, "labels": torch.zeros_like(inputs["input_ids"])} if return_labels else inputs


WHOLE: dict[str, Any] = {"adapter": None, "freeze": None}


class TestEsm(OurModels, unittest.TestCase):
    family = "esm"


class TestT5(OurModels, unittest.TestCase):
    family = "t5"


class TestBert(OurModels, unittest.TestCase):
    family = "bert"


class TestWholeEsm(TestEsm):
    options = WHOLE


class TestWholeT5(TestT5):
    options = WHOLE


class TestWholeBert(TestBert):
    options = WHOLE


def test_every_skip_is_of_a_test_that_there_is():
    assert {name for name in SKIPS | ADAPTER_SKIPS if not hasattr(common.ModelTesterMixin, name)} == set()
