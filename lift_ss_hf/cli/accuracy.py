"""What was measured of the bundled model, for `--help` and the page; the model card beside it is the one source."""

from __future__ import annotations

import re
from pathlib import Path

NUMBERS = {"q3": "Q3 accuracy (P is coil)", "q9": "Q9 accuracy"}  # names in the card's metadata
CALIBRATION = re.compile(r"expected calibration error was [\d.]+ % before and ([\d.]+) % after")


def measured_accuracy(card: Path | None = None) -> str:
    """Return a paragraph on how accurate the bundled model is, and what a confidence means.

    Args:
        card: the model card (default: that of the bundled model).
    """
    import yaml

    text = (card or Path(__file__).parents[1] / "assets" / "predictor" / "README.md").read_text("utf-8")
    results = yaml.load(text.split("---")[1], Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    results = results["model-index"][0]["results"]
    ranges, names = {}, [result["dataset"]["name"] for result in results]
    for alphabet, name in NUMBERS.items():
        found = [m["value"] for result in results for m in result["metrics"] if m["name"] == name]
        ranges[alphabet] = f"{100 * min(found):.1f} to {100 * max(found):.1f} %"
    error = CALIBRATION.search(text)
    assert error is not None, "the card of the bundled model has no calibration"
    return (
        f"accuracy: the bundled model has {ranges['q3']} of the residues right in three states (q3), and\n"
        f"{ranges['q9']} in nine (q9); measured on {', '.join(names)}.\n"
        "A confidence of 0.9 means that about 90 of 100 such residues are right: on the validation chains, on which\n"
        f"confidences are calibrated, the two differ by {error[1]} % on average (nine states)."
    )
