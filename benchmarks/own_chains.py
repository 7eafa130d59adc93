"""Train on 1,500 chains as a user would, in several ways, and score each on CB513 and TEST2018.

The chains are drawn from promod3 (`lt25id`, no relatives of the test sets) with the seed, at most 400 residues long;
150 others are for validation. States are three. Each way trains in a process of its own on one thread: `lift-ss train`
with its presets and with further arguments, EsmForTokenClassification under the stock Trainer (own_chains_stock.py),
and biotrainer (own_chains_biotrainer.py, which says what differs from its defaults). CPU seconds and the largest
resident memory are those of that process and its children, embeddings included; scoring is not counted. All states are
scored by this package.

A row is a way with a seed. Rows are added to results.json in --out as they are done, and done rows are not run again;
delete a row there to measure it anew. `--table` prints the table of the rows so far.
"""

from __future__ import annotations

import argparse
import datetime
import json
import random
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from measuring import LIFT_SS, run_alone, write_json
from origin import origin

from lift_ss_hf.cli.run import run
from lift_ss_hf.corpora import load_corpus
from lift_ss_hf.metrics.scoring import score
from lift_ss_hf.models.atomic import replacing
from lift_ss_hf.models.states import Q3
from lift_ss_hf.reports.tables import markdown_table, mean_and_spread

NUM_TRAINING, NUM_VALIDATION, MAX_RESIDUES = 1500, 150, 400
TESTS = ("cb513", "test2018")
OURS = {  # name of the way to arguments of `lift-ss train`
    "quick": ["--preset", "quick"],
    "quick, bottleneck in the top 2": ["--preset", "quick", "--adapter", "bottleneck", "--top_blocks", "2"],
    "best": ["--preset", "best"],
    "best, bottleneck in the top 4": ["--preset", "best", "--adapter", "output_bottleneck", "--top_blocks", "4"],
}
PROGRAMS = {  # name of the way to a program beside this one, and its method; ESM-2 backbones only
    "peft LoRA, stock Trainer": ("own_chains_stock.py", "lora"),
    "full, stock Trainer": ("own_chains_stock.py", "full"),
    "biotrainer 2.1.1, CNN": ("own_chains_biotrainer.py", "cnn"),
    "biotrainer 2.1.1, LoRA": ("own_chains_biotrainer.py", "lora"),
}
WAYS = [*OURS, *PROGRAMS]


def parse() -> argparse.Namespace:
    """Parse the command line.

    Raises:
        ValueError: if a way is unknown, or needs an environment that is not named.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="bundled", help="Hub id or folder (default: bundled)")
    parser.add_argument("--corpus", default="promod3:lt25id", help="chains to draw from (default: promod3:lt25id)")
    parser.add_argument("--ways", nargs="+", metavar="WAY", help=f"default: all of {'; '.join(WAYS)}")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="default: 0 1 2")
    parser.add_argument("--biotrainer", metavar="PYTHON", help="the Python of an environment with biotrainer 2.1.1")
    parser.add_argument("--out", type=Path, default=Path("runs/own_chains"), help="default: runs/own_chains")
    parser.add_argument("--table", action="store_true", help="print the table of the rows so far; run nothing")
    args = parser.parse_args()
    args.ways = args.ways or [way for way in WAYS if args.biotrainer or "biotrainer" not in way]
    for way in args.ways:
        if way not in WAYS:
            raise ValueError(f"unknown way {way!r}. Choose one of: {'; '.join(WAYS)}.")
        if "biotrainer" in way and not args.biotrainer and not args.table:
            raise ValueError(f"{way!r} needs --biotrainer PYTHON, an environment with biotrainer 2.1.1.")
    return args


# ---- chains --------------------------------------------------------------------------------------------------------


def draw(corpus: str, seed: int, folder: Path) -> None:
    """Write the chains of a seed, unless they are there.

    `train.txt` and `validation.txt` have three lines for each chain, `tests.json` the sequences of the test sets.
    """
    if (folder / "tests.json").is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    chains = load_corpus(corpus, split="train")
    short = [index for index, length in enumerate(chains["num_residues"]) if length <= MAX_RESIDUES]
    drawn = random.Random(seed).sample(short, NUM_TRAINING + NUM_VALIDATION)
    for name, part in (("train", drawn[:NUM_TRAINING]), ("validation", drawn[NUM_TRAINING:])):
        (folder / f"{name}.txt").write_text("".join(map(_three_lines, chains.select(part))), "utf-8")
    with replacing(folder / "tests.json") as part_file:  # last, since it says that all are there
        write_json({name: load_corpus(name, split="test")["sequence"][:] for name in TESTS}, part_file)


def _three_lines(chain: Mapping[str, str]) -> str:
    return f">{chain['id']}\n{chain['sequence']}\n{Q3.reduce(chain['states'])}\n"


# ---- rows ----------------------------------------------------------------------------------------------------------


def read_rows(out: Path) -> list[dict[str, Any]]:
    """Return the rows that are done."""
    path = out / "results.json"
    return json.loads(path.read_text("utf-8")) if path.is_file() else []


def add_row(row: Mapping[str, Any], out: Path) -> None:
    """Add a row to the file; a process that is killed leaves the old file or the new one."""
    lines = ",\n".join(json.dumps(each) for each in [*read_rows(out), row])
    with replacing(out / "results.json") as part:
        part.write_text(f"[\n{lines}\n]\n", "utf-8")


def measure(way: str, args: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Train and score a way with a seed.

    Returns:
        The row: `way`, `seed`, `backbone`, `cpu_seconds`, `peak_mib`, `seconds`, Q3 by test set [%], and where the
        numbers come from.
    """
    chains = (args.out / f"seed_{seed}").resolve()
    draw(args.corpus, seed, chains)
    name = Path(args.backbone).name
    folder = chains / f"{name} {way}".replace(" ", "_").replace(",", "")
    shutil.rmtree(folder, ignore_errors=True)  # of a run that was stopped: the time counts from the start
    folder.mkdir()
    used = _measure_ours if way in OURS else _measure_program
    row = {"way": way, "seed": seed, "backbone": name, **used(way, folder, args, seed)}
    for large in ("biotrainer", "trainer", "run"):
        shutil.rmtree(folder / large, ignore_errors=True)
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    if "libraries" in row:  # of another environment
        versions += f"; there {row.pop('libraries')}"
    return row | {"date": datetime.date.today().isoformat(), "origin": origin(versions, "1 thread")}


def _measure_ours(way: str, folder: Path, args: argparse.Namespace, seed: int) -> dict[str, float]:
    command = [*LIFT_SS, "train", str(folder.parent / "train.txt"), "--validation"]
    command += [str(folder.parent / "validation.txt"), "--tests", "none", "--backbone", args.backbone]
    used = run_alone([*command, "--seed", str(seed), *OURS[way], "-o", str(folder / "run")], folder / "log.txt")
    command = [*LIFT_SS, "evaluate", str(folder / "run" / "model"), "--tests", *TESTS, "--bootstrap", "0"]
    run_alone([*command, "-o", str(folder / "scores")], folder / "log.txt")
    corpora = json.loads((folder / "scores" / "metrics.json").read_text("utf-8"))["corpora"]
    return used | {name: 100 * corpora[name]["scores"]["q3"]["q3"] for name in TESTS}


def _measure_program(way: str, folder: Path, args: argparse.Namespace, seed: int) -> dict[str, float]:
    program, method = PROGRAMS[way]
    python = args.biotrainer if "biotrainer" in way else sys.executable
    command = [python, str(Path(__file__).with_name(program)), method, str(folder.parent)]
    whole = run_alone([*command, str(Path(args.backbone).resolve()), str(seed)], folder / "log.txt", folder)
    used = json.loads((folder / "usage.json").read_text("utf-8"))  # before it predicted the test chains
    states = json.loads((folder / "states.json").read_text("utf-8"))
    return used | {"seconds": whole["seconds"]} | {name: 100 * _q3(name, states[name]) for name in TESTS}


def _q3(name: str, states: Sequence[str]) -> float:
    references = load_corpus(name, split="test")["states"][:]
    return score(references=references, predictions=states, states="q3")["q3"]


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return a Markdown table with a line for each backbone and way: means over the seeds, and their deviation."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["backbone"], row["way"]), []).append(row)
    cells = []
    for (backbone, way), group in sorted(groups.items(), key=lambda item: (item[0][0], WAYS.index(item[0][1]))):
        peak = f"{max(row['peak_mib'] for row in group):,.0f}"
        numbers = [_mean(group, "cpu_seconds", 0), peak, *(_mean(group, name, 2) for name in TESTS)]
        cells.append([backbone, way, str(len(group)), *numbers])
    header = ["backbone", "way", "seeds", "CPU seconds", "peak [MiB]", *(f"Q3 {name}" for name in TESTS)]
    origins = sorted({f"{row['date']}, {row['origin']}" for row in rows})
    found = markdown_table(header, cells, "ll" + "r" * (len(header) - 2))
    return "\n".join([found, "", *(f"- {each}" for each in origins)])


def _mean(rows: Sequence[Mapping[str, Any]], name: str, digits: int) -> str:
    return mean_and_spread([row[name] for row in rows], digits)


def main() -> None:
    """Measure the rows that are missing, seed by seed, and print the table."""
    args = parse()
    if not args.table:
        for seed in args.seeds:
            for way in args.ways:
                done = {(row["way"], row["seed"], row["backbone"]) for row in read_rows(args.out)}
                if (way, seed, Path(args.backbone).name) not in done:
                    row = measure(way, args, seed)
                    add_row(row, args.out)
                    print(json.dumps(row), file=sys.stderr)
    print(table(read_rows(args.out)))


if __name__ == "__main__":
    run(main)
