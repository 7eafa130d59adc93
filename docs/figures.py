"""Draw the figures of the documentation, in light and in dark: `python docs/figures.py` writes docs/figures/*.svg.

Run it when tests/docs/test_figures.py asks for it: after a change of the drawing, of the bundled predictor or of
docs/results.md.
"""

from __future__ import annotations

import functools
import io
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from lift_ss_hf.reports.chain_figures import plot_chains
from lift_ss_hf.reports.style import BLUE, PAGE_WIDTH, STATE_CLASSES, VERMILION

DOCS = Path(__file__).parent
FOLDER = DOCS / "figures"

CHAINS = {
    "ubiquitin": "MQIFVKTLTGKTITLEVEPSDTIENVKAKIQDKEGIPPDQQRLIFAGKQLEDGRTLSDYNIQKESTLHLVLRLRGG",
    "lysozyme": "KVFGRCELAAAMKRHGLDNYRGYSLGNWVCAAKFESNFNTQATNRNTDGSTDYGILQINSRWWCNDGRTPGSRNLCNIPC"
    "SALLSSDITASVNCAKKIVSDGNGMNAWVAWRNRCKGTDVQAWIRGCRL",
}
MODELS = {"reprof": "#8c8c8c", "bundled predictor": BLUE, "ESM-2 8M": VERMILION}
TEST_SETS = ("CASP12", "CASP13", "CASP14", "TEST2018")  # those that all three were scored on


class Theme(NamedTuple):
    """Colours of one of the site's two appearances.

    Attributes:
        suffix: of the file's name.
        ink: text and lines.
        faint: fill of what stays frozen.
        colours: replacements for the colours of states and models, for contrast on the background.
    """

    suffix: str
    ink: str
    faint: str
    colours: Mapping[str, str]


LIGHT = Theme("", "#202020", "#e9ebee", {})
DARK = Theme(
    "_dark", "#e2e4e9", "#3a3f4d", {BLUE: "#56b4e9", VERMILION: "#f0884a", "#6e6e6e": "#a3a7b3", "#8c8c8c": "#a3a7b3"}
)
THEMES = (LIGHT, DARK)


def figures() -> Iterator[tuple[Path, str]]:
    """Yield the path and the SVG of every figure, in both themes."""
    draw: dict[str, Callable[[Theme], str]] = {"method": method, "chains": chains, "accuracy": accuracy, "ray": ray}
    for name, function in draw.items():
        for theme in THEMES:
            yield FOLDER / f"{name}{theme.suffix}.svg", recoloured(function(theme), theme)


def recoloured(svg: str, theme: Theme) -> str:
    """Return a figure with the colours of states and models replaced by those of a theme."""
    for colour, replacement in theme.colours.items():
        svg = re.sub(re.escape(colour), replacement, svg, flags=re.I)
    return svg


# ---- the method: drawn by hand ---------------------------------------------------------------------------------------


def method(theme: Theme) -> str:
    """Draw the way of a chain through frozen blocks, blocks with adapters and the head."""
    helix, strand, coil = (STATE_CLASSES[state].colour for state in "HEC")
    rows = [f'<g font-family="system-ui, sans-serif" font-size="13" fill="{theme.ink}" text-anchor="middle">']
    for number, (residue, state) in enumerate(zip("MKVIRELG", "CEEEHHHC", strict=True)):
        y = 52 + 22 * number
        colour = {"H": helix, "E": strand, "C": coil}[state]
        letter = f'<text y="{y}" font-family="monospace" font-size="16"'
        rows.append(f'{letter} x="40">{residue}</text>')
        rows.append(f'{letter} x="722" font-weight="bold" fill="{colour}">{state}</text>')
    for number in range(4):
        rows += _block(90 + 52 * number, theme)
    for number in range(3):
        rows += _block(318 + 84 * number, theme)
        rows += _trained(318 + 84 * number + 44, 60, 24, 120, "")
    rows += _trained(590, 40, 84, 160, "head")
    for start, stop in ((54, 84), (298, 312), (566, 584), (680, 708)):
        rows.append(_arrow(start, stop, 120, theme))
    for x, y, text in (
        (40, 24, "residues"),
        (194, 24, "frozen blocks"),
        (434, 24, "blocks with adapters"),
        (722, 24, "states"),
        (194, 236, "computed once per chain, cached"),
        (500, 236, "orange: trained"),
    ):
        rows.append(f'<text x="{x}" y="{y}">{text}</text>')
    rows.append("</g>")
    return _svg(760, 250, rows)


def _block(x: int, theme: Theme) -> list[str]:
    colours = f'fill="{theme.faint}" stroke="{theme.ink}" stroke-opacity="0.35"'
    return [f'<rect x="{x}" y="40" width="40" height="160" rx="6" {colours}/>']


def _trained(x: int, y: int, width: int, height: int, text: str) -> list[str]:
    shape = f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="6" fill="{VERMILION}"/>'
    label = f'<text x="{x + width / 2:g}" y="{y + height / 2 + 5:g}" fill="#ffffff" font-weight="bold">{text}</text>'
    return [shape, label] if text else [shape]


def _arrow(start: int, stop: int, y: int, theme: Theme) -> str:
    line = f"M{start} {y}H{stop}m-6 -5l6 5l-6 5"
    return f'<path d="{line}" fill="none" stroke="{theme.ink}" stroke-width="1.5"/>'


def _svg(width: int, height: int, rows: Sequence[str]) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">'
    return "\n".join([head, *rows, "</svg>", ""])


# ---- chains and scores: drawn by matplotlib --------------------------------------------------------------------------


def chains(theme: Theme) -> str:
    """Draw two chains as the bundled predictor sees them."""
    with matplotlib.rc_context(_settings(theme)):
        return _as_svg(plot_chains(predicted_chains()))


@functools.cache
def predicted_chains() -> list[tuple[str, str, list[float]]]:
    """Return name, states and confidences of the chains, rounded so that no machine's last digits show."""
    from transformers import pipeline

    import lift_ss_hf  # noqa: F401  # makes the pipeline known

    predictor = pipeline("protein-secondary-structure")
    results = predictor(list(CHAINS.values()), states="q3")
    return [
        (name, result["states"], np.round(result["confidence"], 2).tolist())
        for name, result in zip(CHAINS, results, strict=True)
    ]


def accuracy(theme: Theme) -> str:
    """Draw Q3 of the models in docs/results.md as bars, with their 95 % intervals."""
    found = measured_q3((DOCS / "results.md").read_text("utf-8"))
    with matplotlib.rc_context(_settings(theme)):
        figure = Figure(figsize=(PAGE_WIDTH, 2.8), layout="constrained")
        axes = figure.add_subplot()
        width = 0.8 / len(MODELS)
        for number, (model, colour) in enumerate(MODELS.items()):
            places = np.arange(len(TEST_SETS)) + (number - 1) * width
            values = np.array([found[model, test] for test in TEST_SETS])  # (tests, 3): score, low, high
            axes.bar(places, values[:, 0], 0.92 * width, color=colour, label=model)
            if not np.isnan(values).any():
                reach = np.abs(values[:, 1:] - values[:, :1]).T
                axes.errorbar(places, values[:, 0], yerr=reach, fmt="none", ecolor=theme.ink, elinewidth=1, capsize=2)
            for place, (value, _, high) in zip(places, values, strict=True):
                top = value if np.isnan(high) else high
                axes.text(place, top + 1.5, f"{value:.1f}", ha="center", fontsize=8)
        axes.set_xticks(range(len(TEST_SETS)), TEST_SETS)
        axes.set_ylim(0, 100)
        axes.set_ylabel("Q3 (P as coil) [%]", fontsize=9)
        axes.tick_params(labelsize=9)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(ncols=len(MODELS), loc="lower center", bbox_to_anchor=(0.5, 1), frameon=False, fontsize=9)
        return _as_svg(figure)


def measured_q3(markdown: str) -> dict[tuple[str, str], tuple[float, float, float]]:
    """Return Q3 with its interval [%] by model and test set, from the first table of docs/results.md.

    An interval that was not measured is NaN.
    """
    table = re.search(r"(?:^\|.*\n)+", markdown, re.M)
    assert table is not None
    rows = [[cell.strip() for cell in line.strip("|\n").split("|")] for line in table[0].splitlines()]
    column = next(number for number, name in enumerate(rows[0]) if name.startswith("Q3"))
    found = {}
    for row in rows[2:]:
        numbers = [float(number) for number in re.findall(r"\d+\.\d+", row[column])]
        score, low, high = [*numbers, np.nan, np.nan][:3]
        found[row[0], row[1]] = (score, low, high)
    return found


def ray(theme: Theme) -> str:
    """Draw how the time of Ray and the size of its checkpoint grow with the rows, from benchmarks/ray_data.md."""
    found = measured_growth((DOCS.parent / "benchmarks" / "ray_data.md").read_text("utf-8"))
    with matplotlib.rc_context(_settings(theme)):
        figure = Figure(figsize=(PAGE_WIDTH, 2.9), layout="constrained")
        times, sizes = figure.subplots(1, 2)
        for (in_task, rows), marker in zip(found.items(), "so", strict=True):
            for name, colour in (("run", BLUE), ("resume", VERMILION)):
                label = f"{name}, {in_task:,} in a task"
                times.semilogx(rows["rows"], rows[name], marker=marker, markersize=4, color=colour, label=label)
            sizes.loglog(rows["rows"], rows["checkpoint"], marker=marker, markersize=4, color=BLUE)
        times.set_ylim(bottom=0)
        for axes, label in ((times, "CPU time [s]"), (sizes, "checkpoint [MB]")):
            axes.set_xlabel("rows", fontsize=9)
            axes.set_ylabel(label, fontsize=9)
            axes.tick_params(labelsize=9)
            axes.spines[["top", "right"]].set_visible(False)
        figure.legend(ncols=4, loc="outside upper center", frameon=False, fontsize=8)
        return _as_svg(figure)


def measured_growth(markdown: str) -> dict[int, dict[str, list[float]]]:
    """Return rows, times and sizes by the number of rows in a task, from the table in benchmarks/ray_data.md."""
    table = re.search(r"^\| rows .*\n\|.*\n((?:\|.*\n)+)", markdown, re.M)
    assert table is not None
    names = ("rows", "in_task", "tasks", "run", "seconds", "checkpoint", "resume", "peak")
    found: dict[int, dict[str, list[float]]] = {}
    for line in table[1].splitlines():
        numbers = [float(cell.replace(",", "")) for cell in line.strip("|").split("|")]
        row = dict(zip(names, numbers, strict=True))
        columns = found.setdefault(int(row["in_task"]), {name: [] for name in names})
        for name, number in row.items():
            columns[name].append(number)
    return found


def _settings(theme: Theme) -> dict[str, object]:
    inked = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
    # text stays text, in the reader's own font; ids do not change from run to run
    return {**dict.fromkeys(inked, theme.ink), "svg.fonttype": "none", "svg.hashsalt": "lift_ss_hf"}


def _as_svg(figure: Figure) -> str:
    figure.patch.set_alpha(0)
    for axes in figure.axes:
        axes.patch.set_alpha(0)
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return re.sub(
        r"font(-family)?: ([^;\"]*?)'DejaVu Sans'[^;\"]*", r"font\1: \2system-ui, sans-serif", text.getvalue()
    )


def main() -> None:
    """Write all figures."""
    FOLDER.mkdir(exist_ok=True)
    for path, svg in figures():
        path.write_text(svg, encoding="utf-8")
        print(f"wrote {path}", file=sys.stderr)


if __name__ == "__main__":
    main()
