"""A sweep: every point is run once; a table with the spread over seeds, and a figure."""

import dataclasses
import json
import logging
import multiprocessing

import pytest
from corpus_files import write_three_line
from small_runs import make_chains, write_finished_run
from tiny_models import save_tiny_backbone

from lift_ss_hf.batches.prefix_store import DATA_FILE
from lift_ss_hf.evaluation.predictions import scorable_alphabets
from lift_ss_hf.training import points
from lift_ss_hf.training.points import parse_point, shared_blocks
from lift_ss_hf.training.recipes import RecipeError
from lift_ss_hf.training.sweeps import SWEEP_FILE, _figure, read_points, run_sweep


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    for name, seed in (("train", 0), ("validation", 1), ("test", 2)):
        write_three_line(make_chains(8, seed), folder / f"{name}.txt")
    save_tiny_backbone(folder / "backbone", "esm")
    (folder / "grid.yaml").write_text(
        f"base: {{backbone: {folder}/backbone, head: linear, loss: cross_entropy, train: ['{folder}/train.txt'], "
        f"validation: ['{folder}/validation.txt'], tests: ['{folder}/test.txt'], num_train_epochs: 1, bootstrap: 0, "
        "report_to: none, disable_tqdm: true}\ngrid: {top_blocks: [1, 2]}\nalso: [{adapter: none}]\n"
    )
    return folder


@pytest.mark.process
@pytest.mark.slow
def test_a_sweep_runs_every_point_once(grid, monkeypatch):
    fork = multiprocessing.get_context("fork")  # no imports to wait for; the other sweep here spawns its processes
    monkeypatch.setattr(multiprocessing, "get_context", lambda method: fork)
    rows = run_sweep(grid / "grid.yaml", grid / "out")
    assert [row.get("top_blocks") for row in rows] == [1, 2, None]
    written = {path: path.stat().st_mtime_ns for path in grid.glob("out/*/metrics.json")}
    assert len(written) == 3
    assert run_sweep(grid / "grid.yaml", grid / "out") == rows  # nothing is run again
    assert {path: path.stat().st_mtime_ns for path in written} == written
    assert len(list((grid / "out").glob("blocks-*.png"))) == 1
    assert "| top_blocks | adapter | runs |" in (grid / "out" / "results.md").read_text()


def test_a_sweep_in_the_place_of_a_file_is_refused_before_its_first_run(grid):
    with pytest.raises(ValueError, match=r"grid\.yaml exists and is not a directory"):
        run_sweep(grid / "grid.yaml", grid / "grid.yaml")


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    """Run a sweep whose points are finished at once, with an accuracy of 0.5 at every alphabet of every test."""

    def finish(job, num_threads):
        scores = {name: {name: 0.5} for name in scorable_alphabets(job.settings.get("states", "q9"), 9)}
        tests = [name for name in job.settings["tests"] if name != "none"]
        write_finished_run(job.folder, {"corpora": {name: {"scores": scores} for name in tests}})
        return True

    def run(text):
        (tmp_path / "grid.yaml").write_text(text)
        return run_sweep(tmp_path / "grid.yaml", tmp_path / "out")

    monkeypatch.setattr(points, "_run_in_process", finish)
    return run


@pytest.mark.parametrize(
    "base, message",
    [
        ("tests: [casp12], num_train_epochs: 2, seed: 1", r"num_train_epochs 1, now it is 2\."),
        ("tests: [casp12], num_train_epochs: 1", r"seed 1, now it is not set\."),
        ("tests: [casp12], num_train_epochs: 1, seed: 1, head: linear", r"head not set, now it is 'linear'\."),
        ("tests: [casp12], num_train_epochs: 1, seed: 1, adapter: null", r"adapter not set, now it is None\."),
        ("tests: [casp13], num_train_epochs: 1, seed: 1", r"tests \['casp12'\], now it is \['casp13'\]\."),
    ],
)
def test_a_folder_of_a_sweep_with_another_base_is_refused(sweep, base, message):
    sweep("base: {tests: [casp12], num_train_epochs: 1, seed: 1}\ngrid: {top_blocks: [1]}")
    with pytest.raises(RecipeError, match=rf"out: holds a sweep whose base has {message} Give another folder"):
        sweep(f"base: {{{base}}}\ngrid: {{top_blocks: [1]}}")


def test_settings_of_the_machine_and_the_grid_may_change(sweep, tmp_path):
    base = "tests: [casp12], adapter_options: {1: 2}"  # a name that JSON has as text
    assert len(sweep(f"base: {{{base}, hub_token: secret}}\ngrid: {{top_blocks: [1]}}")) == 1
    assert len(sweep(f"base: {{{base}, disable_tqdm: true, source: data}}\ngrid: {{top_blocks: [1, 2]}}")) == 2
    assert "secret" not in (tmp_path / "out" / SWEEP_FILE).read_text()


def test_a_sweep_that_did_not_record_its_base_is_resumed(sweep, tmp_path):
    rows = sweep("base: {tests: [casp12]}\ngrid: {top_blocks: [1]}")
    (tmp_path / "out" / SWEEP_FILE).unlink()
    assert sweep("base: {tests: [casp12]}\ngrid: {top_blocks: [1]}") == rows
    assert json.loads((tmp_path / "out" / SWEEP_FILE).read_text()) == {"tests": ["casp12"]}


@pytest.mark.parametrize(
    "text, header, figures",
    [
        ("base: {tests: [casp12]}\ngrid: {leave_out: [[0, 1], [2, 3]]}", "leave_out | runs | casp12 q9, q3", []),
        (
            "base: {tests: [casp12]}\ngrid: {adapter_options: [{r: 4}, {r: 8}]}",
            *("adapter_options | runs | casp12 q9, q3", []),
        ),
        ("base: {tests: [none]}\ngrid: {top_blocks: [1, 2]}", "top_blocks | runs", []),
        (
            "grid: {top_blocks: [1], tests: [[casp12], [casp13]]}",
            *("top_blocks | tests | runs | casp12 q9, q3 | casp13 q9, q3", ["casp12", "casp13"]),
        ),
        (
            "base: {tests: [casp12], states: q3_lift_ss}\ngrid: {top_blocks: [1, 2]}",
            *("top_blocks | runs | casp12 q3_lift_ss", ["casp12"]),
        ),
        ("base: {tests: [casp12], adapter: none}\ngrid: {top_blocks: [1, 2]}", "top_blocks | runs | casp12 q9, q3", []),
    ],
)
def test_every_legal_grid_ends_with_its_table_and_figures(sweep, tmp_path, text, header, figures):
    rows = sweep(text)
    assert sweep(text) == rows
    assert f"| {header} |\n" in (tmp_path / "out" / "results.md").read_text()
    assert sorted(path.stem for path in tmp_path.glob("out/*.png")) == [f"blocks-{name}" for name in figures]


def points_of(grid, tmp_path, *settings, **base):
    base |= {"backbone": f"{grid}/backbone", "train": [f"{grid}/train.txt"], "validation": [f"{grid}/validation.txt"]}
    base |= {"tests": ["none"]}
    base |= {"prefix_cache": str(tmp_path / "prefixes")}
    return [parse_point(base | point, tmp_path / "run") for point in settings]


# Training and validation chains at one depth, 32 wide, 2 bytes [bytes]
SIZE = 2 * 32 * sum(len(chain.sequence) + 2 for seed in (0, 1) for chain in make_chains(8, seed))
DEPTHS = [  # 4, 3 and 2 blocks are frozen
    {"top_blocks": 1, "adapter": "output_bottleneck"},
    {"top_blocks": 1},
    {"top_blocks": 2},
]


def test_each_depth_of_a_sweep_has_its_own_cache_if_all_fit(grid, tmp_path, caplog):
    all_three = points_of(grid, tmp_path, *DEPTHS, prefix_cache_gb=3.01 * SIZE / 1e9)
    assert shared_blocks(all_three) == [None] * 3
    with caplog.at_level(logging.INFO):
        too_few = points_of(
            grid, tmp_path, *DEPTHS, {"adapter": "none", "freeze": "none"}, prefix_cache_gb=2 * SIZE / 1e9
        )
        assert shared_blocks(too_few) == [2, 2, 2, None]  # a model that trains the lowest block has no cache
    assert f"3 depths would take {3 * SIZE / 1e9:.3f} GB" in caplog.text


def test_the_cache_of_the_tests_counts_too(grid, tmp_path):
    scored = {"tests": [f"{grid}/validation.txt", f"{grid}/test.txt"], "prefix_cache_tests": True}
    tests = 2 * 32 * sum(len(chain.sequence) + 2 for chain in make_chains(8, 2))  # the others are validation chains
    points = [{**point, **scored} for point in DEPTHS]
    enough = points_of(grid, tmp_path, *points, prefix_cache_gb=3.01 * (SIZE + tests) / 1e9)
    assert shared_blocks(enough) == [None] * 3
    too_little = points_of(grid, tmp_path, *points, prefix_cache_gb=2.99 * (SIZE + tests) / 1e9)
    assert shared_blocks(too_little) == [2] * 3


def test_points_of_one_depth_or_without_a_cache_need_no_shared_depth(grid, tmp_path):
    same = points_of(grid, tmp_path, {"top_blocks": 2}, {"top_blocks": 2, "seed": 1}, prefix_cache_gb=1e-9)
    assert shared_blocks(same) == [None, None]
    assert (
        shared_blocks(points_of(grid, tmp_path, *({**point, "prefix_cache": "off"} for point in DEPTHS))) == [None] * 3
    )


@pytest.mark.process
@pytest.mark.slow
def test_a_sweep_whose_caches_do_not_fit_caches_one_depth_for_all_points(grid, tmp_path):
    base = (grid / "grid.yaml").read_text().split("\n", 1)[0]
    cache = f", prefix_cache: {tmp_path}/prefixes, prefix_cache_gb: {1.5 * SIZE / 1e9}}}"
    (tmp_path / "grid.yaml").write_text(base.removesuffix("}") + cache + "\ngrid: {top_blocks: [1, 2]}")
    assert len(run_sweep(tmp_path / "grid.yaml", tmp_path / "out")) == 2
    (origin,) = tmp_path.glob("prefixes/*/origin.json")
    assert json.loads(origin.read_text())["depth"] == 2
    assert len(list(tmp_path.glob(f"prefixes/*/*/{DATA_FILE}"))) == 1


def test_an_invalid_point_is_an_error_before_the_first_is_run(grid, tmp_path):
    (tmp_path / "grid.yaml").write_text("grid: {top_block: [1]}")
    with pytest.raises(RecipeError, match=r"unknown argument 'top_block'\. Did you mean 'top_blocks'\?"):
        run_sweep(tmp_path / "grid.yaml", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def row(accuracy, *alphabets, **point):
    return {**point, "scores": {"casp12": dict.fromkeys(alphabets or ("q9", "q3", "q3_lift_ss"), accuracy)}}


def heights_of(figure):
    return {line.get_label(): line.get_ydata()[0] for line in figure.axes[0].lines}


def test_regimes_without_adapters_are_lines_in_the_figure():
    rows = [row(0.75, adapter="lora", top_blocks=1), row(0.7, adapter="none"), row(0.72, adapter="none", seed=1)]
    rows.append(row(0.8, adapter="none", freeze="none"))
    heights = heights_of(_figure(rows, {}, "casp12"))
    assert heights["frozen backbone"] == pytest.approx(71)
    assert heights["full fine-tuning"] == pytest.approx(80)


@pytest.mark.parametrize(
    "base, point, line",
    [
        ({}, {"head": "dilated"}, None),  # the default adapter
        ({"adapter": "lora"}, {"leave_out": [0]}, None),
        ({"adapter": "none"}, {"head": "dilated"}, "frozen backbone"),
        ({"adapter": "none", "freeze": "none"}, {"head": "dilated"}, "full fine-tuning"),
        ({"freeze": 2}, {"adapter": "none"}, None),
        ({}, {"adapter": "none", "top_blocks": 1}, "frozen backbone"),  # without an adapter it is ignored
    ],
)
def test_a_point_is_a_line_if_it_has_no_adapter_with_the_settings_of_the_base(base, point, line):
    heights = heights_of(_figure([row(0.75, adapter="lora", top_blocks=1), row(0.5, **point)], base, "casp12"))
    lines = {"frozen backbone", "full fine-tuning"} & set(heights)
    assert lines == ({line} if line else set())
    assert line is None or heights[line] == pytest.approx(50)


def test_a_figure_is_of_the_coarsest_alphabet_of_all_its_points():
    def title(*rows):
        figure = _figure([{**part, "top_blocks": 1} for part in rows], {}, "casp12")
        return figure and figure.axes[0].get_title(loc="left") + figure.axes[0].get_title()

    assert title(row(0.5), row(0.5)) == "casp12, Q3 (P→C)"
    assert title(row(0.5), row(0.5, "q3_lift_ss")) == "casp12, Q3 (P→H)"
    assert title(row(0.5, "q3"), row(0.5, "q3_lift_ss")) is None


def test_each_point_of_also_is_run_with_every_seed(tmp_path):
    (tmp_path / "grid.yaml").write_text("grid: {top_blocks: [1], seed: [0, 1]}\nalso: [{adapter: none}]")
    _, points = read_points(tmp_path / "grid.yaml")
    assert points[2:] == [{"adapter": "none", "seed": 0}, {"adapter": "none", "seed": 1}]


def test_each_point_and_seed_is_run_with_every_fold(tmp_path):
    (tmp_path / "grid.yaml").write_text("grid: {top_blocks: [1], seed: [0, 1]}\nalso: [{adapter: none}]\nfolds: 3")
    _, points = read_points(tmp_path / "grid.yaml")
    assert len(points) == 12
    assert points[:3] == [{"top_blocks": 1, "seed": 0, "fold": fold} for fold in ("1/3", "2/3", "3/3")]
    assert points[-1] == {"adapter": "none", "seed": 1, "fold": "3/3"}


@pytest.mark.parametrize("folds", ["1", "-2", "true", "two", "[2]"])
def test_folds_that_are_not_a_number_are_an_error(tmp_path, folds):
    (tmp_path / "grid.yaml").write_text(f"grid: {{top_blocks: [1]}}\nfolds: {folds}")
    with pytest.raises(RecipeError, match=r"grid\.yaml: folds is .*\. Expected a whole number from 2 on"):
        read_points(tmp_path / "grid.yaml")


def test_the_cache_of_a_cross_validation_has_room_for_every_fold(grid, tmp_path, without_mmseqs):
    whole = points_of(grid, tmp_path, *DEPTHS, prefix_cache_gb=3.01 * SIZE / 1e9)
    folds = points_of(
        grid,
        tmp_path,
        *({**point, "fold": fold} for point in DEPTHS for fold in ("1/2", "2/2")),
        prefix_cache_gb=3.01 * SIZE / 1e9,
    )
    assert (shared_blocks(whole), shared_blocks(folds)) == ([None] * 3, [None] * 6)
    too_little = [
        (model, corpora, dataclasses.replace(training, prefix_cache_gb=2.9 * SIZE / 1e9))
        for model, corpora, training in folds
    ]
    assert shared_blocks(too_little) == [2] * 6


@pytest.mark.process
@pytest.mark.slow
def test_a_cross_validation_scores_every_chain_once(grid, monkeypatch, without_mmseqs):
    fork = multiprocessing.get_context("fork")
    monkeypatch.setattr(multiprocessing, "get_context", lambda method: fork)
    base = (grid / "grid.yaml").read_text().split("\n", 1)[0].replace(f"tests: ['{grid}/test.txt'], ", "")
    (grid / "folds.yaml").write_text(f"{base}\ngrid: {{top_blocks: [1]}}\nfolds: 2")
    rows = run_sweep(grid / "folds.yaml", grid / "folds")
    assert [row["fold"] for row in rows] == ["1/2", "2/2"]
    held_out = [path.read_text() for path in sorted(grid.glob("folds/*/held_out/test.txt"))]
    ids = [line for text in held_out for line in text.splitlines() if line.startswith(">")]
    assert sorted(ids) == sorted(f">{chain.id}" for chain in make_chains(8, 0))
    table = (grid / "folds" / "results.md").read_text()
    assert "mean ± standard deviation over folds" in table
    assert "| top_blocks | runs | held_out q9, q3 |" in table
    assert table.count("±") == 3


@pytest.mark.parametrize(
    "text",
    [
        *("grid: 3", "base: {}", "grid: {seed: []}", "grid: {seed: [1]}\nbade: {}"),
        *("grid: {top_blocks: 1}", "grid: {top_blocks: [1]}\nalso: {adapter: none}"),
    ],
)
def test_an_invalid_grid_is_an_error(tmp_path, text):
    (tmp_path / "grid.yaml").write_text(text)
    with pytest.raises(RecipeError, match=r"grid\.yaml: expected `base:` with settings, `grid:`"):
        read_points(tmp_path / "grid.yaml")
