"""Small corpora for tests: a file with three lines per chain, and the example of the catalogue's header."""

import hashlib
from importlib import resources
from pathlib import Path

TEXT = b">1abc_A\nMKV\nLHX\n>2xyz_B\nAC\nEE\n"


def blob_id(data: bytes) -> str:
    """Return the checksum that `git hash-object` prints."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def example_catalogue() -> str:
    """Return the example in the header of catalogue.yaml: the corpus `my_corpus`, whose file holds TEXT."""
    text = resources.files("lift_ss_hf.corpora").joinpath("catalogue.yaml").read_text("utf-8")
    block = text.split("# Example", 1)[1].split("\n\n", 1)[0].splitlines()[2:]
    return "\n".join(line.removeprefix("# ") for line in block)


def write_example_sources(folder):
    """Write the files of the example to a source folder, and return the folder."""
    (folder / "my_lab").mkdir(parents=True, exist_ok=True)
    (folder / "my_lab" / "my_chains.txt").write_bytes(TEXT)
    (folder / "my_chains_small.txt").write_bytes(TEXT[: TEXT.index(b">2xyz")])
    return folder


def write_three_line(chains, path):
    """Write chains as `>id`, residues and states, three lines per chain, and return the path."""
    text = "".join(f">{chain.id}\n{chain.sequence}\n{chain.states}\n" for chain in chains)
    Path(path).write_text(text, "ascii")
    return path
