"""Pretraining: batches without padding, correct masks, baselines, and a tiny run that resumes."""

import gzip
import itertools
import json
import math
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from forked_runs import launched_environment, run_forked
from safetensors.torch import load_file
from transformers import AutoTokenizer
from transformers.models.esm.configuration_esm import get_default_vocab_list

from lift_ss_hf.corpora.fasta import read_fasta
from lift_ss_hf.models.modeling import SecondaryStructureModel
from lift_ss_hf.training.launch import LaunchedArguments
from lift_ss_hf.training.pretraining import (
    CLS,
    EOS,
    MASK,
    VOCABULARY,
    EncoderArguments,
    SequenceArguments,
    Sequences,
    UnpaddedBatches,
    baseline_perplexities,
    build_encoder,
    pretrain,
    save_backbone,
)

RECIPE = Path(__file__).parents[2] / "recipes" / "pretrain_mlm.py"


@pytest.fixture(scope="module")
def fasta(tmp_path_factory):
    rng = random.Random(0)
    path = tmp_path_factory.mktemp("fasta") / "proteins.fasta.gz"
    records = [
        f">p{i} a protein\n" + "".join(rng.choices("ACDEFGHIKLMNPQRSTVWY", k=rng.randint(30, 90))) for i in range(60)
    ]
    path.write_bytes(gzip.compress("\n".join(records).encode()))
    return path


def test_fasta_reads_plain_and_compressed_wrapped_and_lower_case(fasta, tmp_path):
    assert len(list(read_fasta(fasta))) == 60
    path = tmp_path / "a.fasta"
    path.write_text(">one first\nMK\nva\n\n>two\nAC DE\n")
    assert list(read_fasta(path)) == [("one", "MKVA"), ("two", "ACDE")]
    path.write_text("MKVA\n")
    with pytest.raises(ValueError, match=r"a\.fasta: line 1: expected '>' and a name, found 'MKVA'"):
        list(read_fasta(path))


def test_the_vocabulary_is_that_of_esm2():
    assert get_default_vocab_list() == tuple(VOCABULARY)


def test_batches_have_no_padding_and_mask_the_residues_to_predict(fasta):
    sequences = Sequences(fasta)
    batches = list(UnpaddedBatches(sequences, 64, 512, 0.15, seed=0, endless=False))
    assert sum(len(batch["input_ids"]) for batch in batches) == 60
    asked = masked = residues = 0
    for batch in batches:
        tokens, labels = batch["input_ids"], batch["labels"]
        assert tokens.numel() <= 512 + 2 * len(tokens)
        assert (tokens[:, 0] == CLS).all() and (tokens[:, -1] == EOS).all()
        assert not (tokens == VOCABULARY.index("<pad>")).any()
        asked += int((labels != -100).sum())
        masked += int((tokens == MASK).sum())
        residues += tokens.numel() - 2 * len(tokens)
        assert (labels[tokens == MASK] != -100).all()
    assert 0.12 < asked / residues < 0.18
    assert 0.7 < masked / asked < 0.9


def test_a_pass_repeats_with_its_seed(fasta):
    def first(seed):
        return next(iter(UnpaddedBatches(Sequences(fasta), 64, 512, 0.15, seed, endless=True)))["input_ids"]

    assert torch.equal(first(0), first(0))
    assert first(0).shape != first(1).shape or not torch.equal(first(0), first(1))


def test_processes_take_the_batches_in_turn(fasta):
    def first(number, *share):
        return [*itertools.islice(UnpaddedBatches(Sequences(fasta), 64, 512, 0.15, 0, True, *share), number)]

    alone, shared = first(20), [first(10, rank, 2) for rank in (0, 1)]
    assert all(
        torch.equal(batch["input_ids"], shared[place % 2][place // 2]["input_ids"]) for place, batch in enumerate(alone)
    )


def test_without_padding_a_chain_gives_the_same_alone_and_in_a_batch():
    # With <mask> and padding it does not, in transformers 4.57: this is why batches are cropped, not padded.
    torch.manual_seed(0)
    model = build_encoder(EncoderArguments(16, 2, 2, 32), 64).eval()
    batch = torch.randint(4, 24, (3, 20))
    batch[:, 5] = MASK
    with torch.no_grad():
        together = model(input_ids=batch).logits
        alone = torch.cat([model(input_ids=row[None]).logits for row in batch])
    assert torch.allclose(together, alone, atol=1e-5)


def test_weights_are_saved_under_the_names_by_which_a_run_is_resumed(tmp_path):
    # transformers 5 renames norms, and the Trainer would resume without them and without a word
    model = build_encoder(EncoderArguments(16, 2, 2, 32), 64)
    model.save_pretrained(tmp_path / "model")
    save_backbone(tmp_path / "model", tmp_path / "backbone")
    for saved, folder in ((model, "model"), (model.esm, "backbone")):
        names = set(load_file(tmp_path / folder / "model.safetensors"))
        assert {name for name, _ in saved.named_parameters()} <= names <= set(saved.state_dict())
    assert json.loads((tmp_path / "model" / "config.json").read_text())["architectures"] == ["EsmForMaskedLM"]


def test_a_backbone_in_the_place_of_a_file_is_refused_before_training(fasta, tmp_path):
    sequences = SequenceArguments(train_file=str(fasta), validation_file=str(fasta), backbone_dir=str(fasta))
    training = LaunchedArguments(str(tmp_path / "run"), report_to="none")
    with pytest.raises(ValueError, match="exists and is not a directory"):
        pretrain(EncoderArguments(16, 2, 2, 32), sequences, training)
    assert not (tmp_path / "run").exists()


def test_a_run_that_replaces_another_keeps_its_own_checkpoints(fasta, tmp_path):
    sequences = SequenceArguments(train_file=str(fasta), validation_file=str(fasta))
    options = {"save_steps": 1, "save_total_limit": 1, "report_to": "none", "use_cpu": True, "disable_tqdm": True}
    for max_steps in (3, 2):
        training = LaunchedArguments(str(tmp_path), max_steps=max_steps, overwrite_output_dir=max_steps == 2, **options)
        pretrain(EncoderArguments(16, 2, 2, 32), sequences, training)
        assert [path.name for path in tmp_path.glob("checkpoint-*")] == [f"checkpoint-{max_steps}"]


def test_baselines_follow_from_the_counts(tmp_path):
    for name, text in (("train", "AC" * 500), ("validation", "AC" * 20)):
        (tmp_path / f"{name}.fasta").write_text(f">x\n{text}\n")
    found = baseline_perplexities(Sequences(tmp_path / "train.fasta"), Sequences(tmp_path / "validation.fasta"))
    assert found["unigram"] == pytest.approx(1033 / 501, rel=1e-6)
    assert found["bigram"] < 1.1
    assert math.isfinite(found["bigram"])


@pytest.mark.process
@pytest.mark.slow
def test_pretraining_is_one_command_and_resumes(fasta, tmp_path):
    def run(*arguments, forked=True):
        command = ["--train_file", fasta, "--validation_file", fasta, "--hidden_size", "16"]
        command += ["--num_hidden_layers", "2", "--num_attention_heads", "2", "--intermediate_size", "32"]
        command += ["--save_steps", "2", "--report_to", "none", "--use_cpu", "True", "--disable_tqdm", "True"]
        command = [*map(str, command), *arguments]
        if forked:
            done = run_forked(command, tmp_path / "log", script=Path(RECIPE))
            assert done.statuses == [0], done.stderr
        else:
            done = subprocess.run([sys.executable, str(RECIPE), *command], capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
        return done.stdout

    whole, parts = str(tmp_path / "whole"), str(tmp_path / "parts")
    backbone = str(tmp_path / "backbone")
    assert '"bigram"' in run("--output_dir", whole, "--max_steps", "4", "--backbone_dir", backbone, forked=False)
    halved = SecondaryStructureModel.from_backbone(backbone, adapter=None, head="linear")
    exact = SecondaryStructureModel.from_backbone(whole, adapter=None, head="linear")
    assert load_file(f"{backbone}/model.safetensors")["embeddings.word_embeddings.weight"].dtype == torch.float16
    tokens = torch.tensor([[CLS, *[4 + place % 20 for place in range(1000)], EOS]])  # reveals rounded rotations
    torch.testing.assert_close(halved.hidden_states(tokens), exact.hidden_states(tokens), atol=0.02, rtol=0)
    run("--output_dir", parts, "--max_steps", "4", "--save_steps", "2")
    run("--output_dir", parts, "--max_steps", "4", "--resume_from_checkpoint", f"{parts}/checkpoint-2")
    resumed, uninterrupted = (Path(out, "model.safetensors").read_bytes() for out in (parts, whole))
    assert resumed == uninterrupted
    run("--output_dir", parts, "--max_steps", "4", "--resume_from_checkpoint", "last")  # there is no step left
    assert Path(parts, "model.safetensors").read_bytes() == uninterrupted
    assert not Path(parts, "checkpoint-5").exists()
    tokens = AutoTokenizer.from_pretrained(whole)("MKVA")["input_ids"]
    assert tokens == [CLS, *(VOCABULARY.index(letter) for letter in "MKVA"), EOS]


@pytest.mark.process
@pytest.mark.slow
def test_two_processes_resume_to_the_same_bytes(fasta, tmp_path):
    config = RECIPE.parents[1] / "accelerate_configs" / "cpu_ddp.yaml"

    def run(out, *arguments):
        command = ["--train_file", str(fasta), "--validation_file", str(fasta), "--hidden_size", "16"]
        command += ["--num_hidden_layers", "2", "--num_attention_heads", "2", "--tokens_per_batch", "512"]
        command += ["--save_steps", "3", "--report_to", "none", "--output_dir", str(out), *arguments]
        environment = launched_environment("--config_file", str(config))
        done = run_forked(command, tmp_path / "log", script=RECIPE, num_processes=2, environment=environment)
        assert done.statuses == [0, 0], done.stderr
        return (out / "model.safetensors").read_bytes()

    whole = run(tmp_path / "whole", "--max_steps", "6", "--lr_scheduler_type", "constant")
    run(tmp_path / "parts", "--max_steps", "3", "--lr_scheduler_type", "constant")
    more = ("--max_steps", "6", "--lr_scheduler_type", "constant", "--resume_from_checkpoint", "last")
    assert run(tmp_path / "parts", *more) == whole


@pytest.mark.process
def test_missing_sequences_are_reported_in_one_line(tmp_path):
    done = run_forked(["--output_dir", str(tmp_path), "--use_cpu", "True"], tmp_path / "log", script=Path(RECIPE))
    assert done.statuses == [2]
    assert done.stderr.splitlines()[-1].startswith("error: no train_file given.")
    assert "Traceback" not in done.stderr


def test_short_sequences_only_are_refused(tmp_path):
    (tmp_path / "a.fasta").write_text(">a\nMKV\n")
    with pytest.raises(ValueError, match="no sequence of at least 30 residues"):
        Sequences(tmp_path / "a.fasta")
    assert np.issubdtype(Sequences(tmp_path / "a.fasta", min_residues=1).tokens.dtype, np.uint8)
