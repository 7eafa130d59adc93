"""Training from cached hidden states: the same loss curve for every kind of model; no run fails due to the cache."""

import json
import logging.handlers
import multiprocessing
import pickle
import queue
import re
import resource
import shutil

import pytest
import torch
from corpus_files import write_three_line
from forked_runs import train_forked
from small_runs import make_chains, train
from tiny_models import AROUND, BACKBONES, batch_of_chains, save_tiny_backbone
from torch.utils.data import DataLoader

from lift_ss_hf.batches import cached_chains
from lift_ss_hf.batches.cached_chains import (
    CachedChains,
    PrefixCacheSettings,
    cached_states_bytes,
    with_cached_states,
)
from lift_ss_hf.batches.collator import ChainCollator
from lift_ss_hf.batches.prefix_store import DATA_FILE
from lift_ss_hf.models.modeling import SecondaryStructureModel

PAD = {name: pad for name, (pad, _, _) in AROUND.items()}
TOLERANCE = 2e-3  # of a loss of about 1; rounding to fp16 changes hidden states by a relative 5e-4 at most


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for name, number, seed in (("train", 48, 0), ("validation", 10, 1), ("test", 10, 2)):
        write_three_line(make_chains(number, seed), folder / f"{name}.txt")
    save_tiny_backbone(folder / "backbone", "esm")
    return folder


class Chains:
    """Random chains; the last repeats the first."""

    def __init__(self, family, lengths=(9, 30, 17, 12, 9)):
        batches = [batch_of_chains(family, [length], seed=length) for length in lengths]
        self.items = [{"input_ids": batch["input_ids"][0].numpy()} for batch in batches]
        self.lengths = [len(item["input_ids"]) for item in self.items]

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


def settings(tmp_path, **changes):
    return PrefixCacheSettings(**{"folder": tmp_path / "prefixes", "quiet": True, **changes})


def curve(out):
    """Return every training and validation loss of a run."""
    states = sorted(out.glob("checkpoint-*/trainer_state.json"), key=lambda path: int(path.parent.name.split("-")[1]))
    history = json.loads(states[-1].read_text())["log_history"]
    return [entry.get("loss", entry.get("eval_loss")) for entry in history]


ESM_1B = {"position_embedding_type": "absolute", "emb_layer_norm_before": True}


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        pytest.param("esm", {}, marks=pytest.mark.slow),
        pytest.param("t5", {"dropout_rate": 0.1}, marks=pytest.mark.slow),  # in the top blocks, and none below
    ],
    ids=["esm-2", "t5"],
)
def test_the_curve_with_the_cache_is_the_one_without(data, tmp_path, family, changes):
    backbone = save_tiny_backbone(tmp_path / "backbone", family, **changes)
    few = ("--num_train_epochs", "2", "--logging_steps", "1", "--backbone", backbone)
    cached = (*few, "--prefix_cache", str(tmp_path / "prefixes"))
    train(data, tmp_path / "without", *few)
    train(data, tmp_path / "filling", *cached)
    train(data, tmp_path / "reading", *cached)
    assert len(curve(tmp_path / "without")) == 14
    assert curve(tmp_path / "filling") == pytest.approx(curve(tmp_path / "without"), abs=TOLERANCE)
    assert curve(tmp_path / "reading") == curve(tmp_path / "filling")
    assert len(list(tmp_path.glob(f"prefixes/*/*/{DATA_FILE}"))) == 1


@pytest.mark.parametrize("family", BACKBONES)
@pytest.mark.parametrize(
    "options",
    [
        {"top_blocks": 2},
        {"adapter": None},
        {"adapter": None, "block_mix": "mean"},
        {"top_blocks": 2, "block_mix": "concat"},
        {"adapter": None, "freeze": 1},
        {"top_blocks": 2, "max_residues": 12},
        {"top_blocks": 1, "block_mix": "mean", "max_residues": 12},
        {"top_blocks": 2, "dtype": "bfloat16"},
        {"top_blocks": 1, "num_blocks": 2},
        {"top_blocks": 1, "num_blocks": 1, "block_mix": "mean", "max_residues": 12},
        {"adapter": None, "num_blocks": 3},
    ],
    ids=str,
)
def test_cached_states_give_the_same_logits(tmp_path, family, options):
    check_cached_logits(tmp_path, family, options)


def test_cached_states_of_learned_positions_give_the_same_logits(tmp_path):
    check_cached_logits(tmp_path, "esm", {"top_blocks": 2, "max_residues": 12}, **ESM_1B)


def check_cached_logits(tmp_path, family, options, **changes):
    save_tiny_backbone(tmp_path / "backbone", family, **changes)
    where = settings(tmp_path, max_tokens=40, num_blocks=options.get("num_blocks"))
    options = {name: value for name, value in options.items() if name != "num_blocks"}
    model = SecondaryStructureModel.from_backbone(tmp_path / "backbone", head="linear", head_channels=16, **options)
    chains = Chains(family)
    (cached,) = with_cached_states(model, [chains], PAD[family], where)
    assert isinstance(cached, CachedChains)
    batch = ChainCollator(PAD[family])([cached[index] for index in range(len(cached))])
    with torch.no_grad():
        from_cache = model(**batch).logits
        live = model(batch["input_ids"], batch["attention_mask"]).logits
    mask = model.residue_mask(batch["attention_mask"])
    tolerance = 0.2 if "dtype" in options else 1e-2  # logits are up to 11, and bf16 rounds each operation by 0.4 %
    assert torch.allclose(from_cache[mask], live[mask], atol=tolerance)
    assert len(set(cached.keys)) == len(cached) - 1
    specials = 1 if family == "t5" else 2
    expected = cached_states_bytes(model, cached.num_blocks, [length - specials for length in chains.lengths[:-1]])
    assert sum(path.stat().st_size for path in tmp_path.glob(f"prefixes/*/*/{DATA_FILE}")) == expected


def falls_back(tmp_path, caplog, *, options=None, **changes):
    save_tiny_backbone(tmp_path / "backbone", "esm")
    model = SecondaryStructureModel.from_backbone(
        tmp_path / "backbone", head="linear", **(options or {"top_blocks": 2})
    )
    chains = Chains("esm")
    with caplog.at_level(logging.WARNING):
        assert with_cached_states(model, [chains], 1, settings(tmp_path, **changes)) == [chains]
    (line,) = [record.getMessage() for record in caplog.records if "going on without" in record.getMessage()]
    caplog.clear()
    assert "\n" not in line
    return line


@pytest.mark.parametrize("options", [{"top_blocks": 4, "adapter": "lora"}, {"adapter": None, "freeze": None}], ids=str)
def test_nothing_is_cached_if_the_lowest_block_is_trained(tmp_path, caplog, options):
    assert "the lowest block is trained" in falls_back(tmp_path, caplog, options=options)


def test_the_size_is_bounded(tmp_path, caplog):
    assert "--prefix_cache_gb" in falls_back(tmp_path, caplog, limit_gb=1e-6)


def test_filling_that_would_take_too_long_is_given_up(tmp_path, caplog, monkeypatch):
    times = iter(range(100))
    monkeypatch.setattr(cached_chains.time, "monotonic", lambda: 4.0 * next(times))  # a batch takes four seconds
    message = falls_back(tmp_path, caplog, max_tokens=20, max_seconds=4)
    assert re.search(r"filling it would take about \d+ s, of 4 s at most", message)
    assert not [*tmp_path.rglob(DATA_FILE)]  # nothing half filled is left


def test_the_message_says_how_to_remove_the_stores_of_other_backbones(tmp_path, caplog):
    save_tiny_backbone(tmp_path / "other", "esm", seed=1)
    model = SecondaryStructureModel.from_backbone(tmp_path / "other", head="linear", top_blocks=2)
    with_cached_states(model, [Chains("esm")], 1, settings(tmp_path))
    (store,) = (tmp_path / "prefixes").iterdir()
    caplog.clear()
    line = falls_back(tmp_path, caplog, limit_gb=1e-6)
    assert "1 other backbones or depths" in line and line.endswith(f"rm -r {store}.")
    shutil.rmtree(store)
    assert "rm -r" not in falls_back(tmp_path, caplog, limit_gb=1e-6)


@pytest.mark.process
@pytest.mark.process
@pytest.mark.parametrize("start_method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_workers_of_a_data_loader_read_what_this_process_reads(tmp_path, start_method):
    save_tiny_backbone(tmp_path / "backbone", "esm")
    model = SecondaryStructureModel.from_backbone(tmp_path / "backbone", head="linear", top_blocks=2)
    (cached,) = with_cached_states(model, [Chains("esm", [500, 600, 700])], 1, settings(tmp_path))
    assert (
        len(pickle.dumps(cached.store)) < 5000 < cached.store.num_bytes()
    )  # the hidden states are not pickled, but mapped again
    options = {"batch_size": 2, "collate_fn": ChainCollator(1)}
    workers = {"num_workers": 2 if start_method == "fork" else 1, "multiprocessing_context": start_method}
    for here, there in zip(DataLoader(cached, **options), DataLoader(cached, **options, **workers), strict=True):
        assert torch.equal(here["cached_states"][0], there["cached_states"][0])
        assert torch.equal(here["input_ids"], there["input_ids"])


def test_nothing_is_written_if_the_disk_has_too_little_space(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(cached_chains.PrefixStore, "free_bytes", lambda self: 1000)
    assert "GB left" in falls_back(tmp_path, caplog)


def test_a_folder_that_cannot_be_one_is_refused(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"file exists and is not a directory\. Give another"):
        falls_back(tmp_path, caplog, folder=tmp_path / "file" / "prefixes")


def _cache_on_a_small_disk(folder):
    said = logging.handlers.QueueHandler(queue.SimpleQueue())
    logging.getLogger("lift_ss_hf").addHandler(said)
    model = SecondaryStructureModel.from_backbone(folder / "backbone", head="linear", top_blocks=2)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
    chains = Chains("esm")
    assert with_cached_states(model, [chains], 1, settings(folder)) == [chains]
    return said.queue.get_nowait().getMessage()


@pytest.mark.process
def test_training_continues_if_the_disk_gets_full(tmp_path):
    save_tiny_backbone(tmp_path / "backbone", "esm")
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert "going on without it" in pool.apply(_cache_on_a_small_disk, (tmp_path,))
    assert not list(tmp_path.glob("prefixes/*/*/*"))


def test_other_frozen_weights_have_another_store(tmp_path):
    for seed in (0, 1):
        save_tiny_backbone(tmp_path / f"backbone{seed}", "esm", seed=seed)
        model = SecondaryStructureModel.from_backbone(tmp_path / f"backbone{seed}", head="linear", top_blocks=2)
        with_cached_states(model, [Chains("esm")], 1, settings(tmp_path))
    assert len(list((tmp_path / "prefixes").iterdir())) == 2


@pytest.mark.process
def test_processes_share_the_work_and_end_with_one_good_store(data, tmp_path):
    prefixes, curves = tmp_path / "prefixes", []
    few = ("--num_train_epochs", "2", "--logging_steps", "1", "--bootstrap", "0")
    for name, more in (("without", ()), ("cached", ("--prefix_cache", str(prefixes)))):
        done = train_forked(data, tmp_path / name, *few, *more, num_processes=2)
        assert done.statuses == [0, 0], done.stderr
        curves.append(curve(tmp_path / name))
    assert curves[1] == pytest.approx(curves[0], abs=TOLERANCE)
    assert len(list(prefixes.glob(f"*/*/{DATA_FILE}"))) == 2  # a part of each process
