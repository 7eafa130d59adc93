"""What every test gets: the real data where there is any, a clean environment, and the marks that follow from use."""

import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest

# Sums depend on how they are split: results compared bit for bit with another process need equally many threads.
# Set before torch is imported; the processes that tests start inherit it.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may reach for the network

REAL_DATA = {"shared_corpora", "shared_esm2"}
# git records the commit in every run's provenance: it is no reason to leave a test out of `make test-fast`
UNCOUNTED_PROCESSES = {"git"}


@pytest.fixture(scope="session")
def shared_corpora() -> Path:
    """Return the folder of the real corpora, or skip the test if LIFT_SS_DATA_DIR does not name one."""
    folder = os.environ.get("LIFT_SS_DATA_DIR")
    if not folder or not Path(folder).is_dir():
        pytest.skip("needs the real corpora: set LIFT_SS_DATA_DIR")
    return Path(folder).resolve()


@pytest.fixture(scope="session")
def shared_esm2(shared_corpora) -> Path:
    """Return the folder of the real ESM-2 8M beside the corpora, or skip the test if there is none."""
    folder = shared_corpora.parent / "backbones" / "esm2_t6_8M"
    if not folder.is_dir():
        pytest.skip("needs the real ESM-2 8M in backbones/esm2_t6_8M beside LIFT_SS_DATA_DIR")
    return folder


@pytest.fixture(autouse=True)
def accelerate_environment():
    """Restore the variables that TrainingArguments(bf16=True) would leave behind for all later tests."""
    before = {name: value for name, value in os.environ.items() if name.startswith("ACCELERATE_")}
    yield
    for name in [name for name in os.environ if name.startswith("ACCELERATE_")]:
        del os.environ[name]
    os.environ.update(before)


def pytest_configure(config):
    """Compile DeepSpeed's operators for these tests alone.

    torch waits without end for the lock that a killed process left in its folder, and everybody's folder is one
    below home. The processes of pytest-xdist inherit the variable.
    """
    if "TORCH_EXTENSIONS_DIR" not in os.environ:
        folder = tempfile.TemporaryDirectory()
        os.environ["TORCH_EXTENSIONS_DIR"] = folder.name
        config.add_cleanup(folder.cleanup)


def pytest_make_parametrize_id(val):
    """Keep bytes out of the names of tests: gzip and zip write the time into them, and xdist compares the names."""
    return "bytes" if isinstance(val, bytes) else None


def pytest_collection_modifyitems(items):
    """Mark the tests that use the real data `shared`."""
    for item in items:
        if REAL_DATA & set(getattr(item, "fixturenames", ())):
            item.add_marker("shared")


@pytest.fixture
def without_mmseqs(monkeypatch):
    """No program is found, so that chains are held out by equality, not by identity."""
    monkeypatch.setattr(shutil, "which", lambda name: None)


# ---- `make test-fast` starts no process: a test that does carries the mark `process`, or fails ----------------------

_started: list[str] = []


def _note_process(event: str, arguments: tuple) -> None:
    if event == "subprocess.Popen":
        executable, command = arguments[0], arguments[1]
        program = executable or (command if isinstance(command, str) else command[0])
        _started.append(Path(os.fsdecode(program)).name)
    elif event in ("os.fork", "os.forkpty", "os.posix_spawn"):
        _started.append(event)


sys.addaudithook(_note_process)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    """Count the processes of one test, its fixtures included."""
    _started.clear()
    return (yield)


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item):
    """Fail a test that started a process without being marked so."""
    started = [program for program in _started if program not in UNCOUNTED_PROCESSES]
    if started and not item.get_closest_marker("process"):
        pytest.fail(f"{item.nodeid} starts a process ({started[0]}): mark it @pytest.mark.process", pytrace=False)
