"""The main job, run on a tiny backbone: it learns, is reproducible, resumes, and reports invalid arguments early."""

import dataclasses
import json
import re
import resource
import shutil
import subprocess
from pathlib import Path

import datasets
import pytest
import torch
from corpus_files import write_three_line
from forked_runs import train_forked
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file
from small_runs import flags, launch, make_chains, state_of, train, write_data

from lift_ss_hf.batches.collator import ChainCollator, TokenBudgetBatches
from lift_ss_hf.batches.labelled_chains import LabelledChains
from lift_ss_hf.batches.prefix_store import DATA_FILE
from lift_ss_hf.corpora.chains import Chain, CorpusError
from lift_ss_hf.models.modeling import SecondaryStructureModel
from lift_ss_hf.models.tokenization import ResidueTokenizer
from lift_ss_hf.reports.model_card import make_card
from lift_ss_hf.reports.provenance import count_duplicates, load_training_chains
from lift_ss_hf.training.arguments import CorpusArguments, ModelArguments, RecipeTrainingArguments
from lift_ss_hf.training.checkpoints import last_checkpoint
from lift_ss_hf.training.corpora import load_training_corpora
from lift_ss_hf.training.job import build_trainer, run_training
from lift_ss_hf.training.recipes import RecipeError, parse_recipe


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data"))


MASKED = ("--mask_fraction", "0.05")


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "first"
    return out, train(data, out, *MASKED, "--columns", "lift_ss")


def scores(results):
    return {name: levels["scores"]["q9"]["q9"] for name, levels in results["corpora"].items()} | results["learnt"]["q9"]


def test_it_learns_more_than_the_most_frequent_state_and_the_untrained_model(run):
    _, results = run
    learnt = results["learnt"]["q9"]
    assert learnt["trained"] > learnt["majority"] + 0.05
    assert learnt["trained"] > learnt["untrained"]


def test_scores_from_the_prefix_cache_are_those_without(data, tmp_path):
    short = ("--num_train_epochs", "2", "--prefix_cache", str(tmp_path / "cache"))
    without = train(data, tmp_path / "without", *short)
    cached = train(data, tmp_path / "with", *short, "--prefix_cache_tests", "--test_figures", "False")
    # one store, for training and scoring alike, with all chains of the run
    chains = [chain for number, seed in ((48, 0), (10, 1), (10, 2)) for chain in make_chains(number, seed)]
    written = sum(path.stat().st_size for path in tmp_path.glob(f"cache/*/*/{DATA_FILE}"))
    assert written == 2 * 32 * sum(len(chain.sequence) + 2 for chain in chains)
    assert scores(cached) == pytest.approx(scores(without), abs=0.005)  # of 1,100 residues a few may differ
    assert (tmp_path / "without" / "figures").is_dir()
    assert not [*(tmp_path / "with" / "figures").glob("*confusion*")]


def test_fp16_is_refused_over_a_backbone_that_overflows_in_it(tmp_path):
    data = write_data(tmp_path, "t5")
    classes = (ModelArguments, CorpusArguments, RecipeTrainingArguments)
    *others, training = parse_recipe(classes, "", flags(data, tmp_path / "run"))
    training.fp16 = True  # which cannot be asked for without a GPU
    with pytest.raises(ValueError, match=r"t5 backbones overflow in float16.*Use bfloat16, or float32"):
        run_training(*others, training)
    assert not (tmp_path / "run").exists()


def test_the_best_epoch_by_validation_accuracy_is_kept(run):
    out, results = run
    history = [
        json.loads(path.read_text())["log_history"] for path in sorted(out.glob("checkpoint-*/trainer_state.json"))
    ]
    best = max((entry for entries in history for entry in entries if "eval_q9" in entry), key=lambda e: e["eval_q9"])
    for level in ("q9", "q8", "q3"):  # the log and the results agree
        assert results["learnt"][level]["trained"] == pytest.approx(best[f"eval_{level}"], abs=1e-9)


def test_the_run_directory_holds_everything(run, data):
    out, results = run
    for name in ("recipe.yaml", "environment.json", "corpora.json", "metrics.json", "results.md"):
        assert (out / name).stat().st_size > 0
    assert len(list((out / "figures").glob("*.png"))) == 5
    assert json.loads((out / "metrics.json").read_text())["learnt"] == results["learnt"]
    corpora = json.loads((out / "corpora.json").read_text())
    assert (corpora["train"]["chains"], corpora["validation"]["chains"]) == (48, 10)
    assert len(corpora["train"]["sha256_of_sequences_and_states"]) == 64
    assert not list((out / "model").glob("*.bin"))  # no pickle beside a model
    assert "What was learnt" in (out / "results.md").read_text()
    assert "| Q_L | Q_B | Q_E |" in (out / "results.md").read_text()
    assert results["validation"] == {"num_chains": 10, "duplicates_in_training": 0}
    assert "In training: 0 of the 10 validation chains." in (out / "results.md").read_text()


def test_the_card_says_what_was_measured_and_nothing_of_this_machine(run, data):
    out, results = run
    card = ModelCard.load(out / "model" / "README.md")
    ((name, result),) = results["corpora"].items()
    measured = {(r.dataset_name, r.metric_name): r.metric_value for r in card.data.eval_results}
    assert measured[Path(name).name, "Q9 accuracy"] == result["scores"]["q9"]["q9"]
    assert measured[Path(name).name, "Q3 accuracy (P is coil)"] == result["scores"]["q3"]["q3"]
    assert len(measured) == 2 * len(result["scores"])
    text = str(card)
    assert "; 0 of the chains are in training" in text
    corpora = json.loads((out / "corpora.json").read_text())
    assert corpora["train"]["sha256_of_sequences_and_states"] in text
    assert str(data) not in text
    assert "| 0 |" in text  # number of test chains in the training set
    assert "- loss: cross_entropy; 5 % of the residues masked" in text


def test_the_card_says_which_blocks_the_head_sees(run, tmp_path):
    copy = shutil.copytree(run[0], tmp_path / "run")
    config = json.loads((copy / "model" / "config.json").read_text())
    (copy / "model" / "config.json").write_text(json.dumps(config | {"block_mix": "concat"}))
    assert "and the linear head over all blocks' outputs side by side, trained" in str(make_card(copy))


def test_the_card_of_a_run_without_a_validation_corpus_says_that_chains_were_held_out(run, tmp_path):
    copy = shutil.copytree(run[0], tmp_path / "run")
    recipe = (copy / "recipe.yaml").read_text()
    (copy / "recipe.yaml").write_text(re.sub(r"(?m)^validation:\n- .*$", "validation:\n- split", recipe))
    metrics = json.loads((copy / "metrics.json").read_text())
    metrics["splits"][1]["origin"] = "held out by identity, from /home/me/train.txt"
    (copy / "metrics.json").write_text(json.dumps(metrics))
    text = str(make_card(copy))
    assert "validation: held out by identity, from train.txt: 10 chains" in text
    assert "- split" not in text


def test_the_model_reloads_and_knows_what_it_was_trained_on(run, data):
    out, _ = run
    model = SecondaryStructureModel.from_pretrained(out / "model")
    tokenizer = ResidueTokenizer.from_pretrained(out / "model")
    sequence = "AEELKKMGGPPVVIIYY"
    with torch.no_grad():
        logits = model(torch.from_numpy(tokenizer.encode_sequence(sequence))[None]).logits[0, tokenizer.residue_slice()]
    assert logits.shape == (len(sequence), 9)
    known = load_training_chains(out / "model")
    train_sequences = [chain.sequence for chain in make_chains(48, 0)]
    assert count_duplicates(known, [*train_sequences, sequence]) == 48
    assert count_duplicates(None, [sequence]) is None


def test_the_report_counts_chains_that_were_trained_on(data, tmp_path):
    write_three_line([*make_chains(3, 0), *make_chains(2, 2)], tmp_path / "leaky.txt")
    results = train(data, tmp_path / "run", "--num_train_epochs", "1", "--tests", str(tmp_path / "leaky.txt"))
    assert [result["duplicates_in_training"] for result in results["corpora"].values()] == [3]


def test_one_seed_gives_one_result(run, data, tmp_path):
    assert scores(train(data, tmp_path / "again", *MASKED)) == scores(run[1])


LAST = ("--resume_from_checkpoint", "last")
EVERY_7_STEPS = ("--eval_strategy", "steps", "--eval_steps", "7", "--save_strategy", "steps", "--save_steps", "7")


def test_a_schedule_that_ends_between_evaluations_is_evaluated_at_its_end(data, tmp_path):
    out = tmp_path / "run"
    steps = (*EVERY_7_STEPS, "--max_steps", "17", "--early_stopping_patience", "0")
    results = train(data, out, *steps)
    evaluations = [entry for entry in state_of(out)["log_history"] if "eval_q9" in entry]
    assert [entry["step"] for entry in evaluations] == [7, 14, 17]
    # killed after its training, it is resumed: no step is added, and the scores are the same
    shutil.rmtree(out / "model")
    assert scores(train(data, out, *steps, *LAST)) == scores(results)
    assert last_checkpoint(out).name == "checkpoint-17"
    longer = (*EVERY_7_STEPS, "--max_steps", "18", "--early_stopping_patience", "0")
    train(data, out, *longer, *LAST)
    assert last_checkpoint(out).name == "checkpoint-18"


def test_early_stopping_continues_its_count_in_a_resumed_run(data, tmp_path):
    out = tmp_path / "run"
    flat = ("--learning_rate", "1e-9", "--early_stopping_patience", "2", "--save_total_limit", "9")  # none is better
    results = train(data, out, *flat)
    stopped = last_checkpoint(out)
    assert [entry["epoch"] for entry in state_of(out)["log_history"] if "eval_q9" in entry] == [1, 2, 3]
    assert scores(train(data, out, *flat, *LAST)) == scores(results)
    assert last_checkpoint(out) == stopped
    shutil.rmtree(stopped)  # as if it had been killed one epoch earlier
    assert scores(train(data, out, *flat, *LAST)) == scores(results)
    assert last_checkpoint(out) == stopped


def test_a_run_that_replaces_another_takes_nothing_from_it(data, tmp_path):
    out = tmp_path / "run"
    train(data, out, "--states", "q3", "--num_train_epochs", "3", "--keep_states", "True")
    former = last_checkpoint(out)
    assert list(out.glob("predicted/*"))
    again = ("--seed", "5", "--num_train_epochs", "1", "--overwrite_output_dir", "True")
    results = train(data, out, *again)
    assert not former.exists() and not (out / "predicted").exists()
    assert results["learnt"] == train(data, tmp_path / "new", *again)["learnt"]


@pytest.mark.process
@pytest.mark.slow
def test_a_real_launch_of_two_processes_trains_as_one_with_twice_the_batch_and_says_everything_once(data, tmp_path):
    # into a second epoch, with its own partners and masks
    short = ("--max_steps", "5", "--learning_rate", "1e-2", "--mask_fraction", "0.2")
    one, two = tmp_path / "one", tmp_path / "two"
    done = subprocess.run(launch("cpu_ddp", data, two, *short), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("evaluating on") == 1
    assert done.stderr.count("training chains in") == 1
    assert done.stdout.count("# Results of two") == done.stdout.count("Everything is in") == 1
    measured = [entry for entry in state_of(two)["log_history"] if "eval_num_residues" in entry]
    assert measured[0]["step"] == -(-len(TokenBudgetBatches([0] * 48, training_lengths(), 512)) // 2)  # an epoch
    assert measured[0]["eval_num_residues"] == sum(len(chain.states) - 1 for chain in make_chains(10, 1))
    (result,) = json.loads((two / "metrics.json").read_text())["corpora"].values()
    assert result["num_chains"] == 10
    train(data, one, *short, "--gradient_accumulation_steps", "2")
    found, expected = (load_file(folder / "model" / "model.safetensors") for folder in (two, one))
    for name, weights in expected.items():
        torch.testing.assert_close(found[name], weights, atol=1e-6, rtol=0)


def training_lengths():
    return [len(chain.sequence) + 2 for chain in make_chains(48, 0)]


def limit_file_size(rank):
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))


@pytest.mark.process
@pytest.mark.slow
def test_a_full_disk_leaves_the_last_checkpoint_whole(data, tmp_path):
    """A limit on the size of files stands in for a full disk: small files fit, a checkpoint does not."""
    wide, out = ("--head", "lift_ss", "--head_channels", "32"), tmp_path / "run"
    train(data, out, *wide, "--num_train_epochs", "2", "--learning_rate", "1e-3")
    whole = last_checkpoint(out)
    assert (whole / "model.safetensors").stat().st_size > 60_000
    before = {path: path.read_bytes() for path in whole.iterdir()}
    more = (*wide, "--learning_rate", "1e-3", "--resume_from_checkpoint", "last", "--num_train_epochs", "3")
    full = train_forked(data, out, *more, patch=limit_file_size)
    assert full.statuses == [2], full.stderr
    assert "Traceback" not in full.stderr
    assert "no space to write a checkpoint" in full.stderr.splitlines()[-1]
    assert f"{whole.name} is complete: free space, then resume with --resume" in full.stderr.splitlines()[-1]
    assert {path: path.read_bytes() for path in whole.iterdir()} == before
    results = train(data, out, *more)  # now there is space
    assert results["learnt"]["q9"]["trained"] > 0
    assert int(last_checkpoint(out).name.split("-")[1]) > int(whole.name.split("-")[1])


def test_an_incomplete_checkpoint_is_skipped(run, tmp_path, caplog):
    out = tmp_path / "copy"
    shutil.copytree(run[0], out)
    newest = last_checkpoint(out)
    for name, content in [
        ("trainer_state.json", b'{"global_st'),
        ("model.safetensors", (newest / "model.safetensors").read_bytes()[:-9]),
        ("optimizer.pt", (newest / "optimizer.pt").read_bytes()[:-99]),
    ]:
        original = (newest / name).read_bytes()
        (newest / name).write_bytes(content)
        caplog.clear()
        older = last_checkpoint(out)
        assert older is not None and older.name != newest.name
        assert f"{newest} is incomplete" in caplog.text
        assert name in caplog.text
        (newest / name).write_bytes(original)
    assert last_checkpoint(out) == newest


def test_accumulation_weighs_residues_not_batches(data, tmp_path):
    """One step over all chains equals one step over the same chains in uneven parts."""
    weights = []
    for max_tokens, parts in ((4096, 1), (200, None)):
        torch.manual_seed(0)
        model = SecondaryStructureModel.from_backbone(
            data / "backbone", top_blocks=2, head="linear", loss="cross_entropy"
        )
        tokenizer = ResidueTokenizer.from_pretrained(data / "backbone")
        rows = [chain.row() for chain in make_chains(12, 3)]
        rows[0]["states"] = "X" * len(rows[0]["states"])  # a chain without weight
        chains = LabelledChains(datasets.Dataset.from_list(rows), tokenizer, "q9")
        arguments = RecipeTrainingArguments(
            output_dir=str(tmp_path), max_tokens_per_batch=max_tokens, max_steps=1, learning_rate=0.1, optim="sgd",
            eval_strategy="no", save_strategy="no", load_best_model_at_end=False, report_to="none", disable_tqdm=True,
        )  # fmt: skip
        trainer = build_trainer(model, tokenizer, chains, chains, arguments, num_states=9)
        trainer.args.gradient_accumulation_steps = parts or len(trainer.train_dataset)
        assert (len(trainer.train_dataset) > 2) == (parts is None)
        trainer.train()
        weights.append({name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad})
    for name, whole in weights[0].items():
        assert torch.allclose(whole, weights[1][name], atol=1e-5), (name, (whole - weights[1][name]).abs().max())


def test_as_in_the_reference_batches_weigh_the_same_not_residues(data, tmp_path):
    """A step over two batches of unequal length moves the weights by the mean of both batches' gradients."""
    torch.manual_seed(0)
    model = SecondaryStructureModel.from_backbone(data / "backbone", top_blocks=2, head="linear", loss="cross_entropy")
    tokenizer = ResidueTokenizer.from_pretrained(data / "backbone")
    rows = sorted((chain.row() for chain in make_chains(12, 3)), key=lambda row: len(row["sequence"]))
    chains = LabelledChains(datasets.Dataset.from_list([rows[0], rows[-1]]), tokenizer, "q9")
    arguments = RecipeTrainingArguments(
        output_dir=str(tmp_path), batching="random", loss_weighting="micro_batch", gradient_accumulation_steps=2,
        max_steps=1, learning_rate=0.1, optim="sgd", weight_decay=0.0, eval_strategy="no", save_strategy="no",
        load_best_model_at_end=False, report_to="none", disable_tqdm=True,
    )  # fmt: skip
    trainer = build_trainer(model, tokenizer, chains, chains, arguments, num_states=9)
    collate = ChainCollator(tokenizer.pad_token_id)
    before = model.head.encoder.weight.detach().clone()
    loss = sum(model(**collate([chains[index]])).loss for index in range(2)) / 2
    (gradient,) = torch.autograd.grad(loss, model.head.encoder.weight)
    trainer.train()
    torch.testing.assert_close(model.head.encoder.weight, before - 0.1 * gradient)


def test_random_batches_are_of_that_many_chains_of_any_length_and_resume(data, tmp_path):
    flags = ("--batching", "random", "--per_device_train_batch_size", "4", "--gradient_accumulation_steps", "3")
    train(data, tmp_path / "whole", *flags, "--num_train_epochs", "2")
    states = json.loads((last_checkpoint(tmp_path / "whole") / "trainer_state.json").read_text())
    assert states["global_step"] == 2 * 4  # of 48 chains
    train(data, tmp_path / "parts", *flags, "--num_train_epochs", "1")
    train(data, tmp_path / "parts", *flags, "--num_train_epochs", "2", "--resume_from_checkpoint", "last")
    whole, parts = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--batching", "sorted"], "unknown batching 'sorted'. Choose one of: length, random"),
        (["--loss_weighting", "chain"], "unknown loss_weighting 'chain'. Choose one of: micro_batch, residue"),
        (["--backbone_dropout", "reference", "--prefix_cache", "c"], "frozen_eval, or --prefix_cache off"),
        (["--tests", "casp99"], "unknown corpus 'casp99'. Did you mean 'casp1"),
        (["--tests", "a/b.txt", "a-b.txt"], "the files of a/b.txt and a-b.txt would have the same names"),
        (["--train", "casp12"], "casp12 has no split 'train'. Choose one of: test"),
        (["--train_fraction", "0"], "train_fraction is 0.0"),
        (["--dataloader_persistent_workers", "True"], "would repeat the first epoch's batches in every epoch"),
        (["--label_smoothing_factor", "0.1"], "its own cross entropy instead of --loss and --balance. Leave it 0."),
        (["--restore_callback_states_from_checkpoint", "True"], "those of a recipe restore themselves"),
        (["--validation_fraction", "2"], "validation_fraction is 2.0"),
        (["--adapter", "bottlenec"], "unknown adapter 'bottlenec'"),
        (["--adapter_options", "16"], "adapter_options is '16'. Expected JSON like {\"reduction_factor\": 16}"),
        (["--adapter_options", "{r"], "adapter_options is '{r'. Expected JSON"),
        (["--head", "mlp"], "unknown head 'mlp'. Choose one of: dilated, lift_ss, linear"),
        (["--states", "q7"], "unknown alphabet 'q7'"),
        (["--backbone", "nobody/nothing"], "nobody/nothing"),
        (["--mask_fraction", "1"], "mask_fraction is 1.0. Expected a fraction"),
        (["--bootstrap", "-3"], "bootstrap is -3. Expected a number of resamples"),
        (["--early_stopping_patience", "-1"], "early_stopping_patience is -1. Expected at least 0"),
        (["--max_tokens_per_batch", "0"], "max_tokens_per_batch is 0. Expected at least 1"),
        (["--backbone_dtype", "bf16"], "unknown dtype 'bf16'. Choose one of: bfloat16, float16, float32"),
        (["--mask_fraction", "0.1", "--prefix_cache", "cache"], "--mask_fraction 0, or --prefix_cache off"),
        (["--learning_rat", "1"], "unknown argument 'learning_rat'. Did you mean 'learning_rate'?"),
    ],
)
def test_invalid_arguments_are_errors_before_anything_is_written(data, tmp_path, more, message):
    with pytest.raises(ValueError) as error:
        train(data, tmp_path / "run", *more)
    assert message in str(error.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("use", ["validation", "tests"])
def test_chains_with_too_few_states_for_the_model_are_refused_before_training(use, data, tmp_path):
    three_states = [Chain(f"c{number}", "MKVLAAGIVG" * 4, "LLHHHHEEEL" * 4) for number in range(10)]
    write_three_line(three_states, tmp_path / "three.txt")
    with pytest.raises(ValueError, match=r"its 3 states are too few to score a model of q3_lift_ss"):
        train(data, tmp_path / "run", "--states", "q3_lift_ss", f"--{use}", str(tmp_path / "three.txt"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--learning_rate", "1e-5"), r"started with learning_rate 0\.\d+, now it is 1e-05"),
        (("--head_channels", "24"), "started with head_channels .*, now it is 24"),
        (("--loss", "ldam"), "started with loss .*, now it is ldam"),
    ],
)
def test_what_a_resumed_run_would_ignore_is_refused(run, data, more, message):
    before = (run[0] / "recipe.yaml").read_bytes()
    with pytest.raises(RecipeError, match=message):
        train(data, run[0], *MASKED, "--columns", "lift_ss", *LAST, *more)
    assert (run[0] / "recipe.yaml").read_bytes() == before


def test_a_resumed_run_has_the_same_backbone_wherever_it_is_now(run, data, tmp_path):
    out = shutil.copytree(run[0], tmp_path / "run")
    weights = load_file(shutil.copytree(data / "backbone", tmp_path / "other") / "model.safetensors")
    save_file({name: tensor + 1 for name, tensor in weights.items()}, tmp_path / "other" / "model.safetensors")
    with pytest.raises(RecipeError, match=r"checkpoint-\d+: started on another backbone; its fingerprint is \w+"):
        train(data, out, *MASKED, *LAST, "--backbone", str(tmp_path / "other"))
    moved = shutil.copytree(data / "backbone", tmp_path / "moved")
    tests = ("--tests", str(data / "validation.txt"))  # the run is finished, and these are scored anew
    train(data, out, *MASKED, *LAST, *tests, "--backbone", str(moved))
    assert json.loads((out / "model" / "config.json").read_text())["backbone_name"] == str(moved)
    (out / "prefix_cache").mkdir()  # a kill at the end of a run leaves it
    train(data, out, *LAST, *tests, "--backbone", str(moved), "--prefix_cache", "run")
    assert not (out / "prefix_cache").exists()


def test_a_test_that_is_the_training_file_is_refused(data, tmp_path):
    with pytest.raises(RecipeError, match=r"train\.txt is given for training and as a test"):
        train(data, tmp_path / "run", "--tests", str(data / "train.txt"))


def test_another_run_is_overwritten_on_request_only(run, data, tmp_path):
    out, _ = run
    with pytest.raises(RecipeError, match=r"holds another run\. Resume it \(--resume\), choose another directory"):
        train(data, out)
    with pytest.raises(RecipeError, match="no checkpoint to resume from"):
        train(data, tmp_path / "new", "--resume_from_checkpoint", "last")


@pytest.mark.process
def test_the_command_line_reports_an_error_in_one_line(data, tmp_path):
    done = train_forked(data, tmp_path / "run", "--tests", "casp99")
    assert done.statuses == [2]
    assert done.stderr.splitlines()[-1].startswith("error: unknown corpus 'casp99'")
    assert "Traceback" not in done.stderr


def test_validation_chains_that_are_training_chains_are_counted_with_a_warning(data, tmp_path, caplog):
    leaked = write_three_line([*make_chains(3, 0), *make_chains(4, 9)], tmp_path / "leaked.txt")
    files = {"train": [str(data / "train.txt")], "tests": ["none"]}
    corpora = load_training_corpora(CorpusArguments(**files, validation=[str(leaked)]))
    assert corpora.num_leaked == 3
    assert "3 of 7 validation chains are training chains too" in caplog.text
    caplog.clear()
    load_training_corpora(CorpusArguments(**files, validation=[str(data / "validation.txt")]))
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


@pytest.mark.parametrize("use", ["train", "validation", "tests"])
def test_a_corpus_without_a_labelled_residue_is_refused_before_training(use, data, tmp_path):
    unlabelled = [Chain(chain.id, chain.sequence, "X" * chain.num_residues) for chain in make_chains(3, 1)]
    write_three_line(unlabelled, tmp_path / "unlabelled.txt")
    arguments = CorpusArguments(train=[str(data / "train.txt")], validation=["none"], tests=["none"])
    setattr(arguments, use, [str(tmp_path / "unlabelled.txt")])
    with pytest.raises(CorpusError, match=r"unlabelled\.txt: all states of its 3 chains are X"):
        load_training_corpora(arguments)


def test_eight_state_validation_chains_are_never_scored_at_nine_states(data, tmp_path):
    eight_states = [Chain(chain.id, chain.sequence, chain.states.replace("P", "T")) for chain in make_chains(10, 1)]
    write_three_line(eight_states, tmp_path / "eight.txt")
    few = ("--num_train_epochs", "2", "--validation", str(tmp_path / "eight.txt"))
    results = train(data, tmp_path / "run", *few)
    assert list(results["learnt"]) == ["q8", "q3", "q3_lift_ss"]
    assert "q9" in next(iter(results["corpora"].values()))["scores"]  # the test corpus has nine states
    state = state_of(tmp_path / "run")
    assert not any("eval_q9" in entry for entry in state["log_history"])
    assert state["best_metric"] == max(entry["eval_q8"] for entry in state["log_history"] if "eval_q8" in entry)


def test_the_arguments_are_not_changed_by_a_run(data, tmp_path):
    classes = (ModelArguments, CorpusArguments, RecipeTrainingArguments)
    arguments = parse_recipe(classes, "", flags(data, tmp_path / "run", "--num_train_epochs", "1"))
    before = [dataclasses.asdict(part) for part in arguments[:2]], arguments[2].to_json_string()
    run_training(*arguments)
    assert ([dataclasses.asdict(part) for part in arguments[:2]], arguments[2].to_json_string()) == before
    training = RecipeTrainingArguments(str(tmp_path), push_to_hub=True, hub_token="hf_secret", report_to="none")
    ours = training.for_trainer("q8")
    assert (ours.push_to_hub, ours.hub_token, ours.metric_for_best_model) == (False, None, "eval_q8")
    assert (training.push_to_hub, training.hub_token, training.metric_for_best_model) == (True, "hf_secret", None)
