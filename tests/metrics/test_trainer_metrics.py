"""The Trainer's metrics: padded arrays, logits or labels, from one process or two."""

import json
import textwrap
from types import SimpleNamespace

import numpy as np
import pytest
from forked_runs import run_forked

from lift_ss_hf.metrics.scoring import score
from lift_ss_hf.metrics.trainer_metrics import compute_metrics
from lift_ss_hf.models.states import Q9

CLS, EOS, PAD, RESIDUE = 0, 2, 1, 5
SPECIAL = [CLS, EOS, PAD]
REFERENCES = ["HHHXXXLLL", "LEEEL", "XHHP"]
PREDICTIONS = ["HHHHHHLHL", "LEELL", "HHHL"]


def padded(predictions=PREDICTIONS):
    """The Trainer's arrays for REFERENCES: <cls>, residues, <eos>, padding; the model speaks on all of them."""
    rows = len(REFERENCES)
    labels, tokens = np.full((rows, 12), -100), np.full((rows, 12), PAD)
    logits = np.random.default_rng(0).normal(size=(rows, 12, 9)).astype(np.float32)
    for row, (reference, prediction) in enumerate(zip(REFERENCES, predictions, strict=True)):
        end = len(reference) + 1
        labels[row, 1:end] = Q9.encode(reference)
        logits[row, 1:end] = 8 * np.eye(9)[Q9.encode(prediction)]
        tokens[row, : end + 1] = [CLS, *[RESIDUE] * len(reference), EOS]
    return SimpleNamespace(label_ids=labels, predictions=logits, inputs=tokens)


@pytest.mark.parametrize("states", ["q9", "q8", "q3", "q3_lift_ss"])
@pytest.mark.parametrize("as_labels", [False, True], ids=["logits", "labels"])
def test_padded_arrays_score_as_the_strings(states, as_labels):
    gathered = padded()
    if as_labels:
        gathered.predictions = gathered.predictions.argmax(-1)
    result = compute_metrics(states, "q9", also=["q8", "q3"] if states == "q9" else ())(gathered)
    expected = score(references=REFERENCES, predictions=PREDICTIONS, states=states, mode="masked")
    assert result[states] == pytest.approx(expected[states])
    assert result["sov99_masked"] == pytest.approx(expected["sov99"])
    assert result["sov_refine_masked"] == pytest.approx(expected["sov_refine"])
    assert result["macro_f1"] == pytest.approx(expected["macro_f1"])
    assert result["num_residues"] == expected["num_residues"] == 14
    if states == "q9":
        assert result["q3"] == score(references=REFERENCES, predictions=PREDICTIONS, states="q3")["q3"]
    # A log takes numbers only.
    assert all(type(value) in (int, float) for value in result.values())


def test_the_compatible_mode_tells_unresolved_residues_from_padding():
    result = compute_metrics("q9", mode="compatible", special_token_ids=SPECIAL)(padded())
    expected = score(references=REFERENCES, predictions=PREDICTIONS, states="q9", mode="compatible")
    assert result["sov99"] == pytest.approx(expected["sov99"])
    assert result["sov_refine"] == pytest.approx(expected["sov_refine"])
    assert "sov99_masked" not in result
    assert (
        expected["sov99"] != score(references=REFERENCES, predictions=PREDICTIONS, states="q9", mode="masked")["sov99"]
    )  # so the test can fail


def test_logits_of_finer_states_are_summed_as_probabilities():
    # L, S and T hold 0.6 of the probability and none of them wins alone.
    logits = np.log(np.array([[[0.2, 1e-9, 1e-9, 1e-9, 1e-9, 0.4, 0.2, 0.2, 1e-9]]]))
    gathered = SimpleNamespace(label_ids=np.array([[0]]), predictions=logits)
    assert compute_metrics("q3", "q9")(gathered)["q3"] == 1.0
    result = compute_metrics("q9", also=["q8", "q3"])(gathered)
    assert (result["q9"], result["q8"], result["q3"]) == (0.0, 0.0, 1.0)


def test_a_model_that_gives_more_than_logits():
    gathered = padded()
    expected = compute_metrics()(gathered)
    gathered.predictions = (gathered.predictions, np.zeros((3, 12, 4)))
    assert compute_metrics()(gathered) == expected


def test_accuracies_leave_out_what_has_no_label():
    labels = np.array([[0, 5, -100], [8, -100, -100]])
    gathered = SimpleNamespace(label_ids=labels, predictions=np.array([[0, 3, 7], [0, 1, 1]]))
    result = compute_metrics("q9", also=["q8", "q3"])(gathered)
    assert (result["q9"], result["q8"], result["q3"]) == pytest.approx((1 / 3, 2 / 3, 1.0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"predictions": np.zeros((3, 12, 8))},
            r"predictions \(3, 12, 8\). Expected the same shape, or one more axis",
        ),
        ({"predictions": np.full((3, 12, 9), np.nan)}, r"logits of 14 of 14 residues are NaN\. Did training diverge"),
        ({"predictions": np.full((3, 12), 9)}, r"label 9 is outside q9 \(0 to 8 for LBEGIHSTP"),
        ({"label_ids": np.full((3, 12), -100)}, "no labelled residue in 3 chain"),
        ({"predictions": np.full((3, 12), -100)}, "predictions, chain 1: no state"),
    ],
)
def test_bad_arrays_are_one_clear_line(change, message):
    gathered = padded()
    vars(gathered).update(change)
    with pytest.raises(ValueError, match=message):
        compute_metrics()(gathered)


def test_the_compatible_mode_asks_for_what_it_needs():
    with pytest.raises(ValueError, match=r"special_token_ids=tokenizer\.all_special_ids"):
        compute_metrics(mode="compatible")
    metrics = compute_metrics(mode="compatible", special_token_ids=SPECIAL)
    gathered = padded()
    gathered.inputs = None
    with pytest.raises(ValueError, match="include_for_metrics"):
        metrics(gathered)
    with pytest.raises(ValueError, match="a special token has a label"):
        compute_metrics(mode="compatible", special_token_ids=[*SPECIAL, RESIDUE])(padded())


def test_an_alphabet_that_the_labels_do_not_fold_into_is_refused():
    with pytest.raises(ValueError, match="cannot be reduced to"):
        compute_metrics("q3", also=["q9"])


TRAINER_RUN = textwrap.dedent(
    """
    import json, sys
    import numpy as np, torch, transformers
    from transformers.modeling_outputs import TokenClassifierOutput
    from lift_ss_hf.metrics.scoring import score
    from lift_ss_hf.metrics.trainer_metrics import compute_metrics

    rng = np.random.default_rng(0)
    LENGTHS = [9, 3, 17, 5, 8, 21, 4]  # odd in number: two processes get unequal shares
    CHAINS = [{"input_ids": rng.integers(5, 14, n).tolist(), "labels": rng.integers(0, 9, n).tolist()} for n in LENGTHS]
    # A predicted segment runs on through unresolved residues: where the two modes differ.
    CHAINS[2]["input_ids"][:7] = [5] * 7
    CHAINS[2]["labels"][:7] = [5] * 4 + [-100] * 3

    class Tiny(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.table = torch.nn.Embedding(14, 9)
            torch.nn.init.eye_(self.table.weight[:9])
        def forward(self, input_ids, labels=None):
            logits = self.table(input_ids)
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
            return TokenClassifierOutput(loss, logits)

    def collate(chains):
        longest = max(len(chain["labels"]) for chain in chains) + 2
        rows = {"input_ids": [], "labels": []}
        for chain in chains:
            rest = longest - len(chain["labels"]) - 2
            rows["input_ids"].append([0, *chain["input_ids"], 2] + [1] * rest)
            rows["labels"].append([-100, *chain["labels"], -100] + [-100] * rest)
        return {name: torch.tensor(values) for name, values in rows.items()}

    torch.manual_seed(0)
    arguments = transformers.TrainingArguments(
        sys.argv[1], use_cpu=True, per_device_eval_batch_size=2, per_device_train_batch_size=2, num_train_epochs=1,
        eval_strategy="epoch", include_for_metrics=["inputs"], report_to=[], save_strategy="no", disable_tqdm=True,
    )
    options = {
        "masked": dict(compute_metrics=compute_metrics("q9", also=["q3"])),
        "compatible": dict(
            compute_metrics=compute_metrics("q9", mode="compatible", special_token_ids=[0, 1, 2]),
            preprocess_logits_for_metrics=lambda logits, labels: logits.argmax(-1),
        ),
    }
    results = {"ranks": arguments.world_size}
    model = Tiny()
    with torch.no_grad():
        answers = [model.table(torch.tensor(chain["input_ids"])).argmax(-1).tolist() for chain in CHAINS]
    for mode in options:
        trainer = transformers.Trainer(
            model, arguments, train_dataset=CHAINS, eval_dataset=CHAINS, data_collator=collate, **options[mode]
        )
        results[mode] = trainer.evaluate()
        references = [chain["labels"] for chain in CHAINS]
        results[mode + "_expected"] = score(references=references, predictions=answers, states="q9", mode=mode)
    trainer.train()
    results["last_log"] = trainer.state.log_history[-2]
    if trainer.is_world_process_zero():
        json.dump(results, open(sys.argv[2], "w"))
    """
)


@pytest.mark.process
def test_the_trainer_scores_what_two_processes_gather(tmp_path):
    script = tmp_path / "run.py"
    script.write_text(TRAINER_RUN)
    arguments = [str(tmp_path / "out"), str(tmp_path / "results.json")]
    finished = run_forked(arguments, tmp_path / "log", script=script, num_processes=2)
    assert finished.statuses == [0, 0], finished.stderr[-2000:]
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["ranks"] == 2
    for mode, suffix in {"masked": "_masked", "compatible": ""}.items():
        seen, expected = results[mode], results[f"{mode}_expected"]
        assert seen["eval_num_residues"] == expected["num_residues"] == 64
        for name in ("q9", "macro_f1"):
            assert seen[f"eval_{name}"] == pytest.approx(expected[name]), name
        for name in ("sov99", "sov_refine"):
            assert seen[f"eval_{name}{suffix}"] == pytest.approx(expected[name]), name
    assert results["masked_expected"]["sov99"] != results["compatible_expected"]["sov99"]
    assert {"eval_q9", "eval_sov99"} <= results["last_log"].keys()
