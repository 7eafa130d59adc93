"""Backbones of each kind from training to a model that another user pulls; test_layouts.py varies their files."""

import json

import numpy as np
import pytest
import torch
from clean_process import TOKEN, in_clean_process
from corpus_files import write_three_line
from hub_server import running_hub, using_hub
from safetensors.numpy import load_file
from scripts import run_script
from small_runs import make_chains, train
from tiny_models import BACKBONES, save_tiny_backbone

from lift_ss_hf.hub.push import push_model
from lift_ss_hf.models.modeling import SecondaryStructureModel
from lift_ss_hf.models.tokenization import ResidueTokenizer

KINDS = sorted({*BACKBONES} - {"bert", "esm", "t5"})  # the others are in the tests of layouts and of pushing
LEADING = {"ankh3": "[NLU]", "prostt5": "<AA2fold>"}
SEQUENCES = ["MKTAYIAKQR", "GSHMLEEXUZB", "ACDEFGHIKLMNPQRSTVWY" * 3, "M"]
# what another user does, in a new process with empty caches
PULL = """
import sys
from safetensors.numpy import save_file
from lift_ss_hf.models.modeling import SecondaryStructureModel
from lift_ss_hf.models.tokenization import ResidueTokenizer
from lift_ss_hf.prediction.predictor import Predictor
model = SecondaryStructureModel.from_pretrained("me/tuned")
predictor = Predictor(model, ResidueTokenizer.from_pretrained("me/tuned"))
assert predictor.packed is not None
found = predictor.predict(sys.argv[1:])
save_file({str(index): probabilities for index, probabilities in found}, "found.safetensors")
"""


def one_at_a_time(folder):
    """Return the probabilities of SEQUENCES by the model's own forward."""
    model, tokenizer = SecondaryStructureModel.from_pretrained(folder), ResidueTokenizer.from_pretrained(folder)
    with torch.no_grad():
        logits = [model(torch.from_numpy(tokenizer.encode_sequence(each))[None]).logits[0] for each in SEQUENCES]
    return [each.softmax(-1)[tokenizer.residue_slice()].numpy() for each in logits]


@pytest.mark.process
@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_backbone_works_from_training_to_a_pulled_model(kind, tmp_path):
    for name, number, seed in (("train", 8, 0), ("validation", 3, 1), ("test", 3, 2)):
        write_three_line(make_chains(number, seed), tmp_path / f"{name}.txt")
    save_tiny_backbone(tmp_path / "backbone", kind)
    run = tmp_path / "run"
    with running_hub() as hub:
        hub.add("org/backbone", {path.name: path.read_bytes() for path in (tmp_path / "backbone").iterdir()})
        with using_hub(hub, tmp_path / "home", TOKEN):
            train(tmp_path, run, "--backbone", "org/backbone", "--adapter", "lora", "--num_train_epochs", "2")
            config = json.loads((run / "model" / "config.json").read_text())
            assert (config["backbone_name"], config["leading_token"]) == ("org/backbone", LEADING.get(kind))
            scored = run_script(
                "recipes/evaluate.py", run / "model", "--corpora", tmp_path / "test.txt", "--bootstrap", 0
            )
            assert "test" in scored.stdout, scored.stderr
            expected = one_at_a_time(run / "model")
            push_model(run / "model", "me/tuned")
        pulled = in_clean_process(hub, tmp_path / "elsewhere", "-c", PULL, *SEQUENCES)
    assert pulled.returncode == 0, pulled.stderr
    found = load_file(tmp_path / "elsewhere" / "found.safetensors")
    for index, (sequence, alone) in enumerate(zip(SEQUENCES, expected, strict=True)):
        assert found[str(index)].shape == (len(sequence), 9)
        assert np.allclose(found[str(index)], alone, atol=1e-5)
