"""Files and folders are replaced whole or not at all, wherever the writer is stopped."""

import os
import shutil
from pathlib import Path

import pytest
from stopped_at import STOPS, stopped_everywhere, tree

from lift_ss_hf.models import atomic
from lift_ss_hf.models.atomic import (
    claimed_file,
    remove_leftovers,
    replacing,
    replacing_folder,
    require_folder,
    restore,
)

OLD, NEW = {"a": b"old", "b/c": b"old"}, {"a": b"new", "d/e": b"new"}


def write_file(path):
    with replacing(path) as part:
        part.write_bytes(b"new")


def write_folder(folder, content=NEW):
    with replacing_folder(folder) as part:
        for name, data in content.items():
            (part / name).parent.mkdir(exist_ok=True)
            (part / name).write_bytes(data)


@pytest.mark.process
@STOPS
def test_a_file_is_old_or_new_at_every_moment(tmp_path, kill):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    for _ in stopped_everywhere(lambda: write_file(path), tmp_path, kill):
        assert path.read_bytes() in (b"old", b"new")
        write_file(path)
        assert tree(tmp_path) == {"file": b"new"}
        path.write_bytes(b"old")
    assert tree(tmp_path) == {"file": b"new"}


@pytest.mark.process
@STOPS
@pytest.mark.parametrize("exists", [False, True], ids=["first", "again"])
def test_a_folder_is_old_or_new_at_every_moment(tmp_path, kill, exists):
    outer, folder = tmp_path / "outer", tmp_path / "outer" / "folder"
    hidden = outer / ".folder.lift_ss_hf.old"

    def start():
        shutil.rmtree(outer, ignore_errors=True)
        outer.mkdir()
        if exists:
            write_folder(folder, OLD)

    start()
    num_hidden = 0
    for _ in stopped_everywhere(lambda: write_folder(folder), tmp_path, kill):
        if exists and not folder.exists():
            assert kill  # an interrupt puts it back at once
            assert tree(hidden) == OLD
            num_hidden += 1
        restore(folder)
        assert tree(folder) in ((OLD, NEW) if exists else ({}, NEW))
        write_folder(folder)
        assert tree(outer) == {f"folder/{name}": data for name, data in NEW.items()}
        start()
    assert tree(outer) == {f"folder/{name}": data for name, data in NEW.items()}
    assert num_hidden == (exists and kill)


def test_an_interrupt_between_the_two_renames_puts_the_old_folder_back(tmp_path, monkeypatch):
    folder = tmp_path / "folder"
    write_folder(folder, OLD)
    rename = os.rename

    def interrupted(source, target, **options):
        if str(source).endswith(atomic.INCOMPLETE):
            raise KeyboardInterrupt
        rename(source, target, **options)

    monkeypatch.setattr(os, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_folder(folder)
    assert tree(tmp_path) == {f"folder/{name}": data for name, data in OLD.items()}


@pytest.mark.parametrize("name", ["file", "file/run", "pipe", "nowhere", "nowhere/run"])
def test_a_folder_in_the_place_of_anything_else_is_refused(tmp_path, name):
    (tmp_path / "file").write_text("years of work")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "nowhere").symlink_to(tmp_path / "missing")
    found = tmp_path / name.split("/")[0]
    message = f"^{found} exists and is not a directory. Give another directory to write to.$"
    for write in (require_folder, write_folder, lambda path: write_file(path / "file")):
        with pytest.raises(ValueError, match=message):
            write(tmp_path / name)
    assert (tmp_path / "file").read_text() == "years of work"


def test_a_folder_may_be_new_or_a_link_to_one(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path, target_is_directory=True)
    for name in ("", "new/run", "link", "link/run"):
        require_folder(tmp_path / name)


def test_only_what_a_killed_writer_of_ours_left_is_removed(tmp_path):
    mine = tmp_path / ".file.lift_ss_hf.mine"
    for path in (mine, tmp_path / ".file.old", tmp_path / ".file.12345678.incomplete"):
        path.write_text("years of work")
    before = tree(tmp_path)
    with replacing(tmp_path / "file") as live:
        write_file(tmp_path / "file")
        write_folder(tmp_path / "folder")
        assert live.exists()  # locked by a live writer
    shutil.rmtree(tmp_path / "folder")
    remove_leftovers(tmp_path)
    assert tree(tmp_path) == {**before, "file": b""}


def test_content_is_synced_before_it_gets_its_name_and_the_name_afterwards(tmp_path, monkeypatch):
    calls, rename, replace = [], os.rename, os.replace
    monkeypatch.setattr(os, "rename", lambda *paths: (calls.append("name"), rename(*paths)))
    monkeypatch.setattr(os, "replace", lambda *paths: (calls.append("name"), replace(*paths)))
    monkeypatch.setattr(atomic, "_sync_file_system", lambda folder: False)
    monkeypatch.setattr(os, "fsync", lambda handle: calls.append(str(Path(f"/proc/self/fd/{handle}").readlink())))
    write_file(tmp_path / "file")
    assert calls[1:] == ["name", str(tmp_path)]
    calls.clear()
    write_folder(tmp_path / "folder")
    assert {Path(path).name for path in calls[:3]} == {"a", "d", "e"}
    assert calls[-2:] == ["name", str(tmp_path)]


def test_many_files_are_synced_by_one_call(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", synced.append)
    write_folder(tmp_path / "folder", {f"{number}": b"" for number in range(100)})
    assert len(synced) < 3


def test_a_failed_sync_is_not_hidden(tmp_path, monkeypatch):
    def fail(handle):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output"):
        write_file(tmp_path / "file")
    assert tree(tmp_path) == {}


def test_a_claimed_file_is_held_by_one_and_free_again_afterwards(tmp_path):
    path = tmp_path / "claim"
    with claimed_file(path) as first:
        with claimed_file(path) as second:
            assert (first, second) == (True, False)
        with claimed_file(path) as third:  # who did not get it lets nothing go
            assert third is False
    with claimed_file(path) as again:
        assert again is True
