"""Train on 1,500 chains as a user would, in several ways, and score each on CB513 and TEST2018.

The chains are drawn from promod3 (`lt25id`, no relatives of the test sets) with the seed, at most 400 residues long;
150 others are for validation. States are three. Each way trains in a process of its own on one thread: `lift-ss train`
with its presets and with further arguments, and EsmForTokenClassification under the stock Trainer, with peft's LoRA and
in full (chains of similar length together, at a fixed learning rate each: 1e-3 and 1e-4). CPU seconds and the largest
resident memory are those of that process; scoring is not counted. All states are scored by this package.

Results are kept below --out, so that a benchmark that was stopped resumes: delete a folder to measure it again.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from origin import origin

from lift_ss_hf.cli.run import run
from lift_ss_hf.corpora import load_corpus
from lift_ss_hf.metrics.scoring import score
from lift_ss_hf.models.atomic import replacing
from lift_ss_hf.models.states import Q3

NUM_TRAINING, NUM_VALIDATION, MAX_RESIDUES = 1500, 150, 400
TESTS = ("cb513", "test2018")
RESULT = "result.json"
OURS = {  # name of the way to arguments of `lift-ss train`
    "quick": ["--preset", "quick"],
    "quick, bottleneck in the top 2": ["--preset", "quick", "--adapter", "bottleneck", "--top_blocks", "2"],
    "best": ["--preset", "best"],
    "best, frozen": ["--preset", "best", "--adapter", "none"],
    "best, bottleneck": ["--preset", "best", "--adapter", "bottleneck"],
}
STOCK = {"peft LoRA, stock Trainer": 1e-3, "full, stock Trainer": 1e-4}  # to the learning rate; ESM-2 backbones only
# the command, of this environment
LIFT_SS = [sys.executable, "-c", "from lift_ss_hf.cli.lift_ss import main; main()"]
STOCK_EPOCHS, STOCK_BATCH = 3, 8


def parse() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="bundled", help="Hub id or folder (default: bundled)")
    parser.add_argument("--corpus", default="promod3:lt25id", help="chains to draw from (default: promod3:lt25id)")
    parser.add_argument("--ways", nargs="+", default=[*OURS, *STOCK], help="default: all")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs/own_chains"))
    parser.add_argument("--stock", nargs=2, metavar=("WAY", "FOLDER"), help=argparse.SUPPRESS)
    return parser.parse_args()


# ---- chains --------------------------------------------------------------------------------------------------------


def draw(corpus: str, seed: int, folder: Path) -> tuple[Path, Path]:
    """Write the training and the validation chains of a seed, three lines for each chain."""
    paths = folder / "train.txt", folder / "validation.txt"
    if not all(path.is_file() for path in paths):
        folder.mkdir(parents=True, exist_ok=True)
        chains = load_corpus(corpus, split="train")
        short = [index for index, length in enumerate(chains["num_residues"]) if length <= MAX_RESIDUES]
        drawn = random.Random(seed).sample(short, NUM_TRAINING + NUM_VALIDATION)
        for path, part in zip(paths, (drawn[:NUM_TRAINING], drawn[NUM_TRAINING:]), strict=True):
            with replacing(path) as temporary:
                temporary.write_text("".join(map(_three_lines, chains.select(part))), "utf-8")
    return paths


def _three_lines(chain: Mapping[str, str]) -> str:
    return f">{chain['id']}\n{chain['sequence']}\n{Q3.reduce(chain['states'])}\n"


def read(path: Path) -> list[tuple[str, str]]:
    """Return sequence and states of each chain that `draw` wrote."""
    lines = path.read_text("utf-8").splitlines()
    return list(zip(lines[1::3], lines[2::3], strict=True))


# ---- the stock Trainer -----------------------------------------------------------------------------------------------


def train_stock(way: str, folder: Path, backbone: str, seed: int) -> None:
    """Train EsmForTokenClassification, and write the states of the test chains to `states.json`."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(backbone)
    model: Any = transformers.AutoModelForTokenClassification.from_pretrained(backbone, num_labels=len(Q3))
    if "LoRA" in way:
        import peft

        model = peft.get_peft_model(
            model, peft.LoraConfig(task_type="TOKEN_CLS", target_modules=["query", "key", "value"])
        )
    parts = [_encoded(tokenizer, read(folder.parent / name)) for name in ("train.txt", "validation.txt")]
    arguments = transformers.TrainingArguments(
        output_dir=str(folder / "trainer"),
        learning_rate=STOCK[way],
        num_train_epochs=STOCK_EPOCHS,
        per_device_train_batch_size=STOCK_BATCH,
        eval_strategy="epoch",
        save_strategy="epoch",
        load_best_model_at_end=True,
        save_total_limit=1,
        report_to="none",
        seed=seed,
        use_cpu=True,
        disable_tqdm=True,
        **_grouping(),
    )
    trainer = transformers.Trainer(
        model=model,
        args=arguments,
        train_dataset=parts[0],
        eval_dataset=parts[1],
        data_collator=transformers.DataCollatorForTokenClassification(tokenizer),
    )
    trainer.train()
    _write_usage(folder)  # what follows is not training
    model.eval()
    states = {name: [_states(model, tokenizer, chain) for chain in _test_sequences(name)] for name in TESTS}
    (folder / "states.json").write_text(json.dumps(states), "utf-8")


def _grouping() -> dict[str, Any]:
    """Return the argument that puts chains of similar length together."""
    if "train_sampling_strategy" in transformers.TrainingArguments.__dataclass_fields__:  # from transformers 5 on
        return {"train_sampling_strategy": "group_by_length"}
    return {"group_by_length": True}


def _encoded(tokenizer: Any, chains: Iterable[tuple[str, str]]) -> list[dict[str, Any]]:
    rows = []
    for sequence, states in chains:
        row = dict(tokenizer(sequence))
        labels = Q3.encode(states).tolist()
        row["labels"] = [-100, *labels, -100]
        rows.append(row)
    return rows


def _states(model: Any, tokenizer: Any, sequence: str) -> str:
    with torch.no_grad():
        logits = model(**tokenizer(sequence, return_tensors="pt")).logits
    return Q3.decode(logits[0, 1:-1].argmax(-1).numpy())


def _test_sequences(name: str) -> list[str]:
    return load_corpus(name, split="test")["sequence"][:]


# ---- measuring -------------------------------------------------------------------------------------------------------


def measure(way: str, args: argparse.Namespace, seed: int) -> dict[str, float]:
    """Train and score a way with a seed, or read what was measured before.

    Returns:
        `cpu_seconds`, `seconds`, `peak_mib`, and Q3 by test set [%].
    """
    chains = args.out / f"seed_{seed}"
    training, validation = draw(args.corpus, seed, chains)
    folder = chains / f"{Path(args.backbone).name} {way}".replace(" ", "_").replace(",", "")
    if (folder / RESULT).is_file():
        return json.loads((folder / RESULT).read_text("utf-8"))
    folder.mkdir(exist_ok=True)
    if way in OURS:
        command = [*LIFT_SS, "train", training, "--validation", validation]
        command += ["--tests", "none", "--backbone", args.backbone, "--seed", seed, *OURS[way], "-o", folder / "run"]
    else:
        command = [sys.executable, __file__, "--stock", way, folder, "--backbone", args.backbone, "--seeds", seed]
    usage = _run_alone([str(word) for word in command], folder)
    if way in OURS:
        evaluate = [*LIFT_SS, "evaluate", folder / "run" / "model", "--tests"]
        _run_alone([str(word) for word in [*evaluate, *TESTS, "--bootstrap", "0", "-o", folder / "scores"]], folder)
        corpora = json.loads((folder / "scores" / "metrics.json").read_text("utf-8"))["corpora"]
        scores = {name: 100 * corpora[name]["scores"]["q3"]["q3"] for name in TESTS}
    else:
        usage = json.loads((folder / "usage.json").read_text("utf-8")) | {"seconds": usage["seconds"]}
        states = json.loads((folder / "states.json").read_text("utf-8"))
        scores = {name: 100 * _q3(name, states[name]) for name in TESTS}
    result = usage | scores
    with replacing(folder / RESULT) as temporary:
        temporary.write_text(json.dumps(result), "utf-8")
    return result


def _q3(name: str, states: Sequence[str]) -> float:
    references = load_corpus(name, split="test")["states"][:]
    return score(references=references, predictions=list(states), states="q3")["q3"]


def _run_alone(command: Sequence[str], folder: Path) -> dict[str, float]:
    """Run a command on one thread; return its CPU time, its wall time and the largest resident memory.

    Raises:
        RuntimeError: if it fails; its output is in `log.txt`.
    """
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    started = time.monotonic()
    with (folder / "log.txt").open("a") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command[:4])} ... failed: see {folder / 'log.txt'}")
    return {
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "seconds": time.monotonic() - started,
        "peak_mib": usage.ru_maxrss / 1024,
    }


def _write_usage(folder: Path) -> None:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    content = {"cpu_seconds": usage.ru_utime + usage.ru_stime, "peak_mib": usage.ru_maxrss / 1024}
    (folder / "usage.json").write_text(json.dumps(content), "utf-8")


def table(results: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """Return a Markdown table with a row for each way: means over the seeds, and their standard deviation."""
    lines = [
        f"| way | CPU seconds | peak [MiB] | {' | '.join(f'Q3 {name}' for name in TESTS)} |",
        "| --- | ---: | ---: |" + " ---: |" * len(TESTS),
    ]
    for way, runs in results.items():
        cells = [f"{statistics.mean(run['cpu_seconds'] for run in runs):,.0f}"]
        cells.append(f"{max(run['peak_mib'] for run in runs):,.0f}")
        for name in TESTS:
            values = [run[name] for run in runs]
            spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.2f}{spread}")
        lines.append(f"| {way} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure all ways, seed by seed, and print the table after each seed."""
    args = parse()
    if args.stock:
        return train_stock(args.stock[0], Path(args.stock[1]), args.backbone, args.seeds[0])
    unknown = [way for way in args.ways if way not in (*OURS, *STOCK)]
    if unknown:
        raise ValueError(f"unknown way {unknown[0]!r}. Choose one of: {'; '.join([*OURS, *STOCK])}.")
    results: dict[str, list[dict[str, float]]] = {way: [] for way in args.ways}
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    for seed in args.seeds:
        for way in args.ways:
            results[way].append(measure(way, args, seed))
            print(f"seed {seed}, {way}: {results[way][-1]}", file=sys.stderr)
        print(f"\n{args.backbone}, {len(results[args.ways[0]])} seeds; {origin(versions, '1 thread')}\n")
        print(table(results))


if __name__ == "__main__":
    run(main)
