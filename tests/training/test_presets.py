"""Presets: each is a valid recipe, says why for each setting, and gives way to the user's flags."""

import argparse
import re

import pytest
from transformers import EsmConfig

from lift_ss_hf.cli import train as command
from lift_ss_hf.training import job
from lift_ss_hf.training.arguments import ModelArguments, RecipeTrainingArguments
from lift_ss_hf.training.job import model_options
from lift_ss_hf.training.memory import EstimateArguments
from lift_ss_hf.training.presets import DEFAULT_PRESET, preset_names, preset_text
from lift_ss_hf.training.recipes import RecipeError, parse_training


@pytest.mark.parametrize("name", preset_names())
def test_each_setting_has_a_reason(name):
    title, *lines = preset_text(name).splitlines()
    assert title.startswith("# ")
    for line in lines:
        assert re.fullmatch(r"\w+: \S+ +# \S.*", line), line


@pytest.mark.parametrize("name", preset_names())
def test_each_preset_is_a_run_that_can_be_made(name, tmp_path):
    model, corpora, training = parse_training(["--preset", name, "--output_dir", str(tmp_path)], "", ["mine.txt"])
    assert corpora.train == ["mine.txt"]
    assert model_options(model)["head"] == model.head
    training.for_trainer("q9")


def test_lift_ss_is_the_default_of_the_arguments(tmp_path):
    preset, default = (
        parse_training([*flags, "--output_dir", str(tmp_path)], "") for flags in (["--preset", "lift_ss"], [])
    )
    assert preset[0] == default[0]
    differing = {
        name
        for name, value in preset[2].to_dict().items()
        if value != default[2].to_dict()[name] and name != "num_train_epochs"
    }
    assert differing == set()


def test_flags_win_over_the_file_and_the_file_over_the_preset(tmp_path):
    (tmp_path / "recipe.yaml").write_text("head: linear\nhead_dropout: 0.4\n")
    argv = [str(tmp_path / "recipe.yaml"), "--preset", "quick", "--head_dropout", "0.1"]
    model, _, training = parse_training([*argv, "--output_dir", str(tmp_path)], "")
    assert (model.adapter, model.head, model.head_dropout) == ("none", "linear", 0.1)
    assert isinstance(training, RecipeTrainingArguments)
    with pytest.raises(RecipeError, match="unknown argument 'adaptor'"):
        parse_training(["--preset", "quick", "--adaptor", "none"], "")
    with pytest.raises(ValueError, match=rf"unknown preset 'no such'\. Choose one of: {', '.join(preset_names())}"):
        parse_training(["--preset", "no such"], "")


def test_the_help_of_a_recipe_names_them_and_keeps_its_lines(capsys):
    with pytest.raises(SystemExit):
        parse_training(["--help"], "One line.\nAnother line.")
    shown = capsys.readouterr().out
    assert "[--preset NAME]" in shown
    assert f"presets: {', '.join(preset_names())}\n" in shown
    assert "One line.\nAnother line.\n" in shown


def test_the_memory_of_a_preset_is_estimated(tmp_path):
    flags = ["--preset", "best", "--num_processes", "2", "--output_dir", str(tmp_path)]
    model, _, _, devices = parse_training(flags, "", also=[EstimateArguments])
    assert (model.head, devices.num_processes) == ("dilated", 2)


def test_the_help_of_the_command_names_them():
    assert set(re.findall(r"--preset (\w+)", command.HELP)) == set(preset_names())
    assert f"(default: {DEFAULT_PRESET})" in _help()


def _help():
    parser = argparse.ArgumentParser()
    command.add_train_arguments(parser)
    return parser.format_help()


def test_all_blocks_are_mixed_where_the_backbone_is_small(monkeypatch):
    def mix_of(layers, width):
        config = EsmConfig(vocab_size=33, num_hidden_layers=layers, hidden_size=width, num_attention_heads=20)
        monkeypatch.setattr(job, "read_backbone_config", lambda *_, **__: config)
        return model_options(ModelArguments(block_mix="auto"))["block_mix"]

    assert (mix_of(6, 320), mix_of(33, 1280)) == ("concat", None)
