"""Markdown tables of results, as written to `results.md`, printed by the recipes and shown on model cards.

Every function takes plain mappings, as they are read back from `metrics.json`, and returns text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import mean, stdev
from typing import Any

from ..models.wording import counted

MISSING = "–"
ALPHABET_TITLES: Mapping[str, str] = {"q9": "Q9", "q8": "Q8", "q3": "Q3 (P→C)", "q3_lift_ss": "Q3 (P→H)"}
# The same on a model card, for readers who do not know that P is polyproline II.
ACCURACY_TITLES: Mapping[str, str] = {
    "q9": "Q9 accuracy",
    "q8": "Q8 accuracy",
    "q3": "Q3 accuracy (P is coil)",
    "q3_lift_ss": "Q3 accuracy (P is helix, as LIFT_SS)",
}
STATE_SCORES: Mapping[str, str] = {
    "recall": "recall",
    "precision": "precision",
    "f1": "F1",
    "mcc": "MCC",
    "sov99": "SOV'99",
}
F1_COLUMNS: Mapping[str, str] = {"macro_f1": "F1", "macro_f1_predicted": "F1 (LIFT_SS)"}
STANDARD_COLUMNS = "standard"
REPEATED = {"seed": "seeds", "fold": "folds"}  # settings of a sweep that a row averages over, in the plural


def percent(value: float | None, decimals: int = 1) -> str:
    """Format a fraction as a percentage, and None as a dash.

    Example:
        >>> percent(0.7734), percent(0.7734, decimals=2), percent(None)
        ('77.3', '77.34', '–')
    """
    return MISSING if value is None else f"{100 * value:.{decimals}f}"


def percent_with_interval(scores: Mapping[str, Any], name: str) -> str:
    """Format a score as a percentage, followed by its 95 % interval if there is one.

    Args:
        scores: scores by name, with the interval's bounds as `NAME_low` and `NAME_high` [fraction].
        name: the score to format.

    Returns:
        the text; a dash if the score is missing or None.

    Example:
        >>> percent_with_interval({"q3": 0.7734, "q3_low": 0.761, "q3_high": 0.784}, "q3")
        '77.3 [76.1, 78.4]'
    """
    value, low, high = (scores.get(key) for key in (name, f"{name}_low", f"{name}_high"))
    interval = "" if value is None or low is None or high is None else f" [{percent(low)}, {percent(high)}]"
    return percent(value) + interval


def results_markdown(results: Mapping[str, Any], columns: str = STANDARD_COLUMNS) -> str:
    """Return `results.md`: one table of all corpora, then for each corpus its scores and those of its states.

    Args:
        results: what `evaluate_corpora` returns, or the content of `metrics.json`.
        columns: how to lay out the scores of a corpus, a name of `SCORE_TABLES`.
    """
    measured = results["environment"]
    scored = [scores for result in results["corpora"].values() for scores in result["scores"].values()]
    has_intervals = any(name.endswith("_low") for scores in scored for name in scores)
    intervals = ", with 95 % intervals from resampling chains" if has_intervals else ""
    lines = [
        f"# Results{' of ' + results['model'] if results['model'] else ''}",
        "",
        f"Accuracies, F1 and SOV'99 (compatible mode) in percent{intervals}.",
        "",
        _corpora_table(results["corpora"]) if results["corpora"] else "No tests were given.",
        "",
        '"In training" counts the test chains whose exact sequence the model was trained on. "Majority" is the '
        'accuracy of the most frequent state of the tests, "by residue" that of the state that each amino acid has '
        "most often in training. For Q8 and Q3 the "
        "probabilities of the states that reduce to the same state are summed, and the most probable state is scored; "
        "the confusion matrix is over the model's own states. In the tables of scores, Q of a state is its recall; F1 "
        "is the mean over all states that occur, and F1 (LIFT_SS), as in the reference implementation, over those that "
        "were predicted.",
        "",
    ]
    for name, result in results["corpora"].items():
        alphabet, scores = next(iter(result["scores"].items()))
        lines += [f"## {name}: scores", "", SCORE_TABLES[columns](result["scores"]), ""]
        lines += [f"## {name}: states ({ALPHABET_TITLES[alphabet]})", "", _states_table(scores), ""]
    lines += [
        f"Measured with lift_ss_hf {measured['lift_ss_hf']} at commit {measured['commit'] or 'unknown'} on "
        f"{measured['processor']}, {counted(measured['threads'], 'thread')}"
        + "".join(f", {accelerator}" for accelerator in measured["accelerators"])
        + f": `{measured['command']}`."
    ]
    return "\n".join(lines) + "\n"


def _corpora_table(corpora: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a row for each corpus, with columns for the alphabets that any of them was scored at."""
    alphabets = [name for name in ALPHABET_TITLES if any(name in result["scores"] for result in corpora.values())]
    overlaps = [name for name in ("q8", "q3") if name in alphabets]
    coarsest = "q3" if "q3" in alphabets else alphabets[-1]
    baselines = {"majority": "majority", "residue": "by residue"}
    baselines = {key: f"{title} {coarsest.upper()[:2]}" for key, title in baselines.items()}
    baselines = {key: title for key, title in baselines.items() if any(r.get(key) for r in corpora.values())}
    header = ["corpus", "chains", "residues", *(ALPHABET_TITLES[alphabet] for alphabet in alphabets)]
    header += [f"SOV'99 ({alphabet.upper()})" for alphabet in overlaps]
    rows = []
    for name, result in corpora.items():
        scores = result["scores"]
        cells = [percent_with_interval(scores.get(alphabet, {}), alphabet) for alphabet in alphabets]
        cells += [percent_with_interval(scores.get(alphabet, {}), "sov99") for alphabet in overlaps]
        cells += [percent(result.get(key, {}).get(coarsest)) for key in baselines]
        chains, residues = f"{result['num_chains']:,}", f"{result['num_residues']:,}"
        speed = result["residues_per_second"]
        rows.append([name, chains, residues, *cells, _duplicates(result), "–" if speed is None else f"{speed:,.0f}"])
    alignment = "lrr" + "l" * (len(alphabets) + len(overlaps)) + "r" * (len(baselines) + 2)
    return markdown_table([*header, *baselines.values(), "in training", "residues/s"], rows, alignment)


def scores_table(scores_by_alphabet: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a table of all scores of a corpus to two decimals: Q and SOV'99 of each alphabet and of each state.

    Args:
        scores_by_alphabet: results of `metrics.scoring.score`.

    Example:
        >>> from lift_ss_hf.metrics.scoring import score
        >>> print(scores_table({"q3": score(references=["HHHHHHEE"], predictions=["HHHLHHEE"], states="q3")}))
        | score | all | C | E | H | F1 | F1 (LIFT_SS) |
        | --- | ---: | ---: | ---: | ---: | ---: | ---: |
        | Q3 (P→C) | 87.50 | – | 100.00 | 83.33 | 63.64 | 63.64 |
        | SOV'99 of Q3 (P→C) | 64.29 | – | 100.00 | 58.33 | – | – |
    """
    letters = list(dict.fromkeys(letter for scores in scores_by_alphabet.values() for letter in scores["letters"]))
    rows = []
    for alphabet, scores in scores_by_alphabet.items():
        for title, score, by_state, others in (
            (ALPHABET_TITLES[alphabet], alphabet, "recall", F1_COLUMNS),
            (f"SOV'99 of {ALPHABET_TITLES[alphabet]}", "sov99", "sov99", (None, None)),
        ):
            keys = [score, *(f"{by_state}_{letter}" for letter in letters), *others]
            rows.append([title, *(percent(scores.get(str(key)), decimals=2) for key in keys)])
    return markdown_table(["score", "all", *letters, *F1_COLUMNS.values()], rows, "l" + "r" * (len(letters) + 3))


def lift_ss_tables(scores_by_alphabet: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a table for each alphabet with the columns and the order of the reference implementation.

    Its order is that of the labels for Q, and that of the letters for SOV. For a state that does not occur it prints a
    Q of 0.00 and no SOV; here both are a dash.

    Args:
        scores_by_alphabet: results of `metrics.scoring.score`.

    Example:
        >>> from lift_ss_hf.metrics.scoring import score
        >>> print(lift_ss_tables({"q3_lift_ss": score(references=["HHEE"], predictions=["HHEL"], states="q3_lift_ss")}))
        Q3 (P→H):
        <BLANKLINE>
        | Q_C | Q_E | Q_H | Q3 | F1-Score | SOV_C | SOV_E | SOV_H | SOV |
        | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
        | – | 50.00 | 100.00 | 75.00 | 55.56 | – | 50.00 | 100.00 | 75.00 |
    """
    tables = []
    for alphabet, scores in scores_by_alphabet.items():
        keys = {f"Q_{letter}": f"recall_{letter}" for letter in scores["letters"]}
        keys |= {alphabet[:2].upper(): alphabet, "F1-Score": "macro_f1_predicted"}
        keys |= {f"SOV_{letter}": f"sov99_{letter}" for letter in sorted(scores["letters"])} | {"SOV": "sov99"}
        row = [percent(scores[key], decimals=2) for key in keys.values()]
        tables.append(f"{ALPHABET_TITLES[alphabet]}:\n\n{markdown_table(list(keys), [row], 'r' * len(row))}")
    return "\n\n".join(tables)


# How `results.md` lays out the scores of a corpus, by the name that `--columns` takes.
SCORE_TABLES: Mapping[str, Callable[[Mapping[str, Mapping[str, Any]]], str]] = {
    STANDARD_COLUMNS: scores_table,
    "lift_ss": lift_ss_tables,
}


def _states_table(scores: Mapping[str, Any]) -> str:
    rows = []
    for state, counts in zip(scores["letters"], scores["confusion_matrix"], strict=True):
        rows.append([state, f"{sum(counts):,}", *(percent(scores[f"{name}_{state}"]) for name in STATE_SCORES)])
    return markdown_table(["state", "residues", *STATE_SCORES.values()], rows, "lrrrrrr")


def card_markdown(corpora: Mapping[str, Mapping[str, Any]], public_name: Callable[[str], str] = str) -> str:
    """Return the results table of a model card: a row for each corpus, a column for each alphabet that was scored.

    Args:
        corpora: `metrics.json`'s results by corpus.
        public_name: turns a corpus, which may be a path, into the name to show.

    Example:
        >>> scores = {"q8": {"q8": 0.61, "sov99": 0.55}}
        >>> result = {"split": "test", "num_chains": 47, "duplicates_in_training": 0, "scores": scores}
        >>> print(card_markdown({"casp12": result}))
        | corpus | split | chains | Q8 accuracy | SOV'99 (q8) | in training |
        | --- | --- | ---: | --- | --- | ---: |
        | casp12 | test | 47 | 61.0 | 55.0 | 0 |
    """
    alphabets = [name for name in ACCURACY_TITLES if any(name in result["scores"] for result in corpora.values())]
    titles = [*(ACCURACY_TITLES[name] for name in alphabets), *(f"SOV'99 ({name})" for name in alphabets)]
    rows = []
    for corpus, result in corpora.items():
        scores = [result["scores"].get(alphabet, {}) for alphabet in alphabets]
        cells = [percent_with_interval(found, name) for found, name in zip(scores, alphabets, strict=True)]
        cells += [percent_with_interval(found, "sov99") for found in scores]
        rows.append([public_name(corpus), result["split"], f"{result['num_chains']:,}", *cells, _duplicates(result)])
    header = ["corpus", "split", "chains", *titles, "in training"]
    return markdown_table(header, rows, "llr" + "l" * len(titles) + "r")


def learnt_markdown(learnt: Mapping[str, Mapping[str, float]], validation: Mapping[str, int]) -> str:
    """Return the section that compares a trained model with constant predictions and with the untrained model.

    Args:
        learnt: validation accuracies `majority`, `residue`, `untrained` and `trained` [fraction] by alphabet.
        validation: number of validation chains, `num_chains`, and of those that are training chains too,
            `duplicates_in_training`.

    Example:
        >>> learnt = {"q9": {"majority": 0.31, "residue": 0.34, "untrained": 0.12, "trained": 0.58}}
        >>> print(learnt_markdown(learnt, {"num_chains": 512, "duplicates_in_training": 3}))
        ## What was learnt (validation chains)
        <BLANKLINE>
        | accuracy | most common state | most common state of the residue | before training | after training |
        | --- | ---: | ---: | ---: | ---: |
        | Q9 | 31.0 | 34.0 | 12.0 | 58.0 |
        <BLANKLINE>
        In training: 3 of the 512 validation chains.
        <BLANKLINE>
    """
    columns = {
        "majority": "most common state",
        "residue": "most common state of the residue",
        "untrained": "before training",
        "trained": "after training",
    }
    rows = [
        [ALPHABET_TITLES[alphabet], *(percent(row.get(kind)) for kind in columns)] for alphabet, row in learnt.items()
    ]
    table = markdown_table(["accuracy", *columns.values()], rows, "lrrrr")
    leaked = f"In training: {_duplicates(validation)} of the {validation['num_chains']:,} validation chains."
    return f"## What was learnt (validation chains)\n\n{table}\n\n{leaked}\n"


def splits_markdown(splits: Sequence[Mapping[str, Any]]) -> str:
    """Return the section on the parts of a run's chains, and what they share.

    Args:
        splits: for each part its `name`, `origin`, numbers of `chains` and `residues`, and of its chains whose exact
            sequence is `in_train` or `in_validation`, None where that is not asked.

    Example:
        >>> train = {"name": "train", "origin": "mine.txt", "chains": 80, "residues": 9000}
        >>> print(splits_markdown([train | {"in_train": None, "in_validation": None}]))
        ## Chains
        <BLANKLINE>
        | part | chains | residues | in training | in validation | origin |
        | --- | ---: | ---: | ---: | ---: | --- |
        | train | 80 | 9,000 | – | – | mine.txt |
        <BLANKLINE>
    """
    rows = [
        [part["name"], f"{part['chains']:,}", f"{part['residues']:,}"]
        + [MISSING if part[key] is None else f"{part[key]:,}" for key in ("in_train", "in_validation")]
        + [part["origin"]]
        for part in splits
    ]
    header = ["part", "chains", "residues", "in training", "in validation", "origin"]
    return f"## Chains\n\n{markdown_table(header, rows, 'lrrrrl')}\n"


def sweep_markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the table of a sweep: a row for each point, with mean and standard deviation over its seeds and folds.

    Args:
        rows: for each run its settings and, under `scores`, accuracies [fraction] by corpus and alphabet; the corpora
            may differ.

    Example:
        >>> runs = [{"adapter": "lora", "seed": 0, "scores": {"casp12": {"q9": 0.61, "q3": 0.78}}}]
        >>> runs.append({"adapter": "lora", "seed": 1, "scores": {"casp12": {"q9": 0.63, "q3": 0.78}}})
        >>> print(sweep_markdown(runs))
        # Sweep
        <BLANKLINE>
        Accuracies in percent, mean ± standard deviation over seeds.
        <BLANKLINE>
        | adapter | runs | casp12 q9, q3 |
        | --- | --- | --- |
        | lora | 2 | 62.0 ± 1.4, 78.0 ± 0.0 |
        <BLANKLINE>
    """
    keys = [key for key in dict.fromkeys(key for row in rows for key in row) if key not in (*REPEATED, "scores")]
    points: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for row in rows:  # by their text: a setting may be a list or a mapping
        points.setdefault(tuple(str(row.get(key, MISSING)) for key in keys), []).append(row["scores"])
    corpora = dict.fromkeys(corpus for row in rows for corpus in row["scores"])
    shown = {corpus: _shown_alphabets(row["scores"].get(corpus, {}) for row in rows) for corpus in corpora}
    header = [*keys, "runs", *(f"{corpus} {', '.join(alphabets)}" for corpus, alphabets in shown.items())]
    table = [
        [*settings, str(len(runs))]
        + [", ".join(_accuracies(runs, corpus, name) for name in alphabets) for corpus, alphabets in shown.items()]
        for settings, runs in points.items()
    ]
    repeated = " and ".join(words for name, words in REPEATED.items() if any(name in row for row in rows))
    spread = f", mean ± standard deviation over {repeated}" if repeated else ""
    text = f"Accuracies in percent{spread}." if corpora else "No tests were given."
    return f"# Sweep\n\n{text}\n\n{markdown_table(header, table)}\n"


def _shown_alphabets(scores: Iterable[Mapping[str, float]]) -> list[str]:
    """Return the finest alphabet of each run, and Q3, as far as the runs were scored at them."""
    shown = {name for found in scores for name in (next(iter(found), ""), "q3") if name in found}
    return [name for name in ALPHABET_TITLES if name in shown]


def _accuracies(runs: Sequence[Mapping[str, Any]], corpus: str, alphabet: str) -> str:
    values = [run.get(corpus, {}).get(alphabet) for run in runs]
    return mean_and_spread([100 * value for value in values if value is not None], digits=1)


def mean_and_spread(values: Sequence[float], digits: int) -> str:
    """Format the mean of values, and their standard deviation if there are several.

    Example:
        >>> mean_and_spread([1, 2, 3], digits=1), mean_and_spread([1234.56], digits=0), mean_and_spread([], digits=1)
        ('2.0 ± 1.0', '1,235', '–')
    """
    if not values:
        return MISSING
    return f"{mean(values):,.{digits}f}" + (f" ± {stdev(values):,.{digits}f}" if len(values) > 1 else "")


def estimate_markdown(
    parameters: Mapping[str, Mapping[str, int]],
    memory: Mapping[str, Mapping[str, int]],
    num_processes: int,
    on_cpu: int,
    cached: int = 0,
) -> str:
    """Return two tables: the parameters of each part, and the memory of each device for each way to launch.

    Args:
        parameters: `trained` and `frozen` parameters by part, as `parameter_summary()` returns them.
        memory: for each way to launch (`DDP`, `ZeRO-1`, ...) the size of each part and of the `total` [bytes].
        num_processes: number of devices.
        on_cpu: resident memory of a process that trains on a CPU instead [bytes].
        cached: size of the prefix cache, 0 without one [bytes per residue].
    """
    counts = [[part, f"{n['trained']:,}", f"{n['frozen']:,}"] for part, n in parameters.items()]
    sizes = [[launch, *(f"{size / 1e9:.2f}" for size in parts.values())] for launch, parts in memory.items()]
    lines = [
        markdown_table(["part", "trained", "frozen"], counts, "lrr"),
        "",
        f"Memory of {f'each of {num_processes} devices' if num_processes > 1 else 'one device'} [GB]:",
        "",
        markdown_table(["", *next(iter(memory.values()))], sizes, "lrrrrr"),
        "",
        "Not counted: memory used by libraries and the device itself (about 0.5 to 1 GB on a GPU), and short-lived "
        "tensors within an operation.",
        "",
        f"On a CPU: {on_cpu / 1e9:.2f} GB of resident memory for each process, with all of that.",
    ]
    if cached:
        lines[-1] += (
            f" The prefix cache, {cached * 1e6 / 1e9:.2f} GB for a million residues, is mapped from the disk: what is "
            "read of it shows as resident too, but the system drops it where memory is needed."
        )
    return "\n".join(lines)


def _duplicates(result: Mapping[str, Any]) -> str:
    duplicates = result["duplicates_in_training"]
    return "not known" if duplicates is None else str(duplicates)


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]], alignment: str = "") -> str:
    """Lay out a Markdown table; `alignment` has one letter for each column, l or r, and is all l by default."""
    rules = ["---:" if side == "r" else "---" for side in alignment or "l" * len(header)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, rules, *rows))
