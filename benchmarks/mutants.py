#!/usr/bin/env python
"""Measure how many small faults the tests find: a sample of mutants of the metric, the models and the batches.

    python benchmarks/mutants.py run benchmarks/mutants.json AFTER.json       # tests each mutant; resumes if stopped
    python benchmarks/mutants.py run benchmarks/mutants.json AFTER.json --before BEFORE.json     # lists what differs
    python benchmarks/mutants.py sample NEW.json                              # draws another sample

The sample in mutants.json is kept, so that scores before and after a change can be compared. A mutant is identified by
its scope, operator, line and changed line: `run` finds it in whatever file its function is now, and calls it gone if no
file has that line any more. One process imports torch and forks a child for each mutant; the child sees no GPU, no real
corpora and no slow tests. Needs `pip install cosmic-ray`, and commit what you have before: files are changed in place
and put back.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import importlib.util
import itertools
import json
import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names

ROOT = Path(__file__).resolve().parents[1]
PACKAGE, SCRATCH = ROOT / "lift_ss_hf", Path(tempfile.gettempdir()) / f"mutants_{os.getuid()}_{ROOT.name}"
SEED, TEST_SECONDS, RUN_SECONDS, MEMORY = 0, 30, 1800, 8 << 30  # CPU of one test, clock of all tests of a mutant, bytes
COMMONPLACE = 20  # a line so short is found in other functions by chance [characters]
PRELOADED = ("torch", "transformers", "adapters", "datasets", "evaluate", "hypothesis", "matplotlib.figure", "pytest")
# The same for every run, and for the processes that tests start.
ENVIRONMENT = {
    **{"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"},
    **{"LIFT_SS_DATA_DIR": "/nonexistent", "HF_HUB_OFFLINE": "1", "HF_HOME": str(SCRATCH / "hf")},
    **{"CUDA_VISIBLE_DEVICES": "", "TOKENIZERS_PARALLELISM": "false"},
}
METRIC, MODEL = "scoring paired trainer_metrics metric", "modeling packing case_table"
# By the file's name when the sample is drawn: how many mutants, and the tests that should find them, quick ones first.
PLAN = {
    "segments": (14, METRIC),
    "scored_chains": (12, METRIC),
    "scoring": (11, METRIC),
    "significance": (11, METRIC),
    "trainer_metrics": (10, "trainer_metrics scoring metric"),
    "states": (9, f"states {METRIC} readers"),
    "heads": (15, f"heads losses configuration {MODEL}"),
    "losses": (8, f"losses {MODEL}"),
    "windows": (10, "windows modeling packing"),
    "collator": (10, "collator masking cached_chains"),
    "masking": (3, "masking collator cached_chains"),
    "rows": (8, "packing"),
    "packing": (11, "packing"),
}


class Mutant(NamedTuple):
    """What identifies a mutant, wherever its file is; `occurrence` tells apart those that are equal otherwise."""

    stem: str
    scope: str
    operator: str
    line: str
    mutated: str
    occurrence: int


class Site(NamedTuple):
    """A place where an operator can change a file: the operator's `number`-th in it."""

    operator: str
    number: int
    start: tuple[int, int]
    scope: str


def sites(source: str) -> list[Site]:
    """Return all places of all operators that need no arguments."""
    tree, found = get_ast(source), []
    for name in operator_names():
        if get_operator(name).arguments():
            continue
        operator = get_operator(name)()
        places = ((node, start) for node in ast_nodes(tree) for start, _ in operator.mutation_positions(node))
        found += [Site(name, number, start, _scope(node)) for number, (node, start) in enumerate(places)]
    return found


def _scope(node: Any) -> str:
    """Return the qualified name of the function or class around a node; empty at the top of the file."""
    names: list[str] = []
    while node := node.parent:
        if node.type in ("funcdef", "classdef"):
            names.insert(0, node.name.value)
    return ".".join(names)


def _without_annotations(source: str) -> str:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, (ast.arg, ast.AnnAssign)):
            node.annotation = ast.Constant(None)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            node.returns = None
    return ast.dump(tree)


def mutate(source: str, site: Site) -> tuple[str, str, str] | None:
    """Return the mutated source, the line and what it becomes; None if only types change, or nothing, or it is invalid.

    Operators leave docstrings alone; a `|` at the top of a file joins types.
    """
    if not site.scope and "BinaryOperator_BitOr" in site.operator:
        return None
    code = mutate_code(source, get_operator(site.operator)(), site.number)
    try:
        if _without_annotations(code) == _without_annotations(source):
            return None
    except SyntaxError:
        return None
    old, new = source.splitlines(), code.splitlines()
    while old and new and old[0] == new[0]:
        old, new = old[1:], new[1:]
    while old and new and old[-1] == new[-1]:
        old, new = old[:-1], new[:-1]
    line, mutated = ("\n".join(map(str.strip, lines)).strip() for lines in (old, new))
    return code, line, mutated


def alike(source: str, operator: str, line: str, mutated: str) -> Iterator[tuple[str, str]]:
    """Yield scope and mutated source of every mutant of a file that changes such a line in this way."""
    lines = source.splitlines()
    if line.split("\n")[0] not in map(str.strip, lines):
        return
    for site in sites(source):
        if site.operator == operator and lines[site.start[0] - 1].strip() == line.split("\n")[0]:
            change = mutate(source, site)
            if change and change[1:] == (line, mutated):
                yield site.scope, change[0]


def package_files() -> list[Path]:
    """Return the package's modules, without those that are links to others."""
    return sorted(path for path in PACKAGE.rglob("*.py") if not path.is_symlink())


def draw_sample() -> list[Mutant]:
    """Draw mutants of each file of the plan: places without replacement, then one of the operators a place allows."""
    sample = []
    for stem, (wanted, _) in PLAN.items():
        (path,) = (path for path in package_files() if path.stem == stem)
        source, rng = path.read_text("utf-8"), random.Random(f"{SEED} {stem}")
        drawn: list[Mutant] = []
        places: dict[tuple[int, int], list[Site]] = {}
        for site in sites(source):
            places.setdefault(site.start, []).append(site)
        for start in rng.sample(sorted(places), len(places)):
            for site in rng.sample(places[start], len(places[start])):
                if change := mutate(source, site):
                    code, line, mutated = change
                    same = [
                        other for scope, other in alike(source, site.operator, line, mutated) if scope == site.scope
                    ]
                    drawn.append(Mutant(stem, site.scope, site.operator, line, mutated, same.index(code)))
                    break
            if len(drawn) == wanted:
                break
        print(f"{stem}: {len(drawn)} mutants at {len(places)} places")
        sample += sorted(drawn)
    return sample


def find(mutant: Mutant) -> tuple[Path, str, str] | None:
    """Return the file that has a mutant's line now, its mutated source, and the scope there.

    The same scope counts in any file, the file of the same name first; another scope only if no other has that line.
    """
    found = []
    for path in sorted(package_files(), key=lambda path: path.stem != mutant.stem):
        pairs = alike(path.read_text("utf-8"), mutant.operator, mutant.line, mutant.mutated)
        found += [(path, code, scope) for scope, code in pairs]
    for path in dict.fromkeys(path for path, _, _ in found):
        same = [entry for entry in found if entry[0] == path and entry[2] == mutant.scope]
        if len(same) > mutant.occurrence:
            return same[mutant.occurrence]
    return found[0] if len(found) == 1 and len(mutant.line) > COMMONPLACE else None


def find_tests(stem: str) -> list[str]:
    """Return the test files of the plan, wherever they are below tests/."""
    names = [f"test_{name}.py" for name in PLAN[stem][1].split()]
    paths = {path.name: str(path.relative_to(ROOT)) for path in (ROOT / "tests").rglob("test_*.py")}
    if missing := [name for name in names if name not in paths]:
        print(f"{stem}: no {', '.join(missing)} below tests/. Are its tests in another file? Then name it in PLAN.")
    return [paths[name] for name in names if name in paths]


class TestLimit:
    """A pytest plugin: a test that takes too much CPU ends the process, by the signal's default action."""

    def pytest_runtest_logstart(self) -> None:
        """Start the clock anew."""
        signal.setitimer(signal.ITIMER_PROF, TEST_SECONDS)


def _child(tests: list[str]) -> int:
    """Run all tests up to the first failure, in the fork, and return pytest's exit code."""
    import hypothesis
    import pytest

    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.setsid()
    with (SCRATCH / "log.txt").open("wb") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    os.chdir(ROOT)
    signal.setitimer(signal.ITIMER_PROF, TEST_SECONDS)
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    phases = (hypothesis.Phase.explicit, hypothesis.Phase.generate)  # no memory of other mutants, no shrinking
    slow_is_fine: dict[str, Any] = {"deadline": None, "suppress_health_check": list(hypothesis.HealthCheck)}
    hypothesis.settings.register_profile("mutants", phases=phases, database=None, derandomize=True, **slow_is_fine)
    hypothesis.settings.load_profile("mutants")
    options = ["-x", "-q", "-p", "no:cacheprovider", "-m", "not slow", "--basetemp", str(SCRATCH / "pytest")]
    return pytest.main([*options, *tests], plugins=[TestLimit()])


def run_tests(tests: list[str]) -> dict[str, Any]:
    """Run tests in a fork, and return the outcome, the test that failed, and the CPU seconds of all processes."""
    for cache in [*PACKAGE.rglob("__pycache__"), *(ROOT / "tests").rglob("__pycache__")]:
        shutil.rmtree(cache, ignore_errors=True)
    pid = os.fork()
    if not pid:
        code = 70
        try:
            code = _child(tests)
        finally:
            os._exit(code)
    end, done = time.monotonic() + RUN_SECONDS, 0
    try:
        while not done and time.monotonic() < end:
            time.sleep(0.05)
            done, status, usage = os.wait4(pid, os.WNOHANG)
    finally:
        with contextlib.suppress(ProcessLookupError):  # what the tests left running, too
            os.killpg(pid, signal.SIGKILL)
        if not done:
            _, status, usage = os.wait4(pid, 0)
    code, log = os.waitstatus_to_exitcode(status), (SCRATCH / "log.txt").read_text("utf-8", "replace")
    if code not in (0, 1, 2) and code > 0:
        raise RuntimeError(f"pytest ended with {code}:\n{log[-3000:]}")
    noticed = re.search(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", log, re.MULTILINE)
    by = f"signal {-code}" if code < 0 else noticed[1] if noticed else ""
    return {"outcome": "killed" if code else "survived", "by": by, "cpu": round(usage.ru_utime + usage.ru_stime, 1)}


def run_twice(tests: list[str]) -> dict[str, Any]:
    """As `run_tests`, but a test that fails must fail again: one that fails now and then has found nothing."""
    cpu = 0.0
    for _ in range(3):
        result = run_tests(tests)
        again = run_tests([result["by"]]) if "::" in result["by"] else {"outcome": result["outcome"], "cpu": 0.0}
        cpu += result["cpu"] + again["cpu"]
        if result["outcome"] == again["outcome"]:
            return result | {"cpu": round(cpu, 1)}
        print(f"{result['by']} failed once, and passed on a second run", flush=True)
    return result | {"outcome": "survived", "cpu": round(cpu, 1)}


def test_mutant(mutant: Mutant, tests: list[str]) -> dict[str, Any]:
    """Put a mutant in place of its file, test it, and put the file back, whatever happens."""
    place = find(mutant)
    if place is None:
        return {"outcome": "gone", "by": "", "cpu": 0.0}
    path, code, scope = place
    original = path.read_bytes()
    try:
        path.write_text(code, "utf-8")
        return run_twice(tests) | {"file": str(path.relative_to(ROOT)), "scope_now": scope}
    finally:
        path.write_bytes(original)


def run_sample(sample: list[Mutant], path: Path) -> list[dict[str, Any]]:
    """Test every mutant that the results do not have yet, after a check that the tests pass without any."""
    results = json.loads(path.read_text("utf-8")) if path.is_file() else []
    done = {Mutant(*(result[name] for name in Mutant._fields)) for result in results}
    tests = {stem: find_tests(stem) for stem in dict.fromkeys(mutant.stem for mutant in sample)}
    without = run_twice(list(dict.fromkeys(itertools.chain(*tests.values()))))
    print(f"all tests without a mutant: {without['cpu']} s", flush=True)
    if without["outcome"] != "survived":
        raise RuntimeError(f"{without['by']} fails without any mutant; see {SCRATCH / 'log.txt'}.")
    for number, mutant in enumerate(sample, start=1):
        if mutant not in done:
            results.append(mutant._asdict() | test_mutant(mutant, tests[mutant.stem]))
            last = results[-1]
            print(f"{number}/{len(sample)} {last['outcome']} {last['cpu']} s {show(last)}  {last['by']}", flush=True)
            path.write_text(json.dumps(results, indent=1), "utf-8")
    return results


def show(result: dict[str, Any]) -> str:
    """Return a mutant in one line."""
    return f"{result['stem']} {result['scope']}: `{result['line']}` -> `{result['mutated']}`".replace("\n", " ")


def table(results: list[dict[str, Any]]) -> str:
    """Return outcomes by file, and the survivors, as Markdown."""
    rows = ["| file | mutants | killed | survived | gone | CPU minutes |", "|---|---|---|---|---|---|"]
    for stem in [*dict.fromkeys(result["stem"] for result in results), "all"]:
        own = [result for result in results if stem in ("all", result["stem"])]
        count = Counter(result["outcome"] for result in own)
        numbers = [len(own), *(count[outcome] for outcome in ("killed", "survived", "gone"))]
        rows.append(f"| {stem} | {' | '.join(map(str, numbers))} | {sum(result['cpu'] for result in own) / 60:.1f} |")
    return "\n".join([*rows, "", *(f"- {show(result)}" for result in results if result["outcome"] == "survived")])


def main() -> None:
    """Draw a sample, or run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["sample", "run"])
    parser.add_argument("sample", type=Path, help="JSON file of the sample, written or read")
    parser.add_argument("results", type=Path, nargs="?", help="JSON file of the results of a run")
    parser.add_argument("--before", type=Path, help="results to compare with")
    arguments = parser.parse_args()
    if any(os.environ.get(name) != value for name, value in ENVIRONMENT.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | ENVIRONMENT)
    if arguments.what == "sample":
        arguments.sample.write_text(json.dumps([mutant._asdict() for mutant in draw_sample()], indent=1), "utf-8")
        return
    if arguments.results is None:
        parser.error("run needs a file for the results")
    (SCRATCH / "hf").mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that a file is put back then, too
    for name in PRELOADED:
        importlib.import_module(name)
    spec = importlib.util.find_spec(PACKAGE.name)
    if spec is None or spec.origin != str(PACKAGE / "__init__.py"):
        raise RuntimeError(f"Python imports {spec and spec.origin} instead of {PACKAGE}.")
    sample = [Mutant(**fields) for fields in json.loads(arguments.sample.read_text("utf-8"))]
    results = run_sample(sample, arguments.results)
    print(table(results))
    if arguments.before:
        was = {show(result): result["outcome"] for result in json.loads(arguments.before.read_text("utf-8"))}
        for result in results:
            if was.get(show(result)) != result["outcome"]:
                print(f"- {was.get(show(result))}, now {result['outcome']}: {show(result)}")


if __name__ == "__main__":
    warnings.simplefilter("ignore", SyntaxWarning)  # mutants compare numbers by `is`
    main()
