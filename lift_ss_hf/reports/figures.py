"""Figures of an evaluation: plain numbers in, a matplotlib Figure out, of the width of a journal's column or page.

Colours tell families of states apart (helix, strand, coil), and adapters; they are those of Okabe & Ito 2008, "Color
Universal Design", which people with any colour vision tell apart. Figures are made without pyplot, so that no window
system, backend or global state is involved; matplotlib is imported when the first one is drawn.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..metrics.calibration import NUM_BINS, calibration_bins, expected_calibration_error
from ..models.atomic import replacing
from ..models.states import Q3, STATE_MEANINGS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Of Okabe & Ito 2008, save the grey.
FAMILIES: Mapping[str, tuple[str, str]] = {
    "H": ("helix", "#D55E00"),
    "E": ("strand", "#0072B2"),
    "C": ("coil", "#6E6E6E"),
}
LINE_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vPX*<"
DOTS_PER_INCH = 200
COLUMN_WIDTH = 4.5  # inches
NORMAL_95 = 1.959964  # 97.5th percentile of the normal distribution
MIN_CHAINS_A_BIN, MAX_LENGTH_BINS = 10, 8
DASH = "–"
PAGE_WIDTH, RESIDUES_IN_ROW = 7.0, 100  # inches, and residues of a chain that fit

SCORE_NAMES = {"recall": "recall", "precision": "precision", "f1": "F1", "mcc": "MCC", "sov99": "SOV'99"}


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure as PNG of 200 dots an inch or as SVG, in one step; folders are made.

    Raises:
        ValueError: if the path ends neither in .png nor in .svg.
    """
    kind = Path(path).suffix.lower().lstrip(".")
    if kind not in ("png", "svg"):
        raise ValueError(f"{path}: figures are written as PNG or SVG. Give a name that ends in .png or .svg.")
    with replacing(path) as part:
        figure.savefig(part, dpi=DOTS_PER_INCH, format=kind)


def plot_confusion(confusion_matrix: Sequence[Sequence[int]], letters: str, title: str = "") -> Figure:
    """Draw which state was taken for which: percent of the reference's residues, and their number below.

    Args:
        confusion_matrix: (n, n) residues; rows the reference's state, columns the predicted one.
        letters: the n states, in the order of rows and columns; they are drawn family by family.
        title: over the figure.

    Raises:
        ValueError: if the matrix is not (n, n), holds no residue, or negative ones.
    """
    counts = np.asarray(confusion_matrix, dtype=float)
    if counts.shape != (len(letters), len(letters)):
        raise ValueError(f"the confusion matrix is {counts.shape}, but {len(letters)} states ({letters}) were given.")
    if not (np.isfinite(counts).all() and (counts >= 0).all() and counts.any()):
        raise ValueError("the confusion matrix holds no residues, or negative ones. Expected counts.")
    states = _by_family(letters)
    order = [letters.index(state) for state in states]
    counts = counts[np.ix_(order, order)]
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(100 * counts, totals, out=np.full_like(counts, np.nan), where=totals > 0)

    side = 0.6 * len(states)
    figure = _figure(side + 2.9, side + 0.8)
    axes = figure.add_subplot()
    _entitle(axes, title)
    image = axes.imshow(np.nan_to_num(shares), cmap="Blues", vmin=0, vmax=100)
    for row, column in np.ndindex(*shares.shape):
        _write_share(axes, row, column, float(shares[row, column]), float(counts[row, column]))
    axes.set_xticks(range(len(states)), list(states), fontsize=10)
    axes.set_yticks(range(len(states)), [f"{_name(state, letters)}  {state}" for state in states])
    _colour_ticks(axes, states, "xy")
    _separate_families(axes, states, both=True)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("predicted state")
    axes.set_ylabel("reference state")
    bar = figure.colorbar(image, ax=axes, aspect=28, pad=0.02)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=8)
    bar.set_label("residues of the reference state [%]", fontsize=8)
    return figure


def plot_state_scores(
    scores: Mapping[str, Mapping[str, float | None]], support: Mapping[str, int] | None = None, title: str = ""
) -> Figure:
    """Draw recall, precision and F1 (or other scores) of each state as bars.

    Args:
        scores: state to score to value [fraction]; None where it is not defined, which is drawn as a dash.
        support: residues of each state in the reference, written below it.
        title: over the figure.

    Raises:
        ValueError: if there are no states, states with different scores, or values that are no fractions.
    """
    metrics = list(next(iter(scores.values()), {}))
    if not metrics or any(list(values) != metrics for values in scores.values()):
        raise ValueError("expected the same scores, at least one, for each state, and at least one state.")
    states = _by_family("".join(scores))
    values = {metric: _fractions([scores[state][metric] for state in states], metric, -1) for metric in metrics}
    width = 0.8 / len(metrics)
    figure = _figure(max(COLUMN_WIDTH, 0.75 * len(states) + 1.2), 2.8)
    axes = figure.add_subplot()
    _entitle(axes, title)
    for number, metric in enumerate(metrics):
        shade = 1.0 - 0.62 * number / max(1, len(metrics) - 1)
        places = np.arange(len(states)) + (number - (len(metrics) - 1) / 2) * width
        colours = [_tint(_family_colour(state), shade) for state in states]
        axes.bar(places, np.nan_to_num(100 * values[metric]), 0.92 * width, color=colours)
        for place in places[np.isnan(values[metric])]:
            axes.text(place, 1, DASH, ha="center", va="bottom", fontsize=8, color="0.4")
        axes.bar([0], [0], color=_tint("#303030", shade), label=SCORE_NAMES.get(metric, metric))
    axes.set_xticks(range(len(states)), [_with_support(state, support) for state in states])
    _colour_ticks(axes, states, "x")
    _separate_families(axes, states)
    lowest = min(0.0, *(np.nan_to_num(column).min() for column in values.values()))
    axes.set_ylim(100 * lowest, 100)
    axes.set_xlim(-0.6, len(states) - 0.4)
    if support is not None:
        axes.set_xlabel("state, and its residues in the reference")
    axes.set_ylabel("score [%]")
    _grid(axes, "y")
    axes.tick_params(axis="x", length=0)
    _legend_beside(axes)
    return figure


def plot_accuracy_by_length(lengths: Sequence[int], accuracies: Sequence[float | None], title: str = "") -> Figure:
    """Draw the accuracy of each chain against its length, and means over chains of similar length.

    Bins hold equally many chains, at least 10; below 10 chains there are none. The bars are 95 % intervals of the mean
    (Student's t, its quantile by the first term of Abramowitz & Stegun 26.7.5).

    Args:
        lengths: of the chains [residues].
        accuracies: of the chains [fraction]; None for a chain without labels, which is left out and counted.
        title: over the figure.

    Raises:
        ValueError: if the two differ in length, no chain has an accuracy, or one is no fraction.
    """
    if len(lengths) != len(accuracies):
        raise ValueError(f"{len(lengths)} lengths but {len(accuracies)} accuracies. Give one of each for every chain.")
    heights = 100 * _fractions(accuracies, "accuracy")
    known = ~np.isnan(heights)
    if not known.any():
        raise ValueError("no chain has an accuracy: there is nothing to draw.")
    sizes, heights = np.asarray(lengths, dtype=float)[known], heights[known]
    figure = _figure(COLUMN_WIDTH, 3.2)
    axes = figure.add_subplot()
    _entitle(axes, title)
    axes.scatter(sizes, heights, s=9, color="#56B4E9", alpha=0.55, linewidths=0, label="chain")
    bins = _mean_by_length(sizes, heights)
    if len(bins):
        middle, mean, half = bins.T
        axes.errorbar(
            middle, mean, half, color="#D55E00", marker="o", ms=4, lw=1.3, capsize=2.5, label="mean, 95 % interval"
        )
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(_ticker().LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(_ticker().StrMethodFormatter("{x:,.0f}"))
    axes.xaxis.set_minor_formatter(_ticker().NullFormatter())
    if sizes.min() == sizes.max():
        axes.set_xlim(sizes[0] / 2, sizes[0] * 2)
    axes.set_ylim(max(0.0, 10 * np.floor(heights.min() / 10) - 5), 101)
    axes.set_xlabel("chain length [residues]")
    axes.set_ylabel("accuracy of the chain [%]")
    left_out = f", {(~known).sum():,} without labels left out" if not known.all() else ""
    _corner(axes, f"{known.sum():,} chain{'' if known.sum() == 1 else 's'}{left_out}")
    _grid(axes, "y")
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    return figure


def plot_calibration(confidences: Sequence[float], correct: Sequence[bool], title: str = "") -> Figure:
    """Draw how often predictions are right against how sure they are, and how many are how sure.

    Args:
        confidences: probability of the predicted state of each residue [fraction].
        correct: whether it is the reference's.
        title: over the figure.

    Raises:
        ValueError: if there are none, the two differ in length, or a confidence is no fraction.

    Source: Guo et al. 2017, On Calibration of Modern Neural Networks, ICML.
    """
    number, confidence, accuracy = calibration_bins(confidences, correct)
    edges = np.linspace(0, 100, NUM_BINS + 1)
    filled = number > 0
    figure = _figure(3.6, 4.4)
    upper, lower = figure.subplots(2, sharex=True, height_ratios=(3.2, 1))
    _entitle(upper, title)
    upper.plot([0, 100], [0, 100], color="0.5", lw=1, ls=(0, (4, 3)), label="perfectly calibrated")
    style = {"width": 100 / NUM_BINS, "align": "edge", "edgecolor": "white", "linewidth": 0.8}
    upper.bar(edges[:-1][filled], 100 * accuracy[filled], color="#9CCBE8", **style)
    upper.plot(
        100 * confidence[filled], 100 * accuracy[filled], color="#0072B2", marker="o", ms=4, lw=1.3, label="model"
    )
    upper.set(xlim=(0, 100), ylim=(0, 100), ylabel="accuracy [%]")
    upper.legend(loc="upper left", frameon=False, fontsize=8)
    error = 100 * expected_calibration_error(confidences, correct)
    _corner(upper, f"ECE {error:.1f} % ({NUM_BINS} bins)", colour="#202020")
    lower.bar(edges[:-1], 100 * number / number.sum(), color="0.65", **style)
    lower.set(xlabel="confidence of the prediction [%]", ylabel="residues [%]")
    _corner(lower, f"{int(number.sum()):,} residues", top=True)
    _grid(upper, "y")
    _grid(lower, "y")
    figure.align_ylabels()
    return figure


def plot_blocks(
    curves: Mapping[str, Mapping[int, Sequence[float]]],
    title: str = "",
    frozen: float | None = None,
    full: float | None = None,
) -> Figure:
    """Draw accuracy against the number of top blocks with adapters, a line for each adapter.

    Points are single runs, lines go through their means, bars are standard deviations over seeds.

    Args:
        curves: adapter to number of blocks to the accuracies of its runs [fraction].
        title: over the figure.
        frozen: accuracy without adapters, of the frozen backbone [fraction].
        full: accuracy of full fine-tuning [fraction].

    Raises:
        ValueError: if there is no run, or an accuracy that is no fraction.

    Source: the analysis of Yang et al. 2023, bioRxiv 2023.03.22.530066.
    """
    if not any(len(runs) for curve in curves.values() for runs in curve.values()):
        raise ValueError("no run to draw: expected accuracies for at least one adapter and number of blocks.")
    figure = _figure(5.6, 3.0)
    axes = figure.add_subplot()
    _entitle(axes, title)
    for name, level, style in (("full fine-tuning", full, (0, (5, 2))), ("frozen backbone", frozen, (0, (1, 1.5)))):
        if level is not None:
            axes.axhline(100 * _fractions([level], name)[0], color="0.35", lw=1.2, ls=style, label=name)
    for number, (adapter, curve) in enumerate(curves.items()):
        runs = {blocks: 100 * _fractions(curve[blocks], adapter) for blocks in sorted(curve) if len(curve[blocks])}
        shift = 0.06 * (number - (len(curves) - 1) / 2)  # so that bars at the same number of blocks stay apart
        places = np.array(list(runs)) + shift
        means = [float(np.mean(values)) for values in runs.values()]
        spreads = [float(np.std(values, ddof=1)) if len(values) > 1 else 0.0 for values in runs.values()]
        look: dict[str, Any] = {"color": LINE_COLOURS[number % len(LINE_COLOURS)]}
        for place, values in zip(places, runs.values(), strict=True):
            axes.scatter(np.full(len(values), place), values, s=8, alpha=0.45, linewidths=0, **look)
        look |= {"marker": MARKERS[number % len(MARKERS)], "ms": 5, "lw": 1.4, "capsize": 2.5, "elinewidth": 1}
        axes.errorbar(places, means, spreads, label=adapter, **look)
    axes.xaxis.set_major_locator(_ticker().MaxNLocator(integer=True, min_n_ticks=1))
    axes.margins(y=0.12)
    axes.set_xlabel("top blocks with adapters")
    axes.set_ylabel("accuracy [%]")
    _grid(axes, "y")
    _legend_beside(axes)
    return figure


def plot_chains(chains: Sequence[tuple[str, str, Sequence[float]]]) -> Figure:
    """Draw helices, strands and coil along chains, with the confidence below, 100 residues a row.

    Args:
        chains: of each its name, its states, and the confidence of each [fraction].

    Raises:
        ValueError: if there is no chain, states and confidences differ in number, or those are no fractions.
    """
    rows = []
    for name, states, confidence in chains:
        values = _fractions(confidence, f"confidence of {name}")
        if len(values) != len(states):
            raise ValueError(f"{name}: {len(states)} states but {len(values)} confidences.")
        starts = range(0, len(states), RESIDUES_IN_ROW)
        rows += [(name if not start else "", start, states, values) for start in starts]
    if not rows:
        raise ValueError("no chain to draw. Give at least one with residues.")
    figure = _figure(PAGE_WIDTH, 1.1 * len(rows))
    for axes, (name, start, states, values) in zip(figure.subplots(len(rows), squeeze=False)[:, 0], rows, strict=True):
        _entitle(axes, name)
        _draw_row(axes, start, states[start : start + RESIDUES_IN_ROW], values[start : start + RESIDUES_IN_ROW])
    axes.set_xlabel("residue", fontsize=7)
    return figure


def _draw_row(axes: Axes, start: int, states: str, confidence: np.ndarray) -> None:
    """Shapes from 1 to 2 above the axis, confidence from 0 to 0.8 below them; positions from 1."""
    from matplotlib.patches import FancyArrow, FancyBboxPatch

    first = start + 1
    for family, left, right in runs_of_families(states):
        x, width, colour = first + left - 0.5, right - left, FAMILIES[family][1]
        if family == "H":
            box = FancyBboxPatch((x, 1.15), width, 0.7, boxstyle="round,pad=0,rounding_size=0.35", color=colour)
            axes.add_patch(box)
        elif family == "E":
            head = min(1.5, width)
            arrow = FancyArrow(
                *(x, 1.5, width, 0),
                width=0.4,
                head_width=0.8,
                head_length=head,
                length_includes_head=True,
                color=colour,
                linewidth=0,
            )
            axes.add_patch(arrow)
        else:
            axes.plot([x, x + width], [1.5, 1.5], color=colour, linewidth=1.5, solid_capstyle="butt")
    positions = np.arange(first, first + len(states))
    colours = [_family_colour(state) for state in states]
    axes.bar(positions, 0.8 * confidence, width=1.0, color=colours, alpha=0.5, linewidth=0)
    axes.set_xlim(first - 0.5, start + RESIDUES_IN_ROW + 0.5)
    axes.set_ylim(0, 2)
    axes.set_xticks(range(start + 10, start + RESIDUES_IN_ROW + 1, 10))
    axes.set_yticks([0, 0.8], ["0", "1"], fontsize=7)
    axes.tick_params(axis="x", labelsize=7)
    axes.set_ylabel("confidence", fontsize=7, loc="bottom")
    axes.spines[["top", "right"]].set_visible(False)


def _figure(width: float, height: float) -> Figure:
    """An empty figure of so many inches; matplotlib is imported here and in `_ticker` only."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def _ticker() -> Any:
    from matplotlib import ticker

    return ticker


def _by_family(letters: str) -> str:
    """States in the order of drawing: helices, strands, coils, and the family's own state first."""
    families = list(FAMILIES)
    return "".join(sorted(letters, key=lambda state: (families.index(Q3.reduce(state)), state not in FAMILIES)))


def family_of(state: str) -> str:
    """H, E or C: the family that a state, of whatever alphabet, is drawn as."""
    return Q3.folding.get(state, state)


def runs_of_families(states: str) -> Iterator[tuple[str, int, int]]:
    """Runs of states of one family: its letter, first and last residue (0-based, end exclusive)."""
    start = 0
    for family, run in itertools.groupby(map(family_of, states)):
        stop = start + len(list(run))
        yield family, start, stop
        start = stop


def _family_colour(state: str) -> str:
    return FAMILIES[family_of(state)][1]


def _name(state: str, letters: str) -> str:
    """The state's name; its family's where the states are the three families."""
    return FAMILIES[state][0] if set(letters) <= set(FAMILIES) else STATE_MEANINGS[state][0]


def _tint(colour: str, strength: float) -> tuple[float, ...]:
    """A colour mixed with white: 1 is the colour itself."""
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    return tuple(1 - strength * (1 - part) for part in parts)


def _with_support(state: str, support: Mapping[str, int] | None) -> str:
    return state if support is None else f"{state}\n{_short(support.get(state, 0))}"


def _short(number: float) -> str:
    """A count of at most six characters: 98,765 or 123k."""
    return f"{number:,.0f}" if number < 100_000 else f"{number / 1000:,.0f}k"


def _write_share(axes: Axes, row: int, column: int, share: float, count: float) -> None:
    if np.isnan(share):
        axes.text(column, row, DASH, ha="center", va="center", fontsize=8, color="0.5")
        return
    colour = "white" if share > 55 else "#202020"
    weight = "bold" if row == column else "normal"
    axes.text(column, row - 0.14, f"{share:.1f}", ha="center", va="center", fontsize=8, color=colour, weight=weight)
    axes.text(column, row + 0.22, _short(count), ha="center", va="center", fontsize=5.5, color=colour)


def _colour_ticks(axes: Axes, states: str, which: str) -> None:
    for axis in which:
        labels = axes.get_xticklabels() if axis == "x" else axes.get_yticklabels()
        for label, state in zip(labels, states, strict=True):
            label.set_color(_family_colour(state))


def _separate_families(axes: Axes, states: str, both: bool = False) -> None:
    """Lines between the families of states."""
    for place in range(1, len(states)):
        if _family_colour(states[place]) != _family_colour(states[place - 1]):
            axes.axvline(place - 0.5, color="0.7", lw=0.8)
            if both:
                axes.axhline(place - 0.5, color="0.7", lw=0.8)


def _grid(axes: Axes, axis: Any) -> None:
    axes.grid(axis=axis, color="0.9", lw=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    axes.xaxis.label.set_fontsize(9)
    axes.yaxis.label.set_fontsize(9)


def _entitle(axes: Axes, title: str) -> None:
    axes.set_title(title, fontsize=10, fontweight="bold")


def _legend_beside(axes: Axes) -> None:
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.02), borderaxespad=0, frameon=False, fontsize=8)


def _corner(axes: Axes, text: str, colour: str = "0.35", top: bool = False) -> None:
    """A remark in the lower right corner, or in the upper left one."""
    place = {"x": 0.03, "y": 0.95, "ha": "left", "va": "top"} if top else {"x": 0.98, "y": 0.03, "ha": "right"}
    behind = {"facecolor": "white", "alpha": 0.8, "linewidth": 0, "pad": 1.5}  # bars may be there
    axes.text(s=text, transform=axes.transAxes, fontsize=8, color=colour, bbox=behind, **place)  # type: ignore[arg-type]


def _fractions(values: Sequence[float | None], what: str, lowest: float = 0.0) -> np.ndarray:
    """Values as floats, None as nan.

    Raises:
        ValueError: for a value that is no fraction.
    """
    numbers = np.array([np.nan if value is None else value for value in values], dtype=float)
    wrong = numbers[(numbers < lowest - 1e-4) | (numbers > 1 + 1e-4)]  # 1e-4: rounding of single precision
    if wrong.size:
        raise ValueError(f"{what} {wrong[0]:g} is no fraction. Expected {lowest:g} to 1; divide percentages by 100.")
    return numbers


def _mean_by_length(sizes: np.ndarray, heights: np.ndarray) -> np.ndarray:
    """(bins, 3): median length, mean height and half its 95 % interval, over equally many chains each."""
    number = min(MAX_LENGTH_BINS, len(sizes) // MIN_CHAINS_A_BIN)
    rows = []
    for part in np.array_split(np.argsort(sizes, kind="stable"), number) if number else []:
        quantile = NORMAL_95 + (NORMAL_95**3 + NORMAL_95) / (4 * (len(part) - 1))
        half = quantile * heights[part].std(ddof=1) / np.sqrt(len(part))
        rows.append((np.median(sizes[part]), heights[part].mean(), half))
    return np.array(rows)
