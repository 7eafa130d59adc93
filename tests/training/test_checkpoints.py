"""Damaged checkpoints are found before a run resumes from them, whichever file is damaged and however."""

import json
import logging
import random
import shutil
import zipfile

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_runs import train, write_data

from lift_ss_hf.training import checkpoint_files
from lift_ss_hf.training.arguments import RecipeTrainingArguments
from lift_ss_hf.training.checkpoint_files import find_damage
from lift_ss_hf.training.checkpoints import last_checkpoint, remove_old_checkpoints, starting_checkpoint
from lift_ss_hf.training.recipes import RecipeError

FILES = ("optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "model.safetensors")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The directory of a run with two checkpoints."""
    folder = tmp_path_factory.mktemp("whole")
    train(write_data(folder), folder / "run", "--num_train_epochs", "2", "--bootstrap", "0")
    return folder / "run"


@pytest.fixture
def run(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "run")


@pytest.fixture
def checkpoint(run):
    """A copy of the newest checkpoint."""
    return max(run.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))


DAMAGES = {
    "empty": lambda content: b"",
    "cut": lambda content: content[: len(content) // 2],
    "without its end": lambda content: content[:-9],
    "zeros": lambda content: bytes(len(content)),
    "zeros at the end": lambda content: content[: len(content) // 2] + bytes(len(content) - len(content) // 2),
    "random bytes": lambda content: random.Random(0).randbytes(len(content)),
}


# safetensors have no checksum: of them only the header and the size can be checked
KINDS = [
    (file, name) for file in FILES for name in DAMAGES if (file, name) != ("model.safetensors", "zeros at the end")
]


@pytest.mark.parametrize(("file", "damage"), KINDS)
def test_a_damaged_file_is_found_and_named(checkpoint, file, damage):
    assert find_damage(checkpoint) is None
    path = checkpoint / file
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    assert (find_damage(checkpoint) or "").startswith(file)


@pytest.mark.parametrize("file", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_one_bit_of_an_archive_is_enough(checkpoint, file):
    path, content = checkpoint / file, bytearray((checkpoint / file).read_bytes())
    with zipfile.ZipFile(path) as archive:
        largest = archive.read(max(archive.infolist(), key=lambda entry: entry.file_size))
    content[content.find(largest) + len(largest) // 2] ^= 1
    path.write_bytes(content)
    assert find_damage(checkpoint) == f"{file} is damaged"


class Code:
    def __reduce__(self):
        return (print, ("CODE OF A CHECKPOINT WAS RUN",))


SAVED = {
    "optimizer.pt": [3, {}, {"state": [], "param_groups": []}, {"state": {0: 1}, "param_groups": []}],
    "scheduler.pt": [3, {}, {"last_epoch": "x"}, {"last_epoch": 1, "base_lrs": ["x"]}, {"last_epoch": -(2**70)}],
    "rng_state.pth": [3, {}, {"python": (3, (1, 2), None)}, {"python": None, "numpy": None, "cpu": None}],
}
CASES = [(file, value) for file, values in SAVED.items() for value in [*values, {"a": Code()}]]


@pytest.mark.parametrize(("file", "value"), CASES, ids=[f"{file}-{n}" for n, (file, _) in enumerate(CASES)])
def test_a_whole_file_with_another_content_is_found_and_no_code_of_it_runs(checkpoint, file, value, capsys):
    torch.save(value, checkpoint / file)
    assert (find_damage(checkpoint) or "").startswith(f"{file} is damaged: ")
    assert "CODE" not in capsys.readouterr().out


def test_files_of_one_state_in_the_place_of_another_are_found(checkpoint):
    for file, other in (("optimizer.pt", "scheduler.pt"), ("scheduler.pt", "rng_state.pth")):
        original = (checkpoint / file).read_bytes()
        shutil.copy(checkpoint / other, checkpoint / file)
        assert (find_damage(checkpoint) or "").startswith(f"{file} is damaged: not the state of")
        (checkpoint / file).write_bytes(original)
    content = torch.load(checkpoint / "rng_state.pth", weights_only=False)
    torch.save({**content, "cpu": content["cpu"][:-1]}, checkpoint / "rng_state.pth")
    assert (find_damage(checkpoint) or "").startswith("rng_state.pth is damaged: not the states of random numbers")


def test_an_optimizer_of_other_weights_is_found(checkpoint):
    content = torch.load(checkpoint / "optimizer.pt")
    moments = next(iter(content["state"].values()))
    moments["exp_avg"] = torch.zeros(2, 3, 5)
    torch.save(content, checkpoint / "optimizer.pt")
    assert (find_damage(checkpoint) or "").startswith("optimizer.pt is damaged: its tensors do not have the shapes of")


@pytest.mark.parametrize(
    "change",
    [
        {"global_step": None},
        {"global_step": "12"},
        {"global_step": -1},
        {"global_step": True},
        {"max_steps": 1e300},
        {"epoch": "x"},
        {"log_history": {}},
        {"log_history": [3]},
        {"best_model_checkpoint": 3},
        {"best_metric": [1]},
        {"stateful_callbacks": 3},
        {"stateful_callbacks": {"EarlyStopping": 3}},
        {"stateful_callbacks": {"EarlyStopping": {"attributes": 3}}},
        {"not_a_field": 3},
    ],
    ids=str,
)
def test_a_trainer_state_with_other_values_is_found(checkpoint, change):
    path = checkpoint / "trainer_state.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    assert find_damage(checkpoint) == "trainer_state.json is missing or damaged"


@pytest.mark.parametrize("text", ["[]", "3", "null", "{}", "[" * 100_000, '{"global_step": ' + "9" * 5000 + "}"])
def test_a_trainer_state_of_another_shape_is_found(checkpoint, text):
    (checkpoint / "trainer_state.json").write_text(text)
    assert find_damage(checkpoint) == "trainer_state.json is missing or damaged"


@pytest.mark.parametrize("file", FILES)
def test_a_missing_file_is_found(checkpoint, file):
    """The Trainer would go on without the optimizer's state, and so to another model."""
    (checkpoint / file).unlink()
    damage = find_damage(checkpoint) or ""
    assert file in damage
    assert "missing" in damage


@pytest.mark.parametrize("file", FILES)
def test_last_takes_the_newest_whole_checkpoint_and_says_what_was_wrong_with_the_other(run, checkpoint, file, caplog):
    (checkpoint / file).write_bytes(b"")
    with caplog.at_level(logging.WARNING):
        older = last_checkpoint(run)
    assert older is not None
    assert older != checkpoint
    (said,) = caplog.messages
    assert said.startswith(f"{checkpoint} is incomplete ({file} is ")
    arguments = RecipeTrainingArguments(str(run), resume_from_checkpoint="last", report_to="none")
    assert starting_checkpoint(arguments) == str(older)
    arguments.resume_from_checkpoint = str(checkpoint)
    with pytest.raises(RecipeError, match=rf"checkpoint-\d+: incomplete checkpoint \({file} is .*Resume from another"):
        starting_checkpoint(arguments)


def test_of_the_best_checkpoint_only_the_weights_are_needed(run, checkpoint):
    state = json.loads((checkpoint / "trainer_state.json").read_text())
    (best,) = (path for path in run.glob("checkpoint-*") if path != checkpoint)
    state["best_model_checkpoint"] = str(best)
    (checkpoint / "trainer_state.json").write_text(json.dumps(state))
    arguments = RecipeTrainingArguments(str(run), resume_from_checkpoint="last", report_to="none")
    assert arguments.load_best_model_at_end
    (best / "optimizer.pt").unlink()
    assert starting_checkpoint(arguments) == str(checkpoint)
    (best / "model.safetensors").write_bytes(b"")
    with pytest.raises(RecipeError, match=r"the best checkpoint up to checkpoint-\d+ is missing or incomplete"):
        starting_checkpoint(arguments)


def test_a_run_cannot_be_in_the_place_of_a_file(tmp_path):
    (tmp_path / "file").write_text("years of work")
    arguments = RecipeTrainingArguments(str(tmp_path / "file"), overwrite_output_dir=True, report_to="none")
    with pytest.raises(ValueError, match="file exists and is not a directory"):
        starting_checkpoint(arguments)


def test_the_state_of_every_process_counts(checkpoint):
    (checkpoint / "rng_state.pth").rename(checkpoint / "rng_state_0.pth")
    shutil.copy(checkpoint / "rng_state_0.pth", checkpoint / "rng_state_1.pth")
    assert find_damage(checkpoint) is None
    (checkpoint / "rng_state_1.pth").write_bytes(b"")
    assert find_damage(checkpoint) == "rng_state_1.pth is damaged"
    (checkpoint / "rng_state_1.pth").unlink()
    shutil.copy(checkpoint / "rng_state_0.pth", checkpoint / "rng_state_2.pth")
    assert find_damage(checkpoint) == "rng_state lacks the file of process 1"


@pytest.fixture
def deepspeed(checkpoint):
    """A checkpoint as DeepSpeed lays it out for two processes."""
    folder = checkpoint / "global_step12"
    folder.mkdir()
    (checkpoint / "optimizer.pt").unlink()
    (checkpoint / "scheduler.pt").unlink()
    (checkpoint / "latest").write_text("global_step12")
    for name in ("mp_rank_00_model", "zero_pp_rank_0_mp_rank_00_optim", "zero_pp_rank_1_mp_rank_00_optim"):
        torch.save({"a": Code()}, folder / f"{name}_states.pt")  # pickles, which are never opened here
    return checkpoint


def test_damage_to_what_deepspeed_wrote_is_found(deepspeed, capsys):
    folder = deepspeed / "global_step12"
    assert find_damage(deepspeed) is None
    for path in sorted(folder.iterdir()):
        whole = path.read_bytes()
        for damage in DAMAGES.values():
            path.write_bytes(damage(whole))
            assert find_damage(deepspeed) == f"global_step12/{path.name} is damaged"
        path.write_bytes(whole)
    (folder / "zero_pp_rank_0_mp_rank_00_optim_states.pt").unlink()
    assert find_damage(deepspeed) == "global_step12 lacks the file of process 0"
    (folder / "zero_pp_rank_1_mp_rank_00_optim_states.pt").unlink()
    assert find_damage(deepspeed) == "global_step12/*optim_states.pt is missing"
    for name in (b"", b"global_step13", b"../checkpoint-6", b"\xff"):
        (deepspeed / "latest").write_bytes(name)
        assert find_damage(deepspeed) == "latest is missing or damaged"
    assert "CODE" not in capsys.readouterr().out


def test_damage_to_what_fsdp_wrote_is_found(checkpoint):
    (checkpoint / "optimizer.pt").rename(checkpoint / "optimizer.bin")
    assert find_damage(checkpoint) is None
    (checkpoint / "optimizer.bin").write_bytes(b"")
    assert find_damage(checkpoint) == "optimizer.bin is damaged"
    (checkpoint / "optimizer.bin").unlink()
    sharded = checkpoint / "optimizer_0"
    sharded.mkdir()
    (sharded / "__0_0.distcp").write_bytes(b"x")
    assert find_damage(checkpoint) == "optimizer_0 is incomplete"
    (sharded / ".metadata").write_bytes(b"x")
    assert find_damage(checkpoint) is None


def test_the_tensors_of_a_large_optimizer_are_not_loaded(checkpoint, monkeypatch):
    content = torch.load(checkpoint / "optimizer.pt")
    weights = load_file(checkpoint / "model.safetensors")
    save_file({**weights, "large": torch.zeros(1 << 22)}, checkpoint / "model.safetensors")
    content["state"][0]["exp_avg"] = torch.zeros(1 << 22)
    torch.save(content, checkpoint / "optimizer.pt")
    loaded = []
    load = torch.load
    monkeypatch.setattr(
        checkpoint_files.torch, "load", lambda *args, **options: loaded.append(options) or load(*args, **options)
    )
    assert find_damage(checkpoint) is None
    assert all(options["mmap"] and options["weights_only"] for options in loaded)


@pytest.mark.parametrize(
    ("step", "limit", "best", "kept"),
    [
        (12, 1, None, [12]),
        (12, 1, 12, [12]),
        (12, 1, 6, [6, 12]),
        (12, 2, None, [9, 12]),
        (12, 2, 3, [3, 12]),
        (12, 3, 3, [3, 9, 12]),
        (12, 9, 6, [3, 6, 9, 12]),
        (9, 1, 6, [6, 9]),  # resumed before 12, and stopped again
        (9, 2, None, [6, 9]),
        (9, 3, 6, [3, 6, 9]),
    ],
)
def test_the_newest_checkpoints_and_the_best_are_kept(tmp_path, step, limit, best, kept):
    for number in (3, 6, 9, 12):
        (tmp_path / f"checkpoint-{number}").mkdir()
    (tmp_path / "checkpoint-of-mine").mkdir()
    remove_old_checkpoints(tmp_path, step, limit, best and f"elsewhere/checkpoint-{best}")
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint-of-mine", *(f"checkpoint-{n}" for n in kept)}
