"""A sweep, really run: every point once, none twice, a table with spread over seeds and a figure."""

import pytest
from models import save_tiny_backbone
from small_runs import make_chains

from lift_ss_hf.corpora.readers import write_three_line
from lift_ss_hf.recipe_parsing import RecipeError
from lift_ss_hf.sweeping import _figure, read_points, run_sweep, sweep_markdown


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


@pytest.mark.slow
def test_a_sweep_runs_every_point_once(grid):
    rows = run_sweep(grid / "grid.yaml", grid / "out")
    assert [row.get("top_blocks") for row in rows] == [1, 2, None]
    written = {path: path.stat().st_mtime_ns for path in grid.glob("out/*/metrics.json")}
    assert len(written) == 3
    assert run_sweep(grid / "grid.yaml", grid / "out") == rows  # nothing is run again
    assert {path: path.stat().st_mtime_ns for path in written} == written
    assert len(list((grid / "out").glob("blocks-*.png"))) == 1
    assert "| top_blocks | adapter | runs |" in (grid / "out" / "results.md").read_text()


def test_a_wrong_point_is_told_before_the_first_is_run(grid, tmp_path):
    (tmp_path / "grid.yaml").write_text("grid: {top_block: [1]}")
    with pytest.raises(RecipeError, match=r"unknown argument 'top_block'\. Did you mean 'top_blocks'\?"):
        run_sweep(tmp_path / "grid.yaml", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_seeds_are_put_together_with_their_spread():
    rows = [
        {"adapter": "lora", "seed": seed, "scores": {"casp12": {"q9": value, "q3": value}}}
        for seed, value in enumerate([0.5, 0.6])
    ]
    assert "| lora | 2 | 55.0 ± 7.1, 55.0 ± 7.1 |" in sweep_markdown(rows)


def test_regimes_without_adapters_are_lines_in_the_figure():
    def row(accuracy, **point):
        return {**point, "scores": {"casp12": {"q9": accuracy, "q3": accuracy}}}

    rows = [row(0.75, adapter="lora", top_blocks=1), row(0.7, adapter="none"), row(0.72, adapter="none", seed=1)]
    rows.append(row(0.8, adapter="none", freeze="none"))
    axes = _figure(rows, "casp12").axes[0]
    heights = {line.get_label(): line.get_ydata()[0] for line in axes.lines}
    assert heights["frozen backbone"] == pytest.approx(71)
    assert heights["full fine-tuning"] == pytest.approx(80)


def test_each_further_point_is_run_with_every_seed(tmp_path):
    (tmp_path / "grid.yaml").write_text("grid: {top_blocks: [1], seed: [0, 1]}\nalso: [{adapter: none}]")
    _, points = read_points(tmp_path / "grid.yaml")
    assert points[2:] == [{"adapter": "none", "seed": 0}, {"adapter": "none", "seed": 1}]
    for wrong in ("grid: {top_blocks: 1}", "grid: {top_blocks: [1]}\nalso: {adapter: none}", "base: {}"):
        (tmp_path / "grid.yaml").write_text(wrong)
        with pytest.raises(RecipeError, match=r"grid\.yaml: expected `base:` with settings, `grid:`"):
            read_points(tmp_path / "grid.yaml")
