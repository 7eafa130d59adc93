"""Figures show the numbers they are given, and refuse invalid ones."""

import subprocess
import sys

import numpy as np
import pytest
from matplotlib.image import imread

from lift_ss_hf.metrics.scoring import score
from lift_ss_hf.models.states import Q3, Q9
from lift_ss_hf.reports import figures as plots
from lift_ss_hf.reports.tables import MISSING

CHAINS = ["LLSHHHHHHHHTTGGGLEEEEELPPPLB", "EEEETTEEEELLXXHHHHIIIII", "LLLLSSTTHHHHHHHH"]
PREDICTED = ["LLTHHHHHHHHTTHHHLEEEEELLLPLL", "EEEELLEEEELLHHHHHHHHHHH", "LLLLSSTTHHHHHHLL"]


def texts(figure):
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def ticks(axes, axis="x"):
    return [label.get_text() for label in getattr(axes, f"get_{axis}ticklabels")()]


def is_drawn(figure, path):
    """Save a figure and return True if the image is not blank."""
    plots.save_figure(figure, path)
    return imread(path)[..., :3].std() > 0.02


@pytest.fixture
def scores():
    return score(references=CHAINS, predictions=PREDICTED, states="q9", per_chain=True)


def test_the_confusion_matrix_shows_percentages_and_counts_sorted_by_class(scores, tmp_path):
    figure = plots.plot_confusion(scores["confusion_matrix"], scores["letters"], "three chains")
    axes = figure.axes[0]
    assert ticks(axes) == list("HGIEBLSTP")
    assert ticks(axes, "y")[0] == "alpha-helix  H"
    assert axes.get_title() == "three chains"
    shown = texts(figure)
    share, count = shown[:2]  # of H taken for H
    references, predictions = "".join(CHAINS), "".join(PREDICTED)
    helices = [predicted for state, predicted in zip(references, predictions, strict=True) if state == "H"]
    assert count == str(helices.count("H"))
    assert share == f"{100 * helices.count('H') / len(helices):.1f}"
    assert is_drawn(figure, tmp_path / "figure.png")


def test_three_states_are_named_after_their_classes():
    figure = plots.plot_confusion([[5, 1, 0], [0, 250_000, 0], [2, 0, 9]], Q3.letters, "")
    assert ticks(figure.axes[0], "y") == ["helix  H", "strand  E", "coil  C"]
    assert "250k" in texts(figure)


def test_a_state_without_residues_has_no_percentages():
    figure = plots.plot_confusion([[3, 0, 0], [0, 0, 0], [0, 0, 4]], Q3.letters, "")
    assert texts(figure).count(MISSING) == 3
    assert "nan" not in "".join(texts(figure))


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        ([[1, 2]], r"the confusion matrix is \(1, 2\), but 3 states \(CEH\) were given"),
        ([], r"the confusion matrix is \(0,\), but 3 states"),
        (np.zeros((3, 3)), r"has negative counts or no residues\. Expected counts"),
        (-np.eye(3), r"has negative counts or no residues"),
    ],
)
def test_an_invalid_confusion_matrix_is_refused(matrix, message):
    with pytest.raises(ValueError, match=message):
        plots.plot_confusion(matrix, Q3.letters, "")


def test_bars_show_the_scores_and_undefined_scores_are_dashes(scores, tmp_path):
    metrics = ("recall", "precision", "f1")
    by_state = {state: {metric: scores[f"{metric}_{state}"] for metric in metrics} for state in Q9.letters}
    assert by_state["I"]["precision"] is None  # never predicted
    figure = plots.plot_state_scores(by_state, support={"H": 21, "I": 5}, title="three chains")
    axes = figure.axes[0]
    assert ticks(axes)[:3] == ["H\n21", "G\n0", "I\n5"]
    heights = [bar.get_height() for bar in axes.containers[0]]
    assert heights == pytest.approx([100 * (by_state[state]["recall"] or 0) for state in "HGIEBLSTP"])
    undefined = sum(value is None for values in by_state.values() for value in values.values())
    assert texts(figure) == [MISSING] * undefined
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["recall", "precision", "F1"]
    assert is_drawn(figure, tmp_path / "figure.png")


def test_the_axis_extends_to_negative_scores():
    figure = plots.plot_state_scores({"H": {"mcc": -0.5}, "E": {"mcc": 0.5}})
    assert figure.axes[0].get_ylim() == (-50, 100)


@pytest.mark.parametrize("scores", [{}, {"H": {}}, {"H": {"recall": 1.0}, "E": {"f1": 1.0}}])
def test_states_need_the_same_scores(scores):
    with pytest.raises(ValueError, match="expected the same scores, at least one, for each state"):
        plots.plot_state_scores(scores)


def test_percentages_are_refused():
    with pytest.raises(
        ValueError, match=r"recall 87\.3 is not a fraction\. Expected -1 to 1; divide percentages by 100"
    ):
        plots.plot_state_scores({"H": {"recall": 87.3}})
    with pytest.raises(ValueError, match=r"accuracy 77 is not a fraction\. Expected 0 to 1"):
        plots.plot_accuracy_by_length([100], [77])
    with pytest.raises(ValueError, match="lora 77 is not a fraction"):
        plots.plot_blocks({"lora": {1: [77]}})


def test_means_over_chains_of_similar_length(tmp_path):
    rng = np.random.default_rng(0)
    lengths = [*range(100, 120), *range(400, 420)]
    accuracies = [*rng.normal(0.7, 0.05, 20), *rng.normal(0.8, 0.05, 20)]
    figure = plots.plot_accuracy_by_length([*lengths, 30], [*accuracies, None], "two kinds")
    axes = figure.axes[0]
    assert texts(figure) == ["40 chains, 1 without labels left out"]
    (mean,) = [line for line in axes.lines if len(line.get_xdata()) == 4 and line.get_linestyle() == "-"]
    expected = [100 * np.mean(accuracies[start : start + 10]) for start in (0, 10, 20, 30)]
    assert list(mean.get_ydata()) == pytest.approx(expected)
    assert list(mean.get_xdata()) == [104.5, 114.5, 404.5, 414.5]
    assert is_drawn(figure, tmp_path / "figure.png")


def test_the_interval_of_the_mean_follows_students_t():
    (row,) = plots._means_by_length(np.arange(10.0), np.arange(10.0))
    t_of_9 = 2.2622  # 97.5 % quantile of Student's t with 9 degrees of freedom, from a table
    assert row[2] == pytest.approx(t_of_9 * np.std(np.arange(10), ddof=1) / np.sqrt(10), rel=1e-4)


@pytest.mark.parametrize(("lengths", "accuracies"), [([120], [0.8]), ([120, 120], [1.0, 0.0]), ([50, 90], [0.5, None])])
def test_fewer_than_ten_chains_are_drawn_without_means(lengths, accuracies, tmp_path):
    figure = plots.plot_accuracy_by_length(lengths, accuracies)
    assert not figure.axes[0].lines
    assert is_drawn(figure, tmp_path / "figure.png")


@pytest.mark.parametrize(
    ("lengths", "accuracies", "message"),
    [
        ([], [], "no chain has an accuracy"),
        ([100], [None], "no chain has an accuracy"),
        ([100, 200], [0.5], "2 lengths but 1 accuracies"),
    ],
)
def test_lengths_without_accuracies_are_refused(lengths, accuracies, message):
    with pytest.raises(ValueError, match=message):
        plots.plot_accuracy_by_length(lengths, accuracies)


def test_accuracy_and_residues_are_drawn_against_confidence(tmp_path):
    confidences = np.array([0.9] * 10 + [0.5] * 10, dtype=np.float32)
    correct = [True] * 7 + [False] * 3 + [True] * 5 + [False] * 5
    figure = plots.plot_calibration(confidences, correct, "twenty residues")
    assert texts(figure) == ["ECE 10.0 % (15 bins)", "20 residues"]
    model = next(line for line in figure.axes[0].lines if line.get_label() == "model")
    assert list(model.get_xdata()) == pytest.approx([50, 90])
    assert list(model.get_ydata()) == pytest.approx([50, 70])
    assert sum(bar.get_height() for bar in figure.axes[1].patches) == pytest.approx(100)
    assert is_drawn(figure, tmp_path / "figure.png")


def test_a_line_for_each_adapter_through_the_means_over_seeds(tmp_path):
    curves = {"lora": {3: [0.78, 0.76], 1: [0.75, 0.75]}, "ia3": {2: [0.74], 4: []}}
    figure = plots.plot_blocks(curves, "sweep", frozen=0.73, full=0.79)
    axes = figure.axes[0]
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["full fine-tuning", "frozen backbone", "lora", "ia3"]
    lora, ia3 = (container.lines[0] for container in axes.containers)
    assert list(np.round(lora.get_xdata())) == [1, 3]
    assert list(lora.get_ydata()) == pytest.approx([75, 77])
    assert list(ia3.get_ydata()) == pytest.approx([74])
    spread = axes.containers[0].lines[2][0].get_segments()[1][:, 1]  # at three blocks
    assert list(spread) == pytest.approx([77 - np.sqrt(2), 77 + np.sqrt(2)])
    assert is_drawn(figure, tmp_path / "figure.png")


@pytest.mark.parametrize("curves", [{}, {"lora": {}}, {"lora": {3: []}}])
def test_a_sweep_without_runs_is_refused(curves):
    with pytest.raises(ValueError, match="no run to draw"):
        plots.plot_blocks(curves)


def test_a_failed_save_keeps_the_old_file(tmp_path):
    figure = plots.plot_blocks({"lora": {3: [0.77]}})
    plots.save_figure(figure, tmp_path / "new" / "figure.png")
    before = (tmp_path / "new" / "figure.png").read_bytes()
    figure.savefig = lambda *_, **__: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    with pytest.raises(OSError, match="No space left"):
        plots.save_figure(figure, tmp_path / "new" / "figure.png")
    assert (tmp_path / "new" / "figure.png").read_bytes() == before
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["figure.png"]
    with pytest.raises(ValueError, match=r"figure\.gif: not the name of a figure\. Give one that ends in \.png, \."):
        plots.save_figure(figure, tmp_path / "figure.gif")


@pytest.mark.process
def test_drawing_touches_neither_pyplot_nor_backend_and_importing_not_even_matplotlib(tmp_path):
    code = (
        "import sys; from lift_ss_hf.reports import figures; assert 'matplotlib' not in sys.modules; "
        f"figures.save_figure(figures.plot_blocks({{'lora': {{3: [0.77]}}}}), {str(tmp_path / 'figure.png')!r}); "
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
