"""Stop a function at each of its file operations in turn, in forked processes, by an interrupt or a kill."""

import os
import shutil
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lift_ss_hf.models import atomic

OPERATIONS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.chmod"}  # os.rename is replace, too
FINISHED, INTERRUPTED, KILLED, FAILED = range(4)


STOPS = pytest.mark.parametrize("kill", [False, True], ids=["interrupt", "kill"])


class Interrupt(BaseException):
    """What Ctrl-C raises, but nothing else."""


def stopped_everywhere(work: Callable[[], object], folder: Path, kill: bool) -> Iterator[int]:
    """Run `work` in forks until one finishes; the n-th is stopped before its n-th operation on a file in `folder`.

    Args:
        work: what to run; the test sets `folder` up before each run, and checks it after.
        folder: operations on paths in it count.
        kill: end the process at once instead of raising an interrupt.

    Yields:
        the number of the operation, after each run that was stopped.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)  # waiting for a disk is slow; its files are opened all the same
        patch.setattr(atomic, "_sync_file_system", lambda folder: False)
        for number in range(1, 1000):
            status = os.waitstatus_to_exitcode(os.waitpid(_fork(work, folder, kill, number), 0)[1])
            assert status in (FINISHED, KILLED if kill else INTERRUPTED), f"operation {number}: {status}"
            if status == FINISHED:
                assert number > 5, "the hook sees nothing"
                return
            yield number


def check_replacing(old: Callable[[], object], new: Callable[[], object], folder: Path, kill: bool) -> None:
    """Check that a folder is old or new wherever its writer is stopped, and that the next run leaves nothing else.

    Args:
        old: writes the folder.
        new: replaces it, in each run by the same bytes.
        folder: alone in its parent folder, which is emptied.
        kill: as for `stopped_everywhere`.
    """
    parent, start = folder.parent, folder.parent.with_name("start")
    new()
    whole = tree(parent)
    shutil.rmtree(parent)
    old()
    before = tree(parent)
    assert before != whole
    shutil.copytree(parent, start)
    for _ in stopped_everywhere(new, parent, kill):
        atomic.restore(folder)
        assert {name: data for name, data in tree(parent).items() if name[0] != "."} in (before, whole)
        new()
        assert tree(parent) == whole
        shutil.rmtree(parent)
        shutil.copytree(start, parent)
    assert tree(parent) == whole


def _fork(work: Callable[[], object], folder: Path, kill: bool, number: int) -> int:
    if pid := os.fork():
        return pid
    status = FAILED
    try:
        stop_before(number, folder, kill)
        work()
        status = FINISHED
    except Interrupt:
        status = INTERRUPTED
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def stop_before(number: int, folder: Path, kill: bool) -> None:
    """Stop this process before its n-th operation on a file in a folder.

    Python calls an audit hook before each operation, and it can never be removed: fork first.
    """
    count = 0

    def hook(event: str, arguments: tuple) -> None:
        nonlocal count
        if event not in OPERATIONS or not _is_in(arguments, folder):
            return
        if event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR):
            return  # reading changes nothing: a stop at the next operation finds the same files
        count += 1
        if count == number:
            if kill:
                os._exit(KILLED)
            raise Interrupt

    sys.addaudithook(hook)


def _is_in(arguments: tuple, folder: Path) -> bool:
    """Return True for a path in the folder, or relative to an open folder, as shutil.rmtree names its files."""
    path = os.fsdecode(arguments[0]) if isinstance(arguments[0], (str, bytes, os.PathLike)) else ""
    return path.startswith(str(folder)) or (bool(path) and not Path(path).is_absolute())


def tree(folder: Path) -> dict[str, bytes]:
    """Return the files of a folder, with their content; empty folders and links that lead nowhere end with a slash."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            found[str(path.relative_to(folder))] = path.read_bytes()
        elif not path.is_dir() or not any(path.iterdir()):
            found[f"{path.relative_to(folder)}/"] = b""
    return found
