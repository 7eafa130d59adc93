"""A sweep, really run: every point once, none twice, a table with spread over seeds and a figure."""

import pytest
from models import save_tiny_backbone
from test_training import make_chains

from lift_ss_hf.corpora.readers import write_three_line
from lift_ss_hf.recipe_parsing import RecipeError
from lift_ss_hf.sweeping import run_sweep, sweep_markdown


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    for name, seed in (("train", 0), ("validation", 1), ("test", 2)):
        write_three_line(make_chains(8, seed), folder / f"{name}.txt")
    save_tiny_backbone(folder / "backbone", "esm")
    (folder / "grid.yaml").write_text(
        f"base: {{backbone: {folder}/backbone, head: linear, loss: cross_entropy, train: ['{folder}/train.txt'], "
        f"validation: ['{folder}/validation.txt'], tests: ['{folder}/test.txt'], num_train_epochs: 1, bootstrap: 0, "
        "report_to: none, disable_tqdm: true}\ngrid: {top_blocks: [1, 2]}\n"
    )
    return folder


@pytest.mark.slow
def test_a_sweep_runs_every_point_once(grid):
    rows = run_sweep(grid / "grid.yaml", grid / "out")
    assert [row["top_blocks"] for row in rows] == [1, 2]
    written = {path: path.stat().st_mtime_ns for path in grid.glob("out/*/metrics.json")}
    assert len(written) == 2
    assert run_sweep(grid / "grid.yaml", grid / "out") == rows  # nothing is run again
    assert {path: path.stat().st_mtime_ns for path in written} == written
    assert len(list((grid / "out").glob("blocks-*.png"))) == 1
    assert "| top_blocks | runs |" in (grid / "out" / "results.md").read_text()


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
    assert "| lora | 2 | 55.0 ± 7.1, 55.0 ± 7.1 |" in sweep_markdown(rows, ["adapter", "seed"])
