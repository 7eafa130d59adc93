"""What a visitor types: read within the limits, or refused in one line that says what to do."""

import pytest

from lift_ss_hf.cli.lift_ss import parser
from lift_ss_hf.page.chains import EXAMPLE, Limits, read_chains

LIMITS = Limits(sequences=2, residues=30)


def read(text, limits=LIMITS):
    return [(query.name, str(query.sequence)) for query in read_chains(text, limits).queries]


@pytest.mark.parametrize(
    ("text", "chains"),
    [
        (">a kinase\nMKT\nAYI\n>b\nACDEF", [("a", "MKTAYI"), ("b", "ACDEF")]),
        ("\ufeff>a\r\nmkt\r\n", [("a", "MKT")]),
        ("mkta\nyiak", [("record_1", "MKTAYIAK")]),  # one sequence, as `lift-ss predict` takes it
        (">P1;CRAB\na title\nMDITIHNPL*\n", [("CRAB", "MDITIHNPL")]),
        (">a\nMK-T*", [("a", "MKT")]),
    ],
)
def test_fasta_pir_and_one_sequence_are_read(text, chains):
    assert read(text) == chains


def test_the_example_is_within_the_limits():
    assert [len(sequence) for _, sequence in read(EXAMPLE, Limits())] == [76, 129]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (" \n", "There is no sequence yet. Paste one, open a file, or try the example."),
        (
            ">a\nMKT4",
            "record 1 (a): '4' at position 4 is not a residue. Expected letters of .* Fix it, or leave it out.",
        ),
        (">a\nMKT\n>b\n", "record 2 (b): the sequence is empty"),
        (">a\nMKT\n" * 3, "more than 2 sequences, which is as many as this page takes at a time"),
        (f">a\nMKT\n>b\n{'M' * 31}", r"record 2 \(b\): 31 residues, but this page takes up to 30\. Leave it out"),
        ("M" * 10_000, "more than 2,120 characters. This page takes 2 sequences of up to 30 residues"),
        (">a\n" + "ACGT" * 5, "looks like DNA or RNA. Translate it"),
        ("PK\x03\x04xl/workbook", "This is a workbook"),
        ("%PDF-1.7", "This is a PDF document"),
        ("<html>", "This is HTML"),
        ("name,sequence\na,MKT\n>", "input: line 1: expected '>' and a name, found 'name,sequence'"),
        (">\x1b[31m\nMKT4", r"record 1 \(\?\[31m\)"),
    ],
)
def test_anything_else_is_refused_in_one_line(text, says):
    with pytest.raises(ValueError, match=says.replace("(a)", r"\(a\)").replace("(b)", r"\(b\)")) as error:
        read(text)
    assert str(error.value).isprintable()


def test_doubt_about_nucleotides_is_told():
    assert read_chains(">primer\nGATTACA", LIMITS).doubt.startswith("Records that may be DNA or RNA: 1, the first is ")
    assert read_chains(">a\nMKTAYI", LIMITS).doubt == ""


@pytest.mark.parametrize("limits", [{"sequences": 0}, {"residues": -1}])
def test_a_limit_below_one_is_refused(limits):
    with pytest.raises(ValueError, match=r"--max_\w+ is (0|-1)\. Expected 1 or more\."):
        Limits(**limits)


def test_the_command_has_the_same_defaults():
    args = parser().parse_args(["serve"])
    assert Limits(args.max_sequences, args.max_residues) == Limits()
