"""Figures of an evaluation: plain numbers in, a matplotlib Figure out, as wide as a journal's column or page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..metrics.calibration import NUM_BINS, calibration_bins
from ..models.atomic import replacing
from ..models.wording import counted
from .style import (
    BLUE,
    COLUMN_WIDTH,
    INK,
    LINE_COLOURS,
    MARKERS,
    SKY_BLUE,
    VERMILION,
    add_grid,
    add_legend_beside,
    add_note,
    as_fractions,
    class_colour,
    colour_ticks,
    new_figure,
    separate_classes,
    set_title,
    short_count,
    sorted_by_class,
    state_name,
    ticker,
    tint,
)
from .tables import MISSING, STATE_SCORES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DOTS_PER_INCH = 200
FIGURE_KINDS = ("pdf", "png", "svg")
MIN_CHAINS_PER_BIN, MAX_LENGTH_BINS = 10, 8


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure as PNG, at 200 dots per inch, as SVG or as PDF. The file appears whole or not at all.

    The same figure gives the same file.

    Args:
        figure: the figure to write.
        path: a name that ends in .png, .svg or .pdf; missing folders are created.

    Raises:
        ValueError: if the path ends in something else.
    """
    from matplotlib import rc_context

    kind = check_figure_name(path)
    undated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind)
    with replacing(path) as part, rc_context({"svg.hashsalt": "lift_ss_hf"}):
        figure.savefig(part, dpi=DOTS_PER_INCH, format=kind, metadata=undated)


def check_figure_name(path: str | Path) -> str:
    """Return the format that the name of a figure asks for.

    Raises:
        ValueError: if figures are not written in it.

    Example:
        >>> check_figure_name("chain.PDF")
        'pdf'
    """
    kind = Path(path).suffix.lower().lstrip(".")
    if kind not in FIGURE_KINDS:
        raise ValueError(f"{path}: not the name of a figure. Give one that ends in .png, .svg or .pdf.")
    return kind


def plot_confusion(confusion_matrix: Sequence[Sequence[int]], letters: str, title: str = "") -> Figure:
    """Draw a confusion matrix: percentages of the residues of each reference state, with their counts.

    Args:
        confusion_matrix: (n, n) residue counts; rows are reference states, columns predicted states.
        letters: the n states, in the order of rows and columns. They are drawn sorted by class.
        title: title of the figure.

    Raises:
        ValueError: if the matrix is not (n, n), has negative counts or no residues.

    Example:
        >>> figure = plot_confusion([[5, 1, 0], [0, 7, 0], [2, 0, 9]], "CEH", "casp12, Q3")
        >>> [axes.get_ylabel() for axes in figure.axes]
        ['reference state', 'residues of the reference state [%]']
    """
    counts = np.asarray(confusion_matrix, dtype=float)
    if counts.shape != (len(letters), len(letters)):
        raise ValueError(f"the confusion matrix is {counts.shape}, but {len(letters)} states ({letters}) were given.")
    if not (np.isfinite(counts).all() and (counts >= 0).all() and counts.any()):
        raise ValueError("the confusion matrix has negative counts or no residues. Expected counts of residues.")
    states = sorted_by_class(letters)
    order = [letters.index(state) for state in states]
    counts = counts[np.ix_(order, order)]
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(100 * counts, totals, out=np.full_like(counts, np.nan), where=totals > 0)

    side = 0.6 * len(states)
    figure = new_figure(side + 2.9, side + 0.8)
    axes = figure.add_subplot()
    set_title(axes, title)
    image = axes.imshow(np.nan_to_num(shares), cmap="Blues", vmin=0, vmax=100)
    for row, column in np.ndindex(*shares.shape):
        _write_cell(axes, row, column, float(shares[row, column]), float(counts[row, column]))
    axes.set_xticks(range(len(states)), list(states), fontsize=10)
    axes.set_yticks(range(len(states)), [f"{state_name(state, letters)}  {state}" for state in states])
    colour_ticks(axes, states, "xy")
    separate_classes(axes, states, both=True)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("predicted state")
    axes.set_ylabel("reference state")
    bar = figure.colorbar(image, ax=axes, aspect=28, pad=0.02)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=8)
    bar.set_label("residues of the reference state [%]", fontsize=8)
    return figure


def _write_cell(axes: Axes, row: int, column: int, share: float, count: float) -> None:
    """Write a percentage and, below it, a count into a cell of the confusion matrix."""
    if np.isnan(share):
        axes.text(column, row, MISSING, ha="center", va="center", fontsize=8, color="0.5")
        return
    colour = "white" if share > 55 else INK
    weight = "bold" if row == column else "normal"
    axes.text(column, row - 0.14, f"{share:.1f}", ha="center", va="center", fontsize=8, color=colour, weight=weight)
    axes.text(column, row + 0.22, short_count(count), ha="center", va="center", fontsize=5.5, color=colour)


def plot_state_scores(
    scores: Mapping[str, Mapping[str, float | None]], support: Mapping[str, int] | None = None, title: str = ""
) -> Figure:
    """Draw the scores of each state, such as recall, precision and F1, as bars.

    Args:
        scores: for each state its scores by name [fraction]. None, a score that is not defined, is drawn as a dash.
        support: residues of each state in the reference, written below the state. Omitted by default.
        title: title of the figure.

    Raises:
        ValueError: if there are no states or no scores, the states have different scores, or a score is not a fraction.

    Example:
        >>> scores = {"H": {"recall": 0.9, "precision": None}, "E": {"recall": 0.8, "precision": 0.7}}
        >>> figure = plot_state_scores(scores)
        >>> [label.get_text() for label in figure.axes[0].get_xticklabels()]
        ['H', 'E']
    """
    names = list(next(iter(scores.values()), {}))
    if not names or any(list(values) != names for values in scores.values()):
        raise ValueError("expected the same scores, at least one, for each state, and at least one state.")
    states = sorted_by_class("".join(scores))
    fractions = {name: as_fractions([scores[state][name] for state in states], name, lowest=-1) for name in names}
    figure = new_figure(max(COLUMN_WIDTH, 0.75 * len(states) + 1.2), 2.8)
    axes = figure.add_subplot()
    set_title(axes, title)
    _draw_state_bars(axes, states, fractions)
    labels = states if support is None else [f"{state}\n{short_count(support.get(state, 0))}" for state in states]
    axes.set_xticks(range(len(states)), list(labels))
    colour_ticks(axes, states, "x")
    separate_classes(axes, states)
    lowest = min(0.0, *(np.nan_to_num(values).min() for values in fractions.values()))
    axes.set_ylim(100 * lowest, 100)
    axes.set_xlim(-0.6, len(states) - 0.4)
    if support is not None:
        axes.set_xlabel("state, and its residues in the reference")
    axes.set_ylabel("score [%]")
    add_grid(axes, "y")
    axes.tick_params(axis="x", length=0)
    add_legend_beside(axes)
    return figure


def _draw_state_bars(axes: Axes, states: str, fractions: Mapping[str, np.ndarray]) -> None:
    """Draw a group of bars for each state, in its class's colour; each further score is paler."""
    width = 0.8 / len(fractions)
    for number, (name, values) in enumerate(fractions.items()):
        strength = 1.0 - 0.62 * number / max(1, len(fractions) - 1)
        centres = np.arange(len(states)) + (number - (len(fractions) - 1) / 2) * width
        colours = [tint(class_colour(state), strength) for state in states]
        axes.bar(centres, np.nan_to_num(100 * values), 0.92 * width, color=colours)
        for centre in centres[np.isnan(values)]:
            axes.text(centre, 1, MISSING, ha="center", va="bottom", fontsize=8, color="0.4")
        axes.bar([0], [0], color=tint("#303030", strength), label=STATE_SCORES.get(name, name))  # for the legend


def plot_accuracy_by_length(lengths: Sequence[int], accuracies: Sequence[float | None], title: str = "") -> Figure:
    """Draw the accuracy of each chain against its length, with means over chains of similar length.

    The means are over up to 8 bins of equally many chains, at least 10; fewer chains are drawn without means. Error
    bars are 95 % intervals of the mean by Student's t distribution.

    Args:
        lengths: length of each chain [residues].
        accuracies: accuracy of each chain [fraction]. None, for a chain without labels, is left out and counted.
        title: title of the figure.

    Raises:
        ValueError: if lengths and accuracies differ in number, no chain has an accuracy, or one is not a fraction.

    Example:
        >>> figure = plot_accuracy_by_length([80, 200, 320], [0.7, 0.8, None])
        >>> [text.get_text() for text in figure.axes[0].texts]
        ['2 chains, 1 without labels left out']
    """
    if len(lengths) != len(accuracies):
        raise ValueError(f"{len(lengths)} lengths but {len(accuracies)} accuracies. Give one of each for every chain.")
    percentages = 100 * as_fractions(accuracies, "accuracy")
    known = ~np.isnan(percentages)
    if not known.any():
        raise ValueError("no chain has an accuracy: there is nothing to draw.")
    sizes, percentages = np.asarray(lengths, dtype=float)[known], percentages[known]
    figure = new_figure(COLUMN_WIDTH, 3.2)
    axes = figure.add_subplot()
    set_title(axes, title)
    axes.scatter(sizes, percentages, s=9, color=SKY_BLUE, alpha=0.55, linewidths=0, label="chain")
    if len(bins := _means_by_length(sizes, percentages)):
        look: dict[str, Any] = {"color": VERMILION, "marker": "o", "ms": 4, "lw": 1.3, "capsize": 2.5}
        axes.errorbar(*bins.T, **look, label="mean, 95 % interval")
    _set_length_axis(axes, sizes)
    axes.set_ylim(max(0.0, 10 * np.floor(percentages.min() / 10) - 5), 101)
    axes.set_ylabel("accuracy of the chain [%]")
    left_out = f", {(~known).sum():,} without labels left out" if not known.all() else ""
    add_note(axes, f"{known.sum():,} chain{'' if known.sum() == 1 else 's'}{left_out}")
    add_grid(axes, "y")
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    return figure


def _set_length_axis(axes: Axes, sizes: np.ndarray) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(ticker().LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(ticker().StrMethodFormatter("{x:,.0f}"))
    axes.xaxis.set_minor_formatter(ticker().NullFormatter())
    if sizes.min() == sizes.max():
        axes.set_xlim(sizes[0] / 2, sizes[0] * 2)
    axes.set_xlabel("chain length [residues]")


def _means_by_length(sizes: np.ndarray, percentages: np.ndarray) -> np.ndarray:
    """Return (bins, 3): median length, mean percentage and half its 95 % interval, over equally many chains each."""
    from scipy.stats import t  # takes 0.6 s to import

    num_bins = min(MAX_LENGTH_BINS, len(sizes) // MIN_CHAINS_PER_BIN)
    rows = []
    for part in np.array_split(np.argsort(sizes, kind="stable"), num_bins) if num_bins else []:
        standard_error = percentages[part].std(ddof=1) / np.sqrt(len(part))
        half = t.ppf(0.975, len(part) - 1) * standard_error
        rows.append((np.median(sizes[part]), percentages[part].mean(), half))
    return np.array(rows)


def plot_calibration(confidences: Sequence[float], correct: Sequence[bool], title: str = "") -> Figure:
    """Draw the accuracy of predictions against their confidence, and below it the distribution of confidences.

    Args:
        confidences: probability of the predicted state of each residue [fraction].
        correct: for each residue, True if the predicted state is the reference state.
        title: title of the figure.

    Raises:
        ValueError: if there are no residues, the lengths differ, or a confidence is not a fraction.

    Source: Guo et al. 2017, On Calibration of Modern Neural Networks, ICML.

    Example:
        >>> figure = plot_calibration([0.9, 0.9, 0.5, 0.5], [True, False, True, False])
        >>> [text.get_text() for axes in figure.axes for text in axes.texts]
        ['ECE 20.0 % (15 bins)', '4 residues']
    """
    bins = calibration_bins(confidences, correct)
    num_residues, confidence, accuracy = bins
    edges = np.linspace(0, 100, NUM_BINS + 1)
    filled = num_residues > 0
    figure = new_figure(3.6, 4.4)
    upper, lower = figure.subplots(2, sharex=True, height_ratios=(3.2, 1))
    set_title(upper, title)
    upper.plot([0, 100], [0, 100], color="0.5", lw=1, ls=(0, (4, 3)), label="perfectly calibrated")
    bars = {"width": 100 / NUM_BINS, "align": "edge", "edgecolor": "white", "linewidth": 0.8}
    upper.bar(edges[:-1][filled], 100 * accuracy[filled], color="#9CCBE8", **bars)
    line = {"color": BLUE, "marker": "o", "ms": 4, "lw": 1.3}
    upper.plot(100 * confidence[filled], 100 * accuracy[filled], **line, label="model")
    upper.set(xlim=(0, 100), ylim=(0, 100), ylabel="accuracy [%]")
    upper.legend(loc="upper left", frameon=False, fontsize=8)
    add_note(upper, f"ECE {100 * bins.error:.1f} % ({NUM_BINS} bins)", colour=INK)
    lower.bar(edges[:-1], 100 * num_residues / num_residues.sum(), color="0.65", **bars)
    lower.set(xlabel="confidence of the prediction [%]", ylabel="residues [%]")
    add_note(lower, counted(int(num_residues.sum()), "residue"), upper_left=True)
    add_grid(upper, "y")
    add_grid(lower, "y")
    figure.align_ylabels()
    return figure


def plot_blocks(
    curves: Mapping[str, Mapping[int, Sequence[float]]],
    title: str = "",
    frozen: float | None = None,
    full: float | None = None,
) -> Figure:
    """Draw accuracy against the number of top blocks with adapters, with one line for each adapter.

    Points are single runs, lines connect their means, error bars are standard deviations over seeds.

    Args:
        curves: for each adapter, the accuracies of its runs [fraction] by number of blocks.
        title: title of the figure.
        frozen: accuracy of the frozen backbone without adapters [fraction]. Omitted by default.
        full: accuracy of full fine-tuning [fraction]. Omitted by default.

    Raises:
        ValueError: if there are no runs, or an accuracy is not a fraction.

    Source: the analysis of Yang et al. 2023, bioRxiv 2023.03.22.530066.

    Example:
        >>> figure = plot_blocks({"lora": {1: [0.75, 0.76], 3: [0.78, 0.77]}}, frozen=0.73)
        >>> [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
        ['frozen backbone', 'lora']
    """
    if not any(len(runs) for curve in curves.values() for runs in curve.values()):
        raise ValueError("no run to draw: expected accuracies for at least one adapter and number of blocks.")
    figure = new_figure(5.6, 3.0)
    axes = figure.add_subplot()
    set_title(axes, title)
    for name, accuracy, dashes in (("full fine-tuning", full, (5, 2)), ("frozen backbone", frozen, (1, 1.5))):
        if accuracy is not None:
            height = 100 * as_fractions([accuracy], name)[0]
            axes.axhline(height, color="0.35", lw=1.2, ls=(0, dashes), label=name)
    for number, (adapter, curve) in enumerate(curves.items()):
        shift = 0.06 * (number - (len(curves) - 1) / 2)  # keeps error bars at the same number of blocks apart
        _draw_curve(axes, number, adapter, curve, shift)
    axes.xaxis.set_major_locator(ticker().MaxNLocator(integer=True, min_n_ticks=1))
    axes.margins(y=0.12)
    axes.set_xlabel("top blocks with adapters")
    axes.set_ylabel("accuracy [%]")
    add_grid(axes, "y")
    add_legend_beside(axes)
    return figure


def _draw_curve(axes: Axes, number: int, adapter: str, curve: Mapping[int, Sequence[float]], shift: float) -> None:
    """Draw the runs of one adapter, with a line through their means."""
    runs = {blocks: 100 * as_fractions(curve[blocks], adapter) for blocks in sorted(curve) if len(curve[blocks])}
    means = [float(np.mean(values)) for values in runs.values()]
    spreads = [float(np.std(values, ddof=1)) if len(values) > 1 else 0.0 for values in runs.values()]
    positions = np.array(list(runs)) + shift
    look: dict[str, Any] = {"color": LINE_COLOURS[number % len(LINE_COLOURS)]}
    for position, values in zip(positions, runs.values(), strict=True):
        axes.scatter(np.full(len(values), position), values, s=8, alpha=0.45, linewidths=0, **look)
    look |= {"marker": MARKERS[number % len(MARKERS)], "ms": 5, "lw": 1.4, "capsize": 2.5, "elinewidth": 1}
    axes.errorbar(positions, means, spreads, label=adapter, **look)
