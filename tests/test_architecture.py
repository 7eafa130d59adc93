"""Imports run one way, as CONTRIBUTING.md says; what travels with a model imports only its siblings."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "lift_ss_hf"
MODULES = sorted(PACKAGE.glob("*.py"))
MAIN_JOB = {
    *("arguments", "callbacks", "checkpoints", "interruption", "training", "evaluation", "sweeping", "plots"),
    "pretraining",
    *("provenance", "estimation", "cached_chains", "sweep_caches", "model_card", "sharing"),
    *("calibration", "prediction"),
}


def imported(path: Path) -> set[str]:
    """Names of our own modules that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level == 1:
            found |= {(node.module or alias.name).split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and (node.module or "").startswith("lift_ss_hf"):
            found.add((node.module or "").removeprefix("lift_ss_hf").strip(".").split(".")[0])
    return found


def reach(name: str) -> set[str]:
    """All modules at the root that one needs, itself included."""
    seen, todo = set(), [name]
    while todo:
        current = todo.pop()
        path = PACKAGE / f"{current}.py"
        if current in seen or not path.is_file():
            continue
        seen.add(current)
        todo += imported(path)
    return seen


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_no_module_imports_what_builds_on_it(path):
    name = path.stem
    if name in ("__init__", *MAIN_JOB):
        return
    assert not reach(name) & MAIN_JOB


def test_the_maths_of_the_metric_needs_numpy_only():
    for name in reach("scoring"):
        for node in ast.walk(ast.parse((PACKAGE / f"{name}.py").read_text("utf-8"))):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                modules.append(node.module)
            for module in modules:
                assert module.split(".")[0] in {*sys.stdlib_module_names, "numpy"}, f"{name} imports {module}"


def test_what_travels_with_a_model_is_flat():
    for name in reach("modeling"):
        for node in ast.walk(ast.parse((PACKAGE / f"{name}.py").read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom):
                assert node.level <= 1, f"{name} imports from above"
                assert node.level == 1 or not node.module.startswith("lift_ss_hf"), f"{name} imports the package"
                assert node.level == 0 or "." not in (node.module or ""), f"{name} imports from a folder"


def test_recipes_are_imported_by_nothing():
    for path in PACKAGE.rglob("*.py"):
        assert "recipes" not in imported(path)


@pytest.mark.process
def test_importing_the_package_sets_nothing_and_reads_no_device():
    code = (
        "import logging, sys; level = logging.getLogger().level; import lift_ss_hf; "
        "assert logging.getLogger().level == level; "
        "assert 'torch' not in sys.modules or not __import__('torch').cuda.is_initialized()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
