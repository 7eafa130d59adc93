"""Model cards: what a run measured is on them, what is private is not."""

import json

import pytest
import yaml
from huggingface_hub import ModelCard

from lift_ss_hf.reports.model_card import redact, write_card

FACTS = {"chains": 1_000, "residues": 200_000, "sha256_of_sequences_and_states": "0" * 64}
FILES = {
    "model/config.json": {
        "states": "q8",
        "backbone_name": "facebook/esm2_t6_8M_UR50D",
        "backbone_revision": "abc123",
        "backbone_config": {"model_type": "esm"},
        "adapter": "lora",
        "head": "linear",
        "block_mix": "mean",
        "loss": "cross_entropy",
        "balance": "inverse",
    },
    "metrics.json": {
        "corpora": {
            "casp12": {
                "split": "test",
                "num_chains": 47,
                "duplicates_in_training": 2,
                "scores": {
                    "q8": {"q8": 0.6, "q8_low": 0.55, "q8_high": 0.65, "sov99": 0.5, "sov_mode": "compatible"},
                    "q3": {"q3": 0.7, "sov99": None, "sov_mode": "compatible"},
                },
            }
        },
        "calibration": {"num_residues": 2_000, "temperature": 1.25, "error_before": 0.03, "error_after": 0.01},
        "environment": {
            "command": "train_q8.py --train /home/me/mine.txt --hub_token hf_abcdefgh1234",
            "packages": {"torch": "2.0"},
            "lift_ss_hf": "0.1",
            "commit": None,
            "processor": "EPYC",
            "threads": 2,
            "accelerators": [],
        },
        "training_seconds": 1234.5,
    },
    "recipe.yaml": {"train": ["/home/me/mine.txt"], "validation": ["none"], "seed": 3, "mask_fraction": 0.05},
    "corpora.json": {"train": FACTS, "validation": FACTS, "casp12": FACTS},
}


@pytest.fixture
def run(tmp_path):
    for name, content in FILES.items():
        path = tmp_path / "my_run" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(content) if name.endswith(".yaml") else json.dumps(content))
    return tmp_path / "my_run"


def test_the_card_has_what_was_measured(run):
    path = write_card(run)
    assert path == run / "model" / "README.md"
    text = path.read_text()
    assert "esm2_t6_8M_UR50D with a lora adapter and the linear head over a learned mean of all blocks' outputs" in text
    assert "Backbone revision: abc123." in text
    assert "| casp12 | test | 47 | 60.0 [55.0, 65.0] | 70.0 | 50.0 | – | 2 |" in text
    assert "2,000 residues of the validation chains (temperature 1.250). On these residues" in text
    assert "- train: mine.txt: 1,000 chains, 200,000 residues" in text
    assert "- validation: held-out training chains: 1,000 chains" in text
    assert "- loss: cross_entropy, balanced by inverse frequency; 5 % of the residues masked" in text
    assert "at commit unknown; torch 2.0" in text
    assert "- training took 1,23" in text
    assert "- mine.txt: see its own card" in text
    assert "- citation of the backbone: Lin et al. 2023" in text


def test_the_results_are_in_the_metadata(run):
    data = ModelCard.load(write_card(run)).data
    assert data.base_model == "facebook/esm2_t6_8M_UR50D"
    found = {(result.metric_type, result.metric_name): result for result in data.eval_results}
    assert list(found) == [
        ("accuracy", "Q8 accuracy"),
        ("sov99_q8", "SOV'99 (q8, compatible mode)"),
        ("accuracy", "Q3 accuracy (P is coil)"),
    ]
    accuracy = found["accuracy", "Q8 accuracy"]
    assert accuracy.metric_value == 0.6
    assert accuracy.metric_args == {"interval_95": {"low": 0.55, "high": 0.65}}
    assert accuracy.dataset_revision == "0" * 64


def test_what_is_private_or_was_not_measured_is_left_out(run):
    metrics = {**FILES["metrics.json"], "calibration": None, "training_seconds": None}
    (run / "metrics.json").write_text(json.dumps(metrics))
    text = write_card(run).read_text()
    assert "`train_q8.py --train mine.txt --hub_token (token)`, seed 3" in text
    for absent in ("/home/me", "hf_abc", "Confidences are calibrated", "training took", "None", "{{", "{%"):
        assert absent not in text


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        (r"C:\Users\me\mine.txt", "mine.txt"),
        ("/home/me/model/", "model/"),
        ("https://example.org/a/b and a/b", "https://example.org/a/b and a/b"),
    ],
)
def test_absolute_paths_keep_their_last_part(text, redacted):
    assert redact(text) == redacted


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("metrics.json", None, r"metrics\.json: no such file\. Expected the folder of a finished run"),
        ("metrics.json", "{", r"metrics\.json: cannot be parsed \(.*\)\. Run the training again"),
        ("recipe.yaml", "a: [", r"recipe\.yaml: cannot be parsed"),
        ("corpora.json", "[]", r"corpora\.json: expected names and values, found list\. Run the training again"),
    ],
)
def test_an_unfinished_or_damaged_run_is_refused(run, name, content, message):
    if content is None:
        (run / name).unlink()
    else:
        (run / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        write_card(run)
    assert not (run / "model" / "README.md").exists()


def test_the_bundled_card_has_the_text_of_the_template_from_results_on():
    from lift_ss_hf.reports.model_card import TEMPLATE

    bundled = (TEMPLATE.parent / "predictor" / "README.md").read_text()
    assert "ORG/NAME" not in bundled  # it is in the package, not on the Hub
    _, _, template = TEMPLATE.read_text().partition("## Results")
    for paragraph in template.split("\n\n"):
        if "{" not in paragraph or "@article" in paragraph:
            assert paragraph.strip() in bundled


@pytest.mark.parametrize(("threads", "text"), [(1, "EPYC, 1 thread\n"), (2, "EPYC, 2 threads\n")])
def test_threads_are_counted_in_words(run, threads, text):
    path = run / "metrics.json"
    metrics = json.loads(path.read_text())
    metrics["environment"]["threads"] = threads
    path.write_text(json.dumps(metrics))
    assert f"- hardware: {text}" in write_card(run).read_text()
