"""`predict --help` on how accurate the bundled model is: the numbers of its card, whatever they are."""

import json

from lift_ss_hf.cli.accuracy import NUMBERS, measured_accuracy
from lift_ss_hf.cli.lift_ss import CommandParser, add_predict_arguments


def test_help_gives_the_numbers_of_the_card():
    parser = CommandParser()
    add_predict_arguments(parser)
    assert measured_accuracy() in parser.format_help()
    assert "A confidence of 0.9 means that about 90 of 100 such residues are right" in measured_accuracy()


def test_numbers_come_from_the_card(tmp_path):
    def result(corpus, **values):
        metrics = [{"name": NUMBERS[name], "value": value} for name, value in values.items()]
        return {"dataset": {"name": corpus}, "metrics": metrics}

    results = [result("one", q3=0.5, q9=0.25), result("two", q3=0.75), result("three", q3=0.625, q9=0.375)]
    card = tmp_path / "README.md"
    card.write_text(
        f"---\n{json.dumps({'model-index': [{'results': results}]})}\n---\nOn these residues the expected calibration "
        "error was 8.7 % before and 6.5 % after.\n"
    )
    text = measured_accuracy(card)
    for part in ("50.0 to 75.0 % of the residues", "25.0 to 37.5 % in nine", "measured on one, two, three.", "6.5 %"):
        assert part in text
