"""The evaluate module: loaded in a clean process, copied alone, from a wheel; batches, labels, combinations."""

import json
import os
import runpy
import shutil
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import evaluate
import pytest
from scripts import BUILD_FILES

import lift_ss_hf
from lift_ss_hf.metrics import Q8_SOV, load_q8_sov
from lift_ss_hf.metrics.scoring import score

REFERENCES, PREDICTIONS = ["HHHHHHXX", "LEEEEL"], ["HHHLHHHH", "LLEEEL"]

CLEAN_PROCESS = """
import sys
sys.path[:] = [p for p in sys.path if p not in ("", {root!r})]
sys.meta_path[:] = [f for f in sys.meta_path if "editable" not in str(f)]  # the checkout is installed for the tests
import evaluate, json
metric = evaluate.load({metric!r}, "q8")
result = metric.compute(references={references!r}, predictions={predictions!r})
assert not any(name.split(".")[0] == "lift_ss_hf" for name in sys.modules), "the package was on the path"
try:
    import lift_ss_hf
except ImportError:
    print(json.dumps(result))
"""


@pytest.fixture
def metric_cache(tmp_path, monkeypatch):
    """Empty caches for evaluate in this process."""
    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", str(tmp_path / "metrics"))
    return {"cache_dir": str(tmp_path / "metrics")}


def compute_in_clean_process(metric, folder):
    """Load and compute offline, with empty caches, where the package cannot be imported."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "PYTHON"))}
    environment |= {"HF_HOME": str(folder / "hf"), "HF_HUB_OFFLINE": "1", "HF_EVALUATE_OFFLINE": "1"}
    root = str(Path(lift_ss_hf.__file__).parents[1])
    code = CLEAN_PROCESS.format(metric=str(metric), root=root, references=REFERENCES, predictions=PREDICTIONS)
    finished = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=folder, timeout=120
    )
    assert finished.returncode == 0, finished.stderr[-2000:]
    return json.loads(finished.stdout)


@pytest.mark.process
@pytest.mark.parametrize("place", ["checkout", "copied alone"])
def test_it_loads_and_computes_where_the_package_is_not(tmp_path, place):
    metric = Q8_SOV
    if place == "copied alone":
        metric = shutil.copytree(Q8_SOV, tmp_path / "space" / "q8_sov")
        assert not any(path.is_symlink() for path in metric.iterdir())
    assert compute_in_clean_process(metric, tmp_path) == score(
        references=REFERENCES, predictions=PREDICTIONS, states="q8"
    )


@pytest.mark.process
def test_the_wheel_holds_the_metric_as_files(tmp_path):
    root = Path(lift_ss_hf.__file__).parents[1]
    if not (root / "setup.cfg").is_file():
        pytest.skip("needs the checkout, to build from")
    pytest.importorskip("setuptools")
    # A copy, so that nothing is built in the checkout; without build isolation, so that nothing is downloaded.
    source = tmp_path / "source"
    source.mkdir()
    for name in BUILD_FILES:
        if (root / name).is_file():
            shutil.copy(root / name, source)
    shutil.copytree(root / "lift_ss_hf", source / "lift_ss_hf", symlinks=True)
    build = "from setuptools.build_meta import build_wheel; build_wheel('..')"
    subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True, timeout=120)
    (wheel,) = tmp_path.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    shipped = tmp_path / "site" / "lift_ss_hf" / "metrics" / "q8_sov"
    assert {path.name for path in shipped.iterdir()} >= {path.name for path in Q8_SOV.glob("*.*")}
    for name in ("metrics/scoring.py", "models/states.py"):
        assert (shipped / Path(name).name).read_bytes() == (root / "lift_ss_hf" / name).read_bytes()
    # From the wheel itself: its own load_q8_sov, in a process that sees the wheel instead of the checkout.
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r}); import lift_ss_hf.metrics as m; "
        f"assert m.__file__.startswith({str(tmp_path)!r}); "
        "print(m.load_q8_sov('q3').compute(references=['HHHHHH'], predictions=['HHHLHH'])['sov99'])"
    )
    environment = os.environ | {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"}
    finished = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=120
    )
    assert finished.stdout.strip() == str(7 / 12), finished.stderr[-2000:]


def test_the_space_has_what_the_ecosystem_expects():
    for name in ("q8_sov.py", "README.md", "app.py", "requirements.txt"):
        assert (Q8_SOV / name).is_file()
    header = (Q8_SOV / "README.md").read_text().split("---")[1]
    for line in ("title: q8_sov", "sdk: gradio", "app_file: app.py", "- evaluate", "- metric"):
        assert line in header


def test_the_page_of_the_space_scores_what_is_typed(monkeypatch):
    # gradio itself draws the page and is no dependency of ours: what it is given is what is tested.
    pages = []
    gradio = SimpleNamespace(
        **dict.fromkeys(("Textbox", "Dropdown", "Radio", "Code"), lambda *choices, **options: (choices, options)),
        Interface=lambda **options: pages.append(options),
    )
    monkeypatch.setitem(sys.modules, "gradio", gradio)
    monkeypatch.syspath_prepend(str(Q8_SOV))
    app = runpy.run_path(str(Q8_SOV / "app.py"))
    monkeypatch.delitem(sys.modules, "states")
    app["page"]()
    answer = pages[0]["fn"]("\n".join(REFERENCES), "\n".join(PREDICTIONS), "q8", "compatible")
    assert json.loads(answer) == score(references=REFERENCES, predictions=PREDICTIONS, states="q8")
    assert pages[0]["fn"]("HH", "H", "q8", "masked").startswith("error: chain 1: 2 reference states but 1 predicted")


def test_the_module_names_every_file_it_needs():
    # evaluate copies only what q8_sov.py itself imports: a module that scoring.py needs must be named there too.
    named = {line.split()[1][1:] for line in (Q8_SOV / "q8_sov.py").read_text().splitlines() if "from ." in line[:6]}
    beside = {path.stem for path in Q8_SOV.glob("*.py")} - {"q8_sov", "app"}
    assert named == beside


def test_it_computes_what_scoring_computes(metric_cache):
    metric = load_q8_sov(**metric_cache)
    for options in ({}, {"states": "q3"}, {"states": "q8", "mode": "masked", "per_chain": True, "bootstrap": 20}):
        result = metric.compute(references=REFERENCES, predictions=PREDICTIONS, **options)
        assert result == score(references=REFERENCES, predictions=PREDICTIONS, **options)


def test_batches_and_single_chains_add_up(metric_cache):
    whole = score(references=REFERENCES * 3, predictions=PREDICTIONS * 3, states="q8")
    metric = load_q8_sov("q8", **metric_cache)
    for _ in range(3):
        metric.add_batch(references=REFERENCES, predictions=PREDICTIONS)
    assert metric.compute() == whole
    for _ in range(3):
        for reference, prediction in zip(REFERENCES, PREDICTIONS, strict=True):
            metric.add(reference=reference, prediction=prediction)
    assert metric.compute() == whole


def test_labels_are_taken_too(metric_cache):
    labels = {"references": [[5, 5, -100, 0], [2, 2]], "predictions": [[5, 0, 0, 0], [2, 2]]}
    metric = load_q8_sov(**metric_cache)
    assert metric.compute(**labels) == score(
        references=["HHXL", "EE"], predictions=["HLLL", "EE"], states="q9", mode="masked"
    )
    assert metric.compute(**labels, states="q3", source="q9")["q3"] == 0.8


def test_two_alphabets_combine(metric_cache):
    both = evaluate.combine({states: load_q8_sov(states, **metric_cache) for states in ("q9", "q3")})
    result = both.compute(references=REFERENCES, predictions=PREDICTIONS)
    nine, three = (score(references=REFERENCES, predictions=PREDICTIONS, states=states) for states in ("q9", "q3"))
    assert (result["q9"], result["q3"]) == (nine["q9"], three["q3"])
    assert (result["q9_sov99"], result["q3_sov99"]) == (nine["sov99"], three["sov99"])
    both.add_batch(references=REFERENCES, predictions=PREDICTIONS)
    assert both.compute() == result


def test_two_ranks_add_up(tmp_path):
    # The ranks of a distributed evaluation meet through locked files, so two threads do for two processes.
    def rank_answer(rank):
        metric = load_q8_sov("q8", num_process=2, process_id=rank, experiment_id="two", cache_dir=str(tmp_path))
        metric.add_batch(references=REFERENCES[rank : rank + 1], predictions=PREDICTIONS[rank : rank + 1])
        return metric.compute()

    with ThreadPoolExecutor(2) as ranks:
        assert list(ranks.map(rank_answer, range(2))) == [
            score(references=REFERENCES, predictions=PREDICTIONS, states="q8"),
            None,
        ]


def test_bad_input_is_one_clear_line(metric_cache):
    metric = load_q8_sov(**metric_cache)
    with pytest.raises(ValueError, match="chain 2: 3 reference states but 2 predicted"):
        metric.compute(references=["HH", "HHH"], predictions=["HH", "HH"])
    with pytest.raises(ValueError, match="unknown alphabet 'q7'"):
        load_q8_sov("q7", **metric_cache)


def test_no_chains_is_one_clear_line_too(metric_cache):
    for references, predictions, message in (
        ([], [], "no chains: references and predictions are empty"),
        (["HH"], [], "1 references but 0 predictions"),
        ([], ["HH"], "0 references but 1 predictions"),
    ):
        with pytest.raises(ValueError, match=message):
            load_q8_sov(**metric_cache).compute(references=references, predictions=predictions)
