"""Train, evaluate, predict and push over backbones as they lie on the real Hub, and load what was pushed elsewhere."""

import argparse
import json
import re

import pytest
from clean_process import TOKEN
from corpus_files import write_three_line
from hub_layouts import FAILING, NAME, WORKING, add_layout
from hub_server import offline, running_hub, using_hub
from scripts import run_script
from small_runs import make_chains, train

from lift_ss_hf.cli.convert_backbone import add_convert_arguments, convert
from lift_ss_hf.hub.push import push_model
from lift_ss_hf.models.backbones import BackboneError, PickleError
from lift_ss_hf.models.modeling import SecondaryStructureModel
from lift_ss_hf.models.tokenization import ResidueTokenizer

NEEDS_CONVERSION = ("pickle", "pickle_shards")
ONE_EPOCH = ("--num_train_epochs", "1", "--backbone", NAME)


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpora")
    for name, number, seed in (("train", 8, 0), ("validation", 3, 1), ("test", 3, 2)):
        write_three_line(make_chains(number, seed), folder / f"{name}.txt")
    return folder


def convert_command(*arguments):
    parser = argparse.ArgumentParser()
    add_convert_arguments(parser)
    convert(parser.parse_args(arguments))


@pytest.mark.parametrize("layout", WORKING)
def test_each_layout_works_from_training_to_a_pushed_model(layout, corpora, tmp_path):
    with running_hub() as hub:
        commit = add_layout(hub, layout, tmp_path / "files")
        with using_hub(hub, tmp_path / "home", TOKEN):
            run = tmp_path / "run"
            if layout in NEEDS_CONVERSION:
                with pytest.raises(PickleError, match="lift-ss convert-backbone org/prot_t5"):
                    train(corpora, run, *ONE_EPOCH)
            train(corpora, run, *ONE_EPOCH, "--convert_backbone", "True")
            config = json.loads((run / "model" / "config.json").read_text())
            assert (config["backbone_name"], config["backbone_revision"]) == (NAME, commit)
            done = run_script("recipes/evaluate.py", run / "model", "--corpora", corpora / "test.txt", "--bootstrap", 0)
            assert "test" in done.stdout, done.stderr
            done = run_script("recipes/predict.py", "MKTAYIAK", "--model", run / "model", "--quiet")
            here = done.stdout
            assert here.startswith(">record_1\nMKTAYIAK\n"), done.stderr
            push_model(run / "model", "me/tuned")
        with using_hub(hub, tmp_path / "elsewhere", TOKEN):
            if layout in NEEDS_CONVERSION:
                done = run_script("recipes/predict.py", "MKTAYIAK", "--model", "me/tuned", "--quiet")
                assert (done.returncode, done.stdout) == (2, "")
                assert "lift-ss convert-backbone org/prot_t5 --revision" in done.stderr
                assert done.stderr.rstrip().count("\n") == 0
                convert_command(NAME)
            done = run_script("recipes/predict.py", "MKTAYIAK", "--model", "me/tuned", "--quiet")
            assert done.stdout == here, done.stderr
            with offline():
                SecondaryStructureModel.from_pretrained("me/tuned")


@pytest.mark.parametrize("layout", FAILING)
def test_the_other_layouts_end_in_one_line(layout, corpora, tmp_path):
    with running_hub() as hub:
        add_layout(hub, layout, tmp_path / "files")
        for token in (None, TOKEN):
            with using_hub(hub, tmp_path / "home", token):
                for call in (
                    lambda: train(corpora, tmp_path / "run", *ONE_EPOCH),
                    lambda: convert_command(NAME),
                    lambda: ResidueTokenizer.from_pretrained(NAME),
                    lambda: SecondaryStructureModel.from_backbone(NAME),
                ):
                    with pytest.raises(ValueError, match=FAILING[layout]) as told:
                        call()
                    assert "\n" not in str(told.value)


@pytest.mark.parametrize("layout", FAILING)
def test_a_saved_model_whose_backbone_is_gated_or_gone_by_now_ends_in_one_line(layout, corpora, tmp_path):
    model = tmp_path / "run" / "model"
    scripts = {
        "recipes/evaluate.py": (model, "--corpora", corpora / "test.txt", "--bootstrap", 0),
        "recipes/predict.py": ("MKTAYIAK", "--model", model, "--quiet"),
    }
    with running_hub() as hub:
        add_layout(hub, "both", tmp_path / "files")
        with using_hub(hub, tmp_path / "home", TOKEN):
            train(corpora, tmp_path / "run", *ONE_EPOCH)
            here = run_script("recipes/predict.py", *scripts["recipes/predict.py"]).stdout
        files = hub.repos.pop(NAME)
        if layout == "gated":
            hub.repos[NAME] = files
            hub.gated.add(NAME)
        with using_hub(hub, tmp_path / "elsewhere", TOKEN):
            for script, arguments in scripts.items():
                done = run_script(script, *arguments)
                assert (done.returncode, done.stdout) == (2, ""), script
                assert re.search(f"{FAILING[layout]}.*Needed by {re.escape(str(model))}", done.stderr), done.stderr
                assert done.stderr.rstrip().count("\n") == 0, done.stderr
            with pytest.raises(BackboneError, match=FAILING[layout]) as told:
                push_model(model, "me/tuned")
            assert "\n" not in str(told.value)
            assert "me/tuned" not in hub.repos
            hub.repos[NAME] = files
            hub.accepted.add(TOKEN)
            assert run_script("recipes/predict.py", *scripts["recipes/predict.py"]).stdout == here
        if layout == "gated":
            with using_hub(hub, tmp_path / "of another user", "hf_anothertoken"):
                assert run_script("recipes/predict.py", *scripts["recipes/predict.py"]).returncode == 2


def test_the_command_says_what_it_did(corpora, tmp_path, capsys):
    with running_hub() as hub, using_hub(hub, tmp_path / "home"):
        add_layout(hub, "pickle", tmp_path / "files")
        convert_command(NAME)
        assert capsys.readouterr().out.startswith(f"{NAME} can be used as a backbone now. Its weights are in /")
        convert_command(NAME, "-o", str(tmp_path / "out"))
        assert capsys.readouterr().out == f"Written. Use it as --backbone {tmp_path / 'out'}.\n"
        with offline():
            SecondaryStructureModel.from_backbone(tmp_path / "out", adapter=None, head="linear")
        add_layout(hub, "both", tmp_path / "more", "org/both")
        convert_command("org/both")
        assert capsys.readouterr().out == "org/both has safetensors: there is nothing to convert.\n"
