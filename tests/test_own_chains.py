"""benchmarks/own_chains.py: rows are kept as they are done, and the table is of the rows that are there."""

import json
import subprocess
import sys

import pytest
from scripts import ROOT, load_module, run_script

BENCHMARK = "benchmarks/own_chains.py"


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return load_module(ROOT / BENCHMARK)


def row(way, seed, q3=75.0, **more):
    measured = {"cpu_seconds": 1500.0 + seed, "peak_mib": 1000.0 + seed, "seconds": 300.0, "cb513": q3, "test2018": q3}
    return {"way": way, "seed": seed, "backbone": "bundled", **measured, "date": "2026-11-26", "origin": "here", **more}


def run_main(benchmark, monkeypatch, out, *more):
    monkeypatch.setattr(sys, "argv", ["own_chains.py", "--out", str(out), *more])
    benchmark.main()


def test_a_stopped_benchmark_runs_the_rows_that_are_missing(benchmark, monkeypatch, tmp_path, capsys):
    calls = []

    def measure(way, args, seed):
        calls.append((way, seed))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return row(way, seed)

    monkeypatch.setattr(benchmark, "measure", measure)
    wanted = ("--ways", "quick", "best", "--seeds", "0", "1")
    with pytest.raises(KeyboardInterrupt):
        run_main(benchmark, monkeypatch, tmp_path, *wanted)
    assert calls == [("quick", 0), ("best", 0), ("quick", 1)]
    assert [(done["way"], done["seed"]) for done in benchmark.read_rows(tmp_path)] == calls[:2]
    run_main(benchmark, monkeypatch, tmp_path, *wanted)
    assert calls[3:] == [("quick", 1), ("best", 1)]
    run_main(benchmark, monkeypatch, tmp_path, *wanted)
    assert len(calls) == 5
    run_main(benchmark, monkeypatch, tmp_path, *wanted, "--backbone", "models/other")  # is another row
    assert len(calls) == 9
    assert len(json.loads((tmp_path / "results.json").read_text())) == 8
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


def test_the_table_has_means_and_spreads_of_the_rows_so_far(benchmark, monkeypatch, tmp_path, capsys):
    for each in (row("best", 0, 76.0), row("quick", 0, 74.0), row("quick", 1, 75.0, origin="there")):
        benchmark.add_row(each, tmp_path)
    run_main(benchmark, monkeypatch, tmp_path, "--table")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "| backbone | way | seeds | CPU seconds | peak [MiB] | Q3 cb513 | Q3 test2018 |"
    assert lines[2] == "| bundled | quick | 2 | 1,500 ± 1 | 1,001 | 74.50 ± 0.71 | 74.50 ± 0.71 |"
    assert lines[3] == "| bundled | best | 1 | 1,500 | 1,000 | 76.00 | 76.00 |"
    assert lines[4:] == ["", "- 2026-11-26, here", "- 2026-11-26, there"]


@pytest.mark.parametrize(
    ("way", "message"),
    [
        ("fast", "error: unknown way 'fast'. Choose one of: quick; "),
        ("biotrainer 2.1.1, CNN", "error: 'biotrainer 2.1.1, CNN' needs --biotrainer PYTHON"),
    ],
)
def test_a_way_that_cannot_be_run_is_an_error_before_any_run(monkeypatch, tmp_path, way, message):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    done = run_script(BENCHMARK, "--out", tmp_path, "--ways", way)
    assert (done.returncode, list(tmp_path.iterdir())) == (2, [])
    assert done.stderr.splitlines()[-1].startswith(message)


@pytest.mark.process
def test_what_a_command_uses_includes_its_children(benchmark, tmp_path):
    burn = "import time\nwhile time.process_time() < 0.3: pass\n"
    large = f"import subprocess, sys\n{burn}held = b'x' * (800 << 20)\nsubprocess.run([sys.executable, '-c', {burn!r}])"
    # In a small process: what a child uses is counted from the memory of the process that starts it.
    program = (
        f"import measuring, json, pathlib; print(json.dumps(measuring.run_alone({[sys.executable, '-c', large]!r}, "
    )
    program += f"pathlib.Path({str(tmp_path / 'log.txt')!r}))))"
    folder = ROOT / "benchmarks"
    used = json.loads(
        subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, check=True).stdout
    )
    assert 0.6 <= used["cpu_seconds"] < 2
    assert 800 < used["peak_mib"] < 1000
    assert used["seconds"] >= 0.6
    with pytest.raises(RuntimeError, match=r"failed: see .*log\.txt"):
        benchmark.run_alone([sys.executable, "-c", "raise SystemExit('no')"], tmp_path / "log.txt")
    assert (tmp_path / "log.txt").read_text() == "no\n"
