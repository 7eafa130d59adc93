"""Embeddings are the stock model's hidden states; killed and resumed, or shared by processes, runs give equal bytes."""

import os
import random
import signal
import threading
import weakref

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from forked_runs import run_forked, signal_at
from sentencepiece import SentencePieceProcessor
from stopped_at import tree
from tiny_models import BACKBONES, save_tiny_backbone
from transformers import AutoTokenizer

try:
    import h5py
except ImportError:  # an extra
    h5py = None

from lift_ss_hf.models.backbones import get_family
from lift_ss_hf.models.modeling import SecondaryStructureModel
from lift_ss_hf.models.tokenization import ResidueTokenizer
from lift_ss_hf.prediction import embedding, embedding_formats
from lift_ss_hf.prediction.embedding import Embedder, embed_part, embed_to_folder
from lift_ss_hf.prediction.embedding_formats import EMBEDDING_FORMATS, ResultKeys
from lift_ss_hf.prediction.inputs import Inputs
from lift_ss_hf.prediction.loading import load_for_hidden_states
from lift_ss_hf.prediction.records import Record, split_into_parts
from lift_ss_hf.prediction.run_folder import RunFolder
from lift_ss_hf.prediction.running import PredictionOptions, ProcessRank, RunOptions, predict_to_folder

SEQUENCES = ["MKVLAAGIVGLLLAQWERTY", "M", "GGGGSSSSPPPPTTTTNNNNQQQQHHHH" * 4, "ACD", "MKVWWW" * 15]
LONG = "MKVLAAGIVGLLLAQWERTYACDEFGHIKLMN"  # 32 residues
NUM_BLOCKS = 4
FORMATS = tuple(name for name in EMBEDDING_FORMATS if name != "h5" or h5py is not None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A backbone of each family, and models over them, some of which were tuned."""
    folder = tmp_path_factory.mktemp("embedding")
    for family in BACKBONES:
        save_tiny_backbone(folder / family, family)
    for name, family, options in (
        ("tuned", "esm", {"adapter": "lora"}),
        ("mean", "t5", {"adapter": "bottleneck", "block_mix": "mean"}),
        ("concat", "bert", {"adapter": "bottleneck", "block_mix": "concat"}),
        ("unpackable", "esm", {"adapter": "noreft", "block_mix": "mean"}),
    ):
        torch.manual_seed(0)
        model = SecondaryStructureModel.from_backbone(folder / family, top_blocks=2, head="linear", **options)
        with torch.no_grad():
            for key, parameter in model.named_parameters():
                if parameter.requires_grad and key not in model.backbone_names:
                    parameter.add_(0.1 * torch.randn_like(parameter))  # adapters start without an effect
        model.save_pretrained(folder / name)
    windows = {"adapter": None, "head": "linear", "max_residues": 20, "window_overlap": 8}
    for family in BACKBONES:
        SecondaryStructureModel.from_backbone(folder / family, **windows).save_pretrained(folder / f"{family}_windows")
    return folder


def stock_states(backbone, name, sequence):
    """Return the hidden states of a chain's residues by transformers' own model and tokenizer, from below."""
    leading = {"prostt5": "<AA2fold>", "ankh3": "[NLU]"}.get(name)
    family, words = get_family("t5" if leading else name), " ".join(sequence)
    text = {"esm": sequence, "esmc": sequence, "prostt5": f"<AA2fold> {words}"}.get(name, words)
    if name == "ankh3":  # the slow tokenizer that its card asks for is gone from transformers 5
        pieces = SentencePieceProcessor(model_file=str(backbone / "spiece.model"))
        tokens = [*pieces.encode(leading + sequence), pieces.eos_id()]
    else:
        tokens = AutoTokenizer.from_pretrained(backbone)(text)["input_ids"]
    with torch.no_grad():
        output = family.model_class.from_pretrained(backbone).eval()(torch.tensor([tokens]), output_hidden_states=True)
    first = family.num_leading + (leading is not None)
    return [hidden[0, first : first + len(sequence)].numpy() for hidden in output.hidden_states]


def part_of(sequences):
    records = [Record(number, f"chain{number}", sequence) for number, sequence in enumerate(sequences, start=1)]
    (part,) = split_into_parts(records, 1 << 20, 1 << 10, skip_bad=False)
    return part


def embedded(name, sequences=SEQUENCES, **options):
    """Return the values of sequences by a saved model or a backbone, in rows of few chains."""
    embedder = Embedder(load_for_hidden_states(str(name), max_tokens=150), **options)
    found, counts = embed_part(embedder, part_of(sequences))
    assert [len(e.sequence) for e in found] == [len(sequence) for sequence in sequences]
    assert counts.residues == sum(map(len, sequences))
    return [e.values for e in found]


def assert_close(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == np.float32
        np.testing.assert_allclose(one, other, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", BACKBONES)
def test_each_layer_of_a_backbone_is_that_of_transformers(folder, family):
    stock = [stock_states(folder / family, family, sequence) for sequence in SEQUENCES]
    assert len(stock[0]) == NUM_BLOCKS + 1
    for layer in range(NUM_BLOCKS + 1):
        expected = [states[layer] for states in stock]
        assert_close(embedded(folder / family, layer=str(layer)), expected)
        means = embedded(folder / family, layer=str(layer), pooling="mean")
        assert_close(means, [states.mean(0) for states in expected])
    assert_close(embedded(folder / family), [states[-1] for states in stock])


@pytest.mark.parametrize("family", BACKBONES)
def test_a_long_chain_is_stitched_from_the_windows_its_residues_are_farthest_inside_of(folder, family):
    first, second = (stock_states(folder / family, family, LONG[part]) for part in (slice(0, 20), slice(12, 32)))
    for layer in range(NUM_BLOCKS + 1):
        expected = np.concatenate([first[layer][:16], second[layer][4:]])
        found = embedded(folder / f"{family}_windows", ["ACD", LONG, "MKV"], layer=str(layer))
        assert_close(found[1:2], [expected])
        pooled = embedded(folder / f"{family}_windows", [LONG], layer=str(layer), pooling="mean")
        assert_close(pooled, [expected.mean(0)])


@pytest.mark.parametrize("name", ["tuned", "mean", "concat", "unpackable"])
def test_layers_and_mix_of_a_tuned_model_are_those_of_its_own_forward(folder, name):
    model = SecondaryStructureModel.from_pretrained(folder / name)
    tokenizer = ResidueTokenizer.from_pretrained(folder / name)
    outputs = []
    for sequence in SEQUENCES:
        tokens = torch.from_numpy(tokenizer.encode_sequence(sequence))[None]
        with torch.no_grad():
            outputs.append(model(tokens, output_hidden_states=True, return_hidden_state=True))
    kept = tokenizer.residue_slice()
    for layer in range(NUM_BLOCKS + 1):
        expected = [output.hidden_states[layer][0, kept].numpy() for output in outputs]
        assert_close(embedded(folder / name, layer=str(layer)), expected)
    assert_close(embedded(folder / name), expected)
    if name == "tuned":
        (untuned,) = embedded(folder / "esm", SEQUENCES[:1])
        assert np.abs(untuned - expected[0]).max() > 0.01  # the adapter has an effect
    else:
        mixed = [output.last_hidden_state[0, kept].numpy() for output in outputs]
        assert mixed[0].shape[1] == 32 * (NUM_BLOCKS + 1 if name == "concat" else 1)
        assert_close(embedded(folder / name, layer="mix"), mixed)


def test_the_sequence_is_that_of_the_input_where_the_backbone_reads_another(folder):
    """biotrainer looks an embedding up by the hash of its sequence, in which U is not X."""
    (found,), counts = embed_part(Embedder(load_for_hidden_states(str(folder / "t5"))), part_of(["mkU-VW*"]))
    assert (found.sequence, counts.replaced, counts.gaps) == ("MKUVW", 1, 2)


def test_half_precision_is_stored_in_two_bytes(folder):
    whole, half = (embedded(folder / "esm", half=half) for half in (False, True))
    for one, other in zip(whole, half, strict=True):
        assert other.dtype == np.float16
        assert np.array_equal(one.astype(np.float16), other)


def test_what_half_precision_cannot_hold_is_an_error(folder):
    predictor = load_for_hidden_states(str(folder / "t5"))
    with torch.no_grad():
        predictor.model.get_input_embeddings().weight.mul_(1e6)
    with pytest.raises(ValueError, match=r"record 1 \(chain1\): values of layer 0 go up to .*, but .* 65,504\. Leave"):
        embed_part(Embedder(predictor, layer="0", half=True), part_of(["MKV"]))
    embed_part(Embedder(predictor, layer="0"), part_of(["MKV"]))


def test_damaged_weights_are_an_error(folder):
    predictor = load_for_hidden_states(str(folder / "t5"))
    with torch.no_grad():
        predictor.model.get_input_embeddings().weight.fill_(torch.nan)
    with pytest.raises(ValueError, match="the model's hidden states are NaN for 3 of the 3 residues"):
        embed_part(Embedder(predictor), part_of(["MKV"]))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("esm", {"layer": "mix"}, r"no mix of its blocks.*Give --layer last, or a number from 0 to 4\."),
        ("esm", {"layer": "5"}, r"layer 5, but the backbone has 4 blocks\. Give last, or a number from 0 to 4\."),
        ("esm", {"layer": "-1"}, r"unknown layer '-1'\. Give last, mix or a number of blocks"),
        ("esm", {"layer": "²"}, "unknown layer"),
        ("esm", {"pooling": "max"}, r"unknown pooling 'max'\. Choose one of: mean, none\."),
    ],
)
def test_layers_and_poolings_that_do_not_exist_are_refused(folder, name, options, message):
    with pytest.raises(ValueError, match=message):
        Embedder(load_for_hidden_states(str(folder / name)), **options)


def test_a_backbone_has_no_other_backbone(folder):
    with pytest.raises(ValueError, match=r"--backbone names the backbone of a tuned model, but .*esm is itself one"):
        load_for_hidden_states(str(folder / "esm"), str(folder / "t5"))


def test_a_backbone_is_the_same_model_every_time(folder):
    first, second = (load_for_hidden_states(str(folder / "esm")).digest for _ in range(2))
    assert first == second
    assert first != load_for_hidden_states(str(folder / "bert")).digest


# ---- runs ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chains(folder):
    rng = random.Random(0)
    path = folder / "chains.fasta"
    with path.open("w") as file:
        for index in range(40):
            sequence = "".join(rng.choices("ACDEFGHIKLMNPQRSTVWY", k=rng.randint(5, 100)))
            file.write(f">chain{index % 35}\n{sequence}\n" if index != 20 else ">bad\nMK1\n")
    return path


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(embedding, "PART_RESIDUES", 400)


def run(folder, out, *, name="tuned", layer="last", half=False, process=None, source="chains.fasta", **options):
    embedder = Embedder(load_for_hidden_states(str(folder / name), max_tokens=300), layer, half=half)
    options = RunOptions(**{"skip_bad": True, "quiet": True, "formats": FORMATS, **options})
    return embed_to_folder(embedder, Inputs([str(folder / source)]), out, options, process=process)


@pytest.fixture(scope="module")
def whole(folder, chains, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "whole"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embedding, "PART_RESIDUES", 400)
        counts = run(folder, out)
    assert (counts.chains, counts.rejected) == (39, 1)
    assert {path.name for path in out.iterdir()} == {
        *(EMBEDDING_FORMATS[name].file_name for name in FORMATS),
        *("run.json", "rejected.tsv", ".lock"),
    }
    return out, counts


def kill_after(seconds):
    """Let this process be killed after some time, wherever it is."""
    timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL))
    timer.daemon = True
    timer.start()


KILLS = {
    "before a part, and before each of its files": [
        (signal_at, 2, "write_part", RunFolder),
        *((signal_at, 1, "write_part", EMBEDDING_FORMATS[name]) for name in FORMATS),
    ],
    "before each result, within each, and before they count as complete": [
        *((signal_at, 1, "join", EMBEDDING_FORMATS[name]) for name in FORMATS),
        *((signal_at, number, "choose", ResultKeys) for number in (5, 44)),
        (signal_at, 2, "write_table", pq.ParquetWriter),
        (signal_at, 5, "_copy", embedding_formats),
        (signal_at, 1, "_sizes", RunFolder),
    ],
    "at any time": [(kill_after, seconds) for seconds in (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4)],
}


@pytest.mark.process
@pytest.mark.parametrize("kills", KILLS.values(), ids=KILLS)
def test_a_run_killed_anywhere_resumes_to_the_same_bytes(whole, folder, tmp_path, kills):
    out, script = tmp_path / "run", tmp_path / "lift_ss.py"
    script.write_text("from lift_ss_hf.cli.lift_ss import main\n\nmain()\n")
    arguments = ["embed", str(folder / "chains.fasta"), "-o", str(out), "--resume", "--skip-bad", "--max_tokens", "300"]
    arguments += ["--model", str(folder / "tuned"), "--format", ",".join(FORMATS)]

    def embed(arrange_kill, *when):
        def patch(rank):
            embedding.PART_RESIDUES = 400
            arrange_kill(*when)

        return run_forked(arguments, tmp_path / "log", script=script, patch=patch)

    for kill in kills:
        statuses = embed(*kill).statuses
        assert statuses == [-signal.SIGKILL] or (kill[0] is kill_after and statuses == [0])
    done = embed(lambda: None)
    assert done.statuses == [0], done.stderr
    assert tree(out) == tree(whole[0])
    assert "39 chains" in done.stderr and "1 record rejected" in done.stderr


def test_several_processes_share_the_parts(whole, folder, tmp_path, small_parts):
    found = [run(folder, tmp_path / "run", process=ProcessRank(rank, 2)) for rank in (0, 1)]
    assert found == [None, whole[1]]
    assert tree(tmp_path / "run") == tree(whole[0])


@pytest.mark.process
def test_workers_that_write_change_nothing(whole, folder, tmp_path, small_parts):
    run(folder, tmp_path / "run", num_workers=1)
    assert tree(tmp_path / "run") == tree(whole[0])


def test_resuming_a_finished_run_changes_nothing(whole, folder, small_parts):
    before = tree(whole[0])
    assert run(folder, whole[0], resume=True) == whole[1]
    assert tree(whole[0]) == before


def test_runs_with_other_settings_are_refused(whole, folder, tmp_path, small_parts):
    out, before = whole[0], tree(whole[0])
    for options, message in (
        ({"layer": "2"}, "that run has layer 'last', but this one has '2'"),
        ({"half": True}, "that run has dtype 'float32', but this one has 'float16'"),
        ({"name": "esm"}, "that run used another model"),
        ({"formats": ["npz"]}, r"that run has formats .*Give another directory, or the same settings\.$"),
    ):
        with pytest.raises(ValueError, match=message):
            run(folder, out, resume=True, **options)
    predictor, inputs = load_for_hidden_states(str(folder / "tuned")), Inputs([str(folder / "chains.fasta")])
    with pytest.raises(ValueError, match=r"run\.json: that run has no states: another command wrote it"):
        predict_to_folder(predictor, inputs, out, PredictionOptions(resume=True, skip_bad=True, quiet=True))
    assert tree(out) == before


def test_memory_does_not_grow_with_the_input(folder, tmp_path, monkeypatch):
    """Only the chains of one part are in memory; benchmarks/embedding.py measures whole processes."""
    monkeypatch.setattr(embedding, "PART_RESIDUES", 200)
    (folder / "many.fasta").write_text("".join(f">c{i}\nMKVLAAGIVG\n" for i in range(400)))  # 20 chains a part
    references, in_memory = [], []

    def counting(*arguments):
        found, counts = original(*arguments)
        references.extend(map(weakref.ref, found))
        in_memory.append(sum(reference() is not None for reference in references))
        return found, counts

    original = embedding.embed_part
    monkeypatch.setattr(embedding, "embed_part", counting)
    run(folder, tmp_path / "run", source="many.fasta")
    assert (len(in_memory), max(in_memory)) == (20, 20)
