"""Recipes: flags win over the YAML file, and unknown names get a suggestion before anything is run."""

import re
from pathlib import Path

import pytest
import torch
from other_stacks import ARGUMENTS, DATA, training_arguments
from small_runs import write_data
from tiny_models import TRANSFORMERS_4, save_tiny_backbone
from transformers import TrainingArguments

from lift_ss_hf.models.adapter_methods import ADAPTERS
from lift_ss_hf.models.modeling import SecondaryStructureModel
from lift_ss_hf.training import recipes
from lift_ss_hf.training.arguments import CHANGED_DEFAULTS, CorpusArguments, ModelArguments, RecipeTrainingArguments
from lift_ss_hf.training.job import model_options, run_training
from lift_ss_hf.training.pretraining import EncoderArguments, SequenceArguments
from lift_ss_hf.training.recipes import (
    ONLY_IN_4_57,
    ONLY_IN_5,
    RecipeError,
    parse_recipe,
    parse_settings,
    parse_training,
)
from lift_ss_hf.training.sweeps import read_points

FOLDER = Path(__file__).parents[2] / "recipes"
RECIPES = sorted(
    path for path in FOLDER.glob("*/*.yaml") if path.parent.name not in ("pretrain_mlm", "study", "sweeps")
)
CLASSES = (ModelArguments, CorpusArguments, RecipeTrainingArguments)


def parse(tmp_path, *argv, text=None):
    if text is not None:
        (tmp_path / "recipe.yaml").write_text(text)
        argv = (str(tmp_path / "recipe.yaml"), *argv)
    return parse_recipe(CLASSES, "Train.", [*argv, "--output_dir", str(tmp_path / "run")])


def test_flags_win_over_the_file_and_the_file_over_defaults(tmp_path):
    text = "adapter: lora\ntop_blocks: 3\ntests: [casp12, casp13]\nlearning_rate: 2.0e-4\nvalidation: []\n"
    model, corpora, training = parse(tmp_path, "--top_blocks", "5", "--bf16", text=text)
    assert (model.adapter, model.top_blocks, model.head) == ("lora", 5, "lift_ss")
    assert (corpora.tests, corpora.validation, corpora.train) == (["casp12", "casp13"], [], ["sample"])
    assert (training.learning_rate, training.bf16) == (2e-4, True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rat: 1", r"recipe\.yaml: unknown argument 'learning_rat'\. Did you mean 'learning_rate'\?"),
        ("- a\n- b", r"recipe\.yaml: expected `name: value` lines, found list"),
        ("a: [1", r"recipe\.yaml: not YAML"),
        ("columns: paper", r"argument --columns: invalid choice: 'paper' \(choose from 'lift_ss', 'standard'\)"),
        ("seed: many", r"argument --seed: invalid int value: 'many'"),
        ("seed:", r"recipe\.yaml: seed is empty\. Write a value, or leave the line out"),
        ("prefix_cache: false", r"recipe\.yaml: prefix_cache is false\. Expected a word or a path"),
    ],
)
def test_invalid_files_are_reported_in_one_line(tmp_path, text, message):
    with pytest.raises(RecipeError, match=message) as error:
        parse(tmp_path, text=text)
    assert "\n" not in str(error.value)


def test_on_off_and_no_are_words_where_words_are_expected(tmp_path):
    text = "prefix_cache: off\neval_strategy: no\nload_best_model_at_end: off\ngradient_checkpointing: on\nbf16: no\n"
    _, _, training = parse(tmp_path, text=text)
    assert training.prefix_cache_settings is None
    assert (training.eval_strategy, training.load_best_model_at_end) == ("no", False)
    assert (training.gradient_checkpointing, training.bf16) == (True, False)


def test_a_preset_is_read_as_a_recipe_is(tmp_path, monkeypatch):
    monkeypatch.setattr(
        recipes, "preset_text", lambda name: "prefix_cache: off\neval_strategy: no\nsave_strategy: no\n"
    )
    flags = ["--preset", "quick", "--output_dir", str(tmp_path), "--report_to", "none"]
    *_, training = parse_training(flags, "")
    assert (training.prefix_cache, training.eval_strategy) == ("off", "no")


def test_no_prefix_cache_is_none_as_in_other_flags(tmp_path):
    training = RecipeTrainingArguments(str(tmp_path), report_to="none", prefix_cache="none", mask_fraction=0.1)
    assert training.prefix_cache_settings is None


def test_one_process_uses_one_gpu(tmp_path, monkeypatch):
    """The Trainer would use torch's DataParallel."""

    def several(training):
        training._n_gpu = 3
        return torch.device("cuda", 0)

    training = RecipeTrainingArguments(str(tmp_path), report_to="none", per_device_train_batch_size=2)
    monkeypatch.setattr(TrainingArguments, "_setup_devices", property(several))
    assert (training.device.type, training.n_gpu, training.train_batch_size) == ("cuda", 1, 2)


def test_an_empty_list_of_a_recipe_has_no_values(tmp_path):
    _, corpora, _ = parse(tmp_path, text="tests:\nvalidation:\n")
    assert (corpora.tests, corpora.validation) == ([], [])


def test_invalid_flags_are_reported_in_one_line(tmp_path):
    with pytest.raises(RecipeError, match=r"unknown argument 'adaptor'\. Did you mean 'adapter'\?"):
        parse(tmp_path, "--adaptor", "lora")
    (tmp_path / "pisces.yaml").touch()
    with pytest.raises(RecipeError, match=r"/pices\.yaml: no such recipe\. Did you mean '.*/pisces\.yaml'\? Give"):
        parse_recipe(CLASSES, "Train.", [str(tmp_path / "pices.yaml")])


def test_resume_alone_means_the_last_checkpoint(tmp_path):
    where = ["--output_dir", str(tmp_path)]
    (training,) = parse_recipe([RecipeTrainingArguments], "", [*where, "--resume"])
    assert training.resume_from_checkpoint == "last"
    (training,) = parse_recipe([RecipeTrainingArguments], "", where)
    assert training.resume_from_checkpoint is None
    with pytest.raises(RecipeError, match="unknown argument 'resume'"):
        parse_recipe([CorpusArguments], "", ["--resume"])


def test_help_groups_the_arguments_and_gives_units(capsys):
    with pytest.raises(SystemExit):
        parse_recipe(CLASSES, "Train.", ["--help"])
    text = " ".join(capsys.readouterr().out.split())
    for heading in ("model:", "corpora:", "training (transformers.TrainingArguments):"):
        assert heading in text
    assert "[tokens]" in text
    assert "(default: 2048)" in text
    assert "10% slower" in text  # of transformers, not escaped for argparse
    assert "option_strings" not in text
    assert {*ADAPTERS} <= set(re.findall(r"\w+", text.split("--adapter ADAPTER")[-1].split("--adapter_options")[0]))


def test_every_changed_default_has_its_reason(tmp_path):
    ours, theirs = RecipeTrainingArguments(output_dir=str(tmp_path)), TrainingArguments(output_dir=str(tmp_path))
    names = TrainingArguments.__dataclass_fields__
    own_defaults = {
        name: field.default for name, field in RecipeTrainingArguments.__dataclass_fields__.items() if name in names
    }
    changed = {name for name, value in own_defaults.items() if value != names[name].default}
    assert changed - {"use_cpu"} == set(CHANGED_DEFAULTS) - {"use_cpu"}
    assert theirs.learning_rate != ours.learning_rate


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_recipe_parses_and_states_its_needs(path, tmp_path):
    model, corpora, _ = parse_recipe(CLASSES, "Train.", [str(path), "--output_dir", str(tmp_path)])
    text = path.read_text()
    for needed in ("# Hardware:", "Memory:", "# Differs from the paper:"):
        assert needed in text
    assert corpora.tests != ["sample"]
    assert (model.backbone == "bundled") == (path.parent.name == "bundled")


@pytest.fixture(scope="module")
def deep_backbones(tmp_path_factory):
    """A backbone of each family that is as deep as the recipes say."""
    folder = tmp_path_factory.mktemp("deep")
    t5 = save_tiny_backbone(folder / "t5", "t5", num_layers=24)
    return {"t5": t5, "esm": save_tiny_backbone(folder / "esm", "esm", num_hidden_layers=33)}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_the_regimes_are_one_line_overrides(path, deep_backbones, tmp_path):
    deep_backbone = deep_backbones["t5" if path.parent.name in ("ankh3_large", "prot_t5_xl", "prostt5") else "esm"]
    regimes = {(): "all", ("--adapter", "none"): "all", ("--adapter", "none", "--freeze", "none"): None}
    for regime, freeze in regimes.items():
        flags = [str(path), "--output_dir", str(tmp_path), "--backbone", deep_backbone, *regime]
        model, _, _ = parse_recipe(CLASSES, "Train.", flags)
        config = SecondaryStructureModel.plan(deep_backbone, **model_options(model))
        assert (config.adapter is None, config.freeze) == (bool(regime), freeze)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "num_adapted", "prefix_length"), [("reference_2023", 8, 0), ("reference_2022", 24, 48)]
)
def test_a_recipe_of_the_reference_runs_to_its_table(name, num_adapted, prefix_length, deep_backbones, tmp_path):
    """On a tiny T5 as deep as ProtT5; heads and chains are small too."""
    data, out = write_data(tmp_path), tmp_path / "run"
    small = ["--head_channels", "16", "--max_steps", "2", "--bootstrap", "0", "--report_to", "none", "--bf16", "false"]
    corpora = [x for part in ("train", "validation") for x in (f"--{part}", str(data / f"{part}.txt"))]
    corpora += ["--tests", str(data / "test.txt"), "--output_dir", str(out)]
    arguments = [str(FOLDER / "prot_t5_xl" / f"{name}.yaml"), "--backbone", deep_backbones["t5"], *small, *corpora]
    parts = parse_recipe(CLASSES, "Train.", arguments)
    results = run_training(*parts)
    config = SecondaryStructureModel.from_pretrained(out / "model").config
    assert config.num_blocks - len(config.leave_out) == num_adapted
    assert (config.backbone_dropout, config.centroid_init, config.prefix_shift) == (
        "reference",
        "reference",
        bool(prefix_length),
    )
    assert config.adapter_options.get("prefix_length", 0) == prefix_length
    training = parts[2]
    assert (training.batching, training.per_device_train_batch_size) == ("random", 4)
    assert (training.loss_weighting, training.gradient_accumulation_steps) == ("micro_batch", 8)
    (result,) = results["corpora"].values()
    assert 0 < result["scores"]["q9"]["q9"] < 100
    assert "Q9" in (out / "results.md").read_text()


def test_a_flag_switches_off_what_a_recipe_sets(tmp_path):
    (tmp_path / "recipe.yaml").write_text("block_mix: concat\nbalance: inverse\n")
    flags = ("--block_mix", "none", "--balance", "none", "--output_dir", str(tmp_path))
    model, _, _ = parse_recipe(CLASSES, "Train.", [str(tmp_path / "recipe.yaml"), *flags])
    options = model_options(model)
    assert (options["block_mix"], options["balance"]) == (None, None)


def test_null_in_a_sweep_is_null_in_a_recipe(tmp_path):
    (tmp_path / "recipe.yaml").write_text("adapter: null\nblock_mix: null\ntop_blocks: null\n")
    point = {"adapter": None, "block_mix": None, "top_blocks": None}
    ours = parse_settings(CLASSES, {**point, "output_dir": str(tmp_path)})
    model, corpora, _ = parse_recipe(CLASSES, "", [str(tmp_path / "recipe.yaml"), "--output_dir", str(tmp_path)])
    assert ours[:2] == (model, corpora)
    assert (model.adapter, model.block_mix) == (None, None)


def test_greater_is_better_unless_the_metric_is_a_loss(tmp_path):
    for metric, greater in ((None, True), ("q3", True), ("loss", False)):
        training = RecipeTrainingArguments(output_dir=str(tmp_path), metric_for_best_model=metric)
        assert training.greater_is_better == greater


@pytest.mark.parametrize(
    ("given", "num_steps"),
    [
        ({"warmup_ratio": 0.25}, 10),
        ({"warmup_ratio": 1.0}, 40),
        ({"warmup_ratio": 0.25, "warmup_steps": 3}, 3),
        ({"warmup_steps": 3}, 3),
        ({}, 0),
    ],
)
def test_a_warm_up_is_the_same_in_every_version_of_transformers(given, num_steps, tmp_path):
    assert RecipeTrainingArguments(output_dir=str(tmp_path), **given).get_warmup_steps(40) == num_steps


def test_a_warm_up_of_more_than_all_steps_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"warmup_ratio is 1.5. Expected a fraction from 0 to 1."):
        RecipeTrainingArguments(output_dir=str(tmp_path), warmup_ratio=1.5)


def test_an_argument_of_one_version_of_transformers_works_or_says_what_to_write(tmp_path):
    in_4, in_5 = (set((folder / ARGUMENTS).read_text().split()) for folder in sorted(DATA.glob("transformers_*")))
    installed, other = (in_4, in_5) if TRANSFORMERS_4 else (in_5, in_4)
    assert installed == set(training_arguments()), "make the file again: see tests/other_stacks.py"
    assert in_4 - in_5 == set(ONLY_IN_4_57) | {"warmup_ratio", "overwrite_output_dir"}
    assert in_5 - in_4 == set(ONLY_IN_5)
    known = RecipeTrainingArguments.__dataclass_fields__
    there, here = ("5", "4.57") if TRANSFORMERS_4 else ("4.57", "5")
    for name, instead in (ONLY_IN_5 if TRANSFORMERS_4 else ONLY_IN_4_57).items():
        assert name in other
        with pytest.raises(RecipeError) as error:
            parse(tmp_path, text=f"{name}: x")
        assert f"{name!r} is an argument of transformers {there}; transformers {here}" in str(error.value)
        assert str(error.value).endswith(instead)
        for word in re.findall(r"Write (\w+)", instead):
            assert word in known or "fsdp_config" in instead


def test_an_argument_of_the_trainer_is_unknown_where_nothing_is_trained():
    with pytest.raises(RecipeError, match=r"unknown argument 'logging_dir'\. See --help"):
        parse_recipe([ModelArguments], "", ["--logging_dir", "x"])


def test_the_other_recipes_parse_too():
    for path in FOLDER.glob("pretrain_mlm/*.yaml"):
        shape, _, training = parse_recipe((EncoderArguments, SequenceArguments, TrainingArguments), "", [str(path)])
        assert shape.hidden_size % shape.num_attention_heads == 0
        assert training.max_steps > 0
    for path in FOLDER.glob("sweeps/*.yaml"):
        base, points = read_points(path)
        for name in {*base, *(name for point in points for name in point)}:
            assert any(name in arguments.__dataclass_fields__ for arguments in CLASSES), name
