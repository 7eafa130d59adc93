"""Models are evaluated on corpora: one model or an ensemble, nine states or eight; bad names are reported."""

import json

import numpy as np
import pytest
import torch
from corpus_files import write_three_line
from scripts import run_script
from tiny_models import save_tiny_model

from lift_ss_hf.corpora.chains import Chain
from lift_ss_hf.evaluation.corpora import (
    EvaluationSettings,
    check_file_names,
    common_num_states,
    evaluate_saved,
    file_stem,
    load_corpora,
    num_states_of,
    states_file,
)
from lift_ss_hf.evaluation.predictions import predict
from lift_ss_hf.models.modeling import SecondaryStructureModel
from lift_ss_hf.models.tokenization import ResidueTokenizer
from lift_ss_hf.prediction.ensemble import Ensemble

SEQUENCES = ["MKVLAAGIVGLLLAQWERTY", "ACD", "GGGGSSSSPPPPTTTTNNNNQQQQHHHH", "MKV"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluation")
    save_tiny_model(folder, max_residues=16)
    chains = [Chain(f"c{i}", s, "X" + "HEL"[i % 3] * (len(s) - 2) + "P") for i, s in enumerate(SEQUENCES)]
    write_three_line(iter(chains), folder / "test.txt")
    return folder


def test_the_number_of_states_is_in_the_catalogue_or_follows_from_p():
    assert (num_states_of("casp12", []), num_states_of("test2016", [])) == (9, 8)
    assert (num_states_of("mine.txt", ["LLP"]), num_states_of("mine.txt", ["LLH"])) == (9, 8)


def test_corpora_together_have_nine_states_only_if_each_has(folder, tmp_path):
    eight = tmp_path / "eight.txt"
    eight.write_text(">c1\nMKV\nLHH\n")
    nine = str(folder / "test.txt")
    assert common_num_states(load_corpora([nine, nine])) == 9
    assert common_num_states(load_corpora([nine, str(eight)])) == 8


def test_several_models_are_scored_as_an_ensemble(folder, tmp_path):
    torch.manual_seed(1)
    other = SecondaryStructureModel.from_backbone(folder / "backbone", top_blocks=1, head_channels=16)
    other.config.calibration_temperature = 3.0
    other.save_pretrained(tmp_path / "other")
    names = [str(folder / "model"), str(tmp_path / "other")]
    evaluate_saved(names, [str(folder / "test.txt")], EvaluationSettings(bootstrap=0), out=str(tmp_path / "out"))
    results = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert results["model"] == "model + other"
    ensemble = Ensemble.from_pretrained(names)
    tokenizer = ResidueTokenizer.from_pretrained(names[0])
    predictions = predict(ensemble, tokenizer, SEQUENCES, quiet=True)
    for sequence, probabilities in zip(SEQUENCES, predictions.calibrated("q9"), strict=True):
        tokens = torch.from_numpy(tokenizer.encode_sequence(sequence))[None]
        with torch.no_grad():
            logits = ensemble(tokens).logits[0, tokenizer.residue_slice()]
        assert np.allclose(probabilities, (logits / 2).softmax(-1), atol=1e-5)  # the mean of 1 and 3


def test_a_saved_model_is_evaluated_to_table_json_and_figures(folder, tmp_path):
    table = evaluate_saved(
        [str(folder / "model")], [str(folder / "test.txt")], EvaluationSettings(bootstrap=10), out=str(tmp_path)
    )
    assert "not known" in table  # whether it was trained on these chains
    result = next(iter(json.loads((tmp_path / "metrics.json").read_text())["corpora"].values()))
    assert (result["num_chains"], result["num_residues"]) == (4, sum(map(len, SEQUENCES)))
    assert set(result["scores"]) == {"q9", "q8", "q3", "q3_lift_ss"}
    assert result["scores"]["q3"]["q3_low"] <= result["scores"]["q3"]["q3"] <= result["scores"]["q3"]["q3_high"]
    assert len(list((tmp_path / "figures").glob("*.png"))) == 4
    assert (tmp_path / "results.md").read_text() == table


def test_corpora_with_the_same_file_name_have_figures_of_their_own(folder, tmp_path):
    names = [str(folder / "test.txt"), str(tmp_path / "test.txt")]
    (tmp_path / "test.txt").write_text((folder / "test.txt").read_text())
    evaluate_saved([str(folder / "model")], names, EvaluationSettings(bootstrap=0), out=str(tmp_path / "out"))
    assert len(list((tmp_path / "out" / "figures").glob("*.png"))) == 2 * 4


def test_names_of_files_are_visible_and_not_too_long():
    for name, stem in (
        ("promod3:lt25id", "promod3-lt25id"),
        ("chains.txt", "chains.txt"),
        ("../chains.txt", "_..-chains.txt"),
        ("a" * 200 + "/chains.txt", "a" * 189 + "-chains.txt"),
    ):
        assert file_stem(name) == stem


def test_corpora_whose_states_would_go_to_one_file_are_refused_before_a_model_is_loaded(tmp_path):
    names, settings = ["casp12", "casp13", "casp12.txt"], EvaluationSettings(keep_states=True)
    with pytest.raises(ValueError, match=r"^the files of casp12 and casp12\.txt would have the same names\. Rename"):
        evaluate_saved(["nothing"], names, settings, out=str(tmp_path / "out"))
    check_file_names([*names, "casp12"], keep_states=False)  # figures have names of their own


def test_a_corpus_of_one_chain_has_no_intervals(folder, tmp_path, caplog):
    lines = (folder / "test.txt").read_text().splitlines()
    (tmp_path / "one.txt").write_text("\n".join(lines[:3]) + "\n")
    names = [str(tmp_path / "one.txt"), str(folder / "test.txt")]
    evaluate_saved([str(folder / "model")], names, EvaluationSettings(bootstrap=10), out=str(tmp_path / "out"))
    one, several = json.loads((tmp_path / "out" / "metrics.json").read_text())["corpora"].values()
    assert "q3_low" not in one["scores"]["q3"]
    assert "q3_low" in several["scores"]["q3"]
    assert f"{names[0]}: no intervals, which need two chains with labels or more" in caplog.messages


def test_no_figures_are_drawn_if_they_are_not_asked_for(folder, tmp_path):
    settings = EvaluationSettings(bootstrap=0, figures=False)
    evaluate_saved([str(folder / "model")], [str(folder / "test.txt")], settings, out=str(tmp_path))
    assert (tmp_path / "results.md").is_file()
    assert not (tmp_path / "figures").exists()


def test_predicted_states_are_kept_if_asked_for(folder, tmp_path):
    name, model = str(folder / "test.txt"), str(folder / "model")
    evaluate_saved([model], [name], EvaluationSettings(bootstrap=0), out=str(tmp_path / "without"))
    assert not (tmp_path / "without" / "predicted").exists()
    evaluate_saved([model], [name], EvaluationSettings(bootstrap=0, keep_states=True), out=str(tmp_path))
    lines = states_file(tmp_path, name).read_text().splitlines()
    assert lines[::3] == [">c0", ">c1", ">c2", ">c3"]
    assert lines[1::3] == SEQUENCES
    assert [len(states) for states in lines[2::3]] == list(map(len, SEQUENCES))
    scores = json.loads((tmp_path / "metrics.json").read_text())["corpora"][name]["scores"]["q9"]
    observed = "".join((folder / "test.txt").read_text().splitlines()[2::3])
    pairs = [pair for pair in zip(observed, "".join(lines[2::3]), strict=True) if pair[0] != "X"]
    assert sum(a == b for a, b in pairs) / len(pairs) == pytest.approx(scores["q9"])


def test_columns_of_the_reference_are_printed_and_written(folder, tmp_path):
    arguments = (folder / "model", "--corpora", folder / "test.txt", "--bootstrap", 0, "--out", tmp_path)
    done = run_script("recipes/evaluate.py", *arguments, "--columns", "lift_ss")
    assert done.returncode == 0, done.stderr
    written = (tmp_path / "results.md").read_text()
    assert written in done.stdout
    assert "| Q_L | Q_B | Q_E | Q_G | Q_I | Q_H | Q_S | Q_T | Q_P | Q9 | F1-Score | SOV_B |" in written
    with pytest.raises(ValueError, match=r"unknown columns 'paper'\. Choose one of: lift_ss, standard\."):
        EvaluationSettings(columns="paper")


def test_results_in_the_place_of_a_file_are_refused_before_a_model_is_loaded(folder):
    with pytest.raises(ValueError, match=r"test\.txt exists and is not a directory"):
        evaluate_saved([str(folder / "nothing")], ["sample"], out=str(folder / "test.txt"))


@pytest.mark.parametrize(
    ("model", "corpus", "message"),
    [
        ("{folder}/model", "casp99", "unknown corpus 'casp99'. Did you mean 'casp1"),
        ("{folder}/nothing", "sample", "nothing"),
        ("{folder}/backbone", "sample", "backbone"),
    ],
)
def test_an_evaluation_that_cannot_run_is_one_line(folder, model, corpus, message):
    done = run_script("recipes/evaluate.py", model.format(folder=folder), "--corpora", corpus)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert message in done.stderr.splitlines()[-1]
