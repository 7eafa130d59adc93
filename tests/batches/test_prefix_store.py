"""The store of hidden states: it returns what was written, and ignores damaged parts."""

import json
import multiprocessing
import os
import resource
import shutil
import subprocess
import sys

import filled_stores
import pytest
import torch
from filled_stores import KEYS, ORIGIN, check, fill, parts
from small_runs import ROOT
from stopped_at import STOPS, stopped_everywhere, tree

from lift_ss_hf.batches import prefix_store
from lift_ss_hf.batches.prefix_store import DATA_FILE, INDEX_FILE, PrefixStore, chain_key, to_half


def test_reading_returns_what_was_written_and_only_new_chains_are_added(tmp_path):
    assert fill(tmp_path, KEYS[:2]) == KEYS[:2]
    assert fill(tmp_path, KEYS) == KEYS[2:]
    assert fill(tmp_path, KEYS) == []
    check(tmp_path)


def test_a_store_in_the_place_of_a_file_is_refused():
    with (
        pytest.raises(ValueError, match="/dev/null exists and is not a directory"),
        PrefixStore("/dev/null", {}).locked(),
    ):
        pass


def flip(path, place):
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


DAMAGES = {
    "a bit of the states": lambda part: flip(part / DATA_FILE, 40),
    "a bit of the index": lambda part: flip(part / INDEX_FILE, -9),
    "the index's header": lambda part: flip(part / INDEX_FILE, 0),
    "states cut short": lambda part: (part / DATA_FILE).write_bytes((part / DATA_FILE).read_bytes()[:-10]),
    "no states": lambda part: (part / DATA_FILE).write_bytes(b""),
    "no index": lambda part: (part / INDEX_FILE).unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damaged_parts_are_reported_ignored_and_rebuilt(tmp_path, damage, caplog):
    fill(tmp_path)
    damage(parts(tmp_path)[0])
    store = PrefixStore(tmp_path, ORIGIN)
    assert store.open(KEYS) == KEYS
    assert "prefix cache: ignoring" in caplog.text
    assert fill(tmp_path) == KEYS
    check(tmp_path)


def test_hidden_states_of_another_backbone_are_ignored(tmp_path):
    fill(tmp_path, origin={**ORIGIN, "weights": "b"})
    (foreign,) = parts(tmp_path)
    store = PrefixStore(tmp_path, ORIGIN)
    assert store.open(KEYS) == KEYS
    shutil.copytree(foreign, store.folder / foreign.name)  # even if copied into the right folder
    assert store.open(KEYS) == KEYS
    assert fill(tmp_path) == KEYS
    check(tmp_path)


@pytest.mark.process
def test_two_processes_end_with_one_good_store(tmp_path):
    context = multiprocessing.get_context("fork")
    with context.Pool(2) as pool:
        missing = pool.starmap(fill, [(tmp_path,)] * 2)
    assert sorted(missing) == [[], KEYS]
    assert len(parts(tmp_path)) == 1
    check(tmp_path)


def test_the_part_of_a_killed_writer_is_removed(tmp_path):
    fill(tmp_path, KEYS[:1])
    left = parts(tmp_path)[0].with_name(".x.lift_ss_hf.incomplete")
    left.mkdir()
    fill(tmp_path)
    assert not left.exists()


def test_the_part_of_a_killed_writer_of_another_backbone_is_removed_unless_locked(tmp_path):
    fill(tmp_path, origin={**ORIGIN, "weights": "b"})
    left = parts(tmp_path)[0].with_name(".x.lift_ss_hf.incomplete")
    left.mkdir()
    with PrefixStore(tmp_path, {**ORIGIN, "weights": "b"}).locked():
        left.mkdir(exist_ok=True)
        fill(tmp_path)
        assert left.exists()
    left.mkdir(exist_ok=True)
    fill(tmp_path)
    assert not left.exists()
    check(tmp_path)


@pytest.mark.parametrize("origin", [None, "{}", '{"weights": "a"}'], ids=["no origin", "empty", "of another name"])
def test_folders_that_are_not_stores_are_left_alone(tmp_path, origin):
    other = tmp_path / "thesis"
    for name in (".draft.old", ".draft.incomplete", ".draft.lift_ss_hf.old", ".draft.lift_ss_hf.incomplete"):
        (other / name).mkdir(parents=True)
        (other / name / "chapter1").write_text("years of work")
    (other / "lock").write_text("")
    if origin is not None:
        (other / "origin.json").write_text(origin)
    before = tree(other)
    fill(tmp_path)
    assert tree(other) == before
    assert PrefixStore(tmp_path, ORIGIN).others() == []  # nor does a message suggest to remove it


@pytest.mark.process
@STOPS
def test_a_writer_stopped_anywhere_leaves_a_store_that_the_next_one_completes(tmp_path, kill):
    fill(tmp_path / "whole", KEYS[:1])
    fill(tmp_path / "whole")
    cache = tmp_path / "cache"
    shutil.copytree(tmp_path / "whole", tmp_path / "start")
    shutil.rmtree(max(parts(tmp_path / "start"), key=lambda part: (part / DATA_FILE).stat().st_size))
    shutil.copytree(tmp_path / "start", cache)
    for _ in stopped_everywhere(lambda: fill(cache), cache, kill):
        assert PrefixStore(cache, ORIGIN).open(KEYS[:1]) == []  # what was there before
        fill(cache, [*KEYS, chain_key([7])])  # of other chains, and so of another name
        assert not list(cache.glob("*/.*"))
        check(cache)
        shutil.rmtree(cache)
        shutil.copytree(tmp_path / "start", cache)
    assert set(tree(cache)) == set(tree(tmp_path / "whole"))
    check(cache)


def test_a_store_records_its_origin_and_the_size_of_others(tmp_path):
    fill(tmp_path)
    store = PrefixStore(tmp_path, {**ORIGIN, "weights": "b"})
    (other,) = store.others()
    assert other == (parts(tmp_path)[0].parent, (parts(tmp_path)[0] / DATA_FILE).stat().st_size)
    assert json.loads((other[0] / "origin.json").read_text())["weights"] == "a"
    assert store.num_bytes() == 0


def test_other_stores_are_not_sized_to_find_what_killed_writers_left_in_them(tmp_path, monkeypatch):
    fill(tmp_path, origin={**ORIGIN, "weights": "b"})
    monkeypatch.setattr(prefix_store, "_num_bytes", lambda store: pytest.fail("it is sized"))
    fill(tmp_path)


def _fill_small_disk(folder):
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
    try:
        fill(folder)
    except OSError:
        return parts(folder)


@pytest.mark.process
def test_a_full_disk_leaves_no_part(tmp_path):
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply(_fill_small_disk, (tmp_path,)) == []
    assert not list(tmp_path.glob("*/.*"))


def _fill_many(folder):
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
    store, keys = PrefixStore(folder, ORIGIN), [chain_key([number]) for number in range(100)]
    with pytest.raises(OSError, match="index"), store.locked(), store.writing(keys) as add:
        for key in keys:
            add(key, torch.zeros(1, 1, 1, 1))
    return parts(folder)


@pytest.mark.process
def test_a_disk_that_gets_full_at_the_index_leaves_no_part(tmp_path):
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply(_fill_many, (tmp_path,)) == []


@pytest.mark.process
def test_a_real_full_disk_leaves_no_part_at_any_size(tmp_path):
    own_mounts = ["unshare", "--mount", "--map-root-user"]
    can = ["sh", "-c", f"mount -t tmpfs tmpfs {tmp_path}"]
    if shutil.which("unshare") is None or subprocess.run([*own_mounts, *can], capture_output=True).returncode:
        pytest.skip("needs to mount a small disk, which is not allowed here")
    script = [sys.executable, filled_stores.__file__, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([*own_mounts, *script], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr


def test_rounding_is_to_float16_unless_it_overflows():
    small, large = torch.tensor([1.0, 3e4]), torch.tensor([1.0, 1e5])
    assert to_half(small).dtype == torch.float16
    assert to_half(large).dtype == torch.bfloat16
    assert torch.isfinite(to_half(large)).all()
    assert to_half(small.bfloat16()).dtype == torch.bfloat16


def test_both_dtypes_come_back_from_one_part(tmp_path):
    store = PrefixStore(tmp_path, ORIGIN)
    large = torch.full((2, 1, 3, 4), 1e5)
    with store.locked(), store.writing(KEYS[:2]) as add:
        add(KEYS[0], large)
        add(KEYS[1], large / 10)
    store.open(KEYS)
    assert torch.equal(store.read(KEYS[0]), large.bfloat16())
    assert torch.equal(store.read(KEYS[1]), (large / 10).half())
