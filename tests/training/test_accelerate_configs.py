"""The launch configurations: each is what its installed library reads, and does what its first lines say."""

import json
import os
import shutil
import subprocess
import sys
import time

import pytest
import torch
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from forked_runs import launched_environment, run_forked
from safetensors.torch import load_file
from small_runs import RECIPE, ROOT, make_chains

from lift_ss_hf.models.modeling import SecondaryStructureModel
from lift_ss_hf.training import launch, precision
from lift_ss_hf.training.arguments import CorpusArguments, ModelArguments, RecipeTrainingArguments
from lift_ss_hf.training.launch import LAUNCHER_PRECISION, LaunchedArguments
from lift_ss_hf.training.recipes import parse_recipe

PRETRAINING = ROOT / "recipes" / "pretrain_mlm.py"
CONFIGS = sorted((ROOT / "accelerate_configs").glob("*.yaml"))
EXPECTED = {
    "cpu", "cpu_ddp", "single_gpu", "ddp", "multi_node", "fsdp2",
    *(f"deepspeed_zero{stage}" for stage in ("1", "2", "3", "3_offload")),
}  # fmt: skip


def test_all_are_there():
    assert {path.stem for path in CONFIGS} == EXPECTED


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_each_is_read_by_accelerate_and_says_when_to_use_it(path):
    config = load_config_from_file(str(path))
    text = path.read_text()
    written = yaml.safe_load(text)
    assert set(written) <= set(config.to_dict()) | {"fsdp_config", "deepspeed_config"}
    assert text.startswith("# ")
    assert "Costs" in text


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_launcher_takes_each(path):
    arguments = launch_command_parser().parse_args(["--config_file", str(path), "recipes/train_q8.py"])
    arguments, config, _ = _validate_launch_command(arguments)
    assert arguments.mixed_precision in ("no", "bf16")
    if path.stem.startswith("deepspeed"):
        assert arguments.use_deepspeed
        assert str(arguments.zero_stage) == path.stem.removeprefix("deepspeed_zero").removesuffix("_offload")
        assert arguments.offload_param_device == ("cpu" if path.stem.endswith("offload") else "none")
        # the recipe's arguments decide, and accelerate must not hold others against them
        assert "gradient_accumulation_steps" not in config.deepspeed_config
    elif path.stem == "fsdp2":
        assert arguments.use_fsdp
        assert str(arguments.fsdp_version) == "2"
    elif path.stem in ("ddp", "multi_node", "cpu_ddp"):
        assert arguments.num_processes > 1


@pytest.mark.tools
@pytest.mark.parametrize("stage", ["1", "2", "3", "3_offload"])
def test_deepspeed_reads_each_of_its_own(stage):
    deepspeed = pytest.importorskip("deepspeed")
    written = yaml.safe_load((ROOT / "accelerate_configs" / f"deepspeed_zero{stage}.yaml").read_text())
    settings = written["deepspeed_config"]
    zero = {"stage": settings["zero_stage"]}
    for kind in ("optimizer", "param"):
        if settings[f"offload_{kind}_device"] != "none":
            zero[f"offload_{kind}"] = {"device": settings[f"offload_{kind}_device"]}
    config = deepspeed.runtime.zero.config.DeepSpeedZeroConfig(**zero)
    assert config.stage == int(stage[0])


SMALL = ("--max_steps", "2", "--train_fraction", "0.1", "--bootstrap", "0", "--report_to", "none")


def on_a_cpu(zero_stages):
    """Run a test with each configuration that a CPU can run; ZeRO's needs DeepSpeed and g++."""
    zero = [pytest.param(f"deepspeed_zero{stage}", marks=pytest.mark.tools) for stage in zero_stages]
    return pytest.mark.parametrize("name", ["cpu", "cpu_ddp", *zero])


def require_tools(name):
    """Skip a test of a configuration whose library or compiler is missing."""
    if name.startswith("deepspeed"):
        pytest.importorskip("deepspeed", reason="DeepSpeed is an extra: DS_BUILD_OPS=0 pip install '.[deepspeed]'")
        if not shutil.which("g++"):
            pytest.skip("DeepSpeed compiles its communication on a CPU: needs g++")


def run_as_it_is(name, arguments, folder, script=RECIPE):
    """Run a recipe under a configuration as it is, and return the configuration and the finished run."""
    require_tools(name)
    config = ROOT / "accelerate_configs" / f"{name}.yaml"
    written = yaml.safe_load(config.read_text())
    done = run_forked(
        [*arguments, "--output_dir", str(folder / "run")], folder / "log", script=script,
        num_processes=written["num_processes"], environment=launched_environment("--config_file", str(config)),
        patch=lambda rank: setattr(LaunchedArguments, "_precision_left", None),  # of earlier tests
    )  # fmt: skip
    assert set(done.statuses) == {0}, done.stderr
    return written, done


@pytest.mark.process
@pytest.mark.slow
@on_a_cpu(zero_stages="12")  # stage 3 is launched below
def test_a_cpu_runs_it_as_it_is_with_the_default_recipe(name, tmp_path):
    written, _ = run_as_it_is(name, SMALL, tmp_path)
    check_run_of_the_default_recipe(tmp_path / "run", written)


def check_run_of_the_default_recipe(run, config):
    """Check that a run took its precision from the launcher, saved the default head whole, and scored the model."""
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    assert recipe["bf16"] == (config["mixed_precision"] == "bf16")
    defaults = ModelArguments()
    assert (recipe["backbone"], recipe["head"]) == (defaults.backbone, defaults.head)
    weights = load_file(run / "model" / "model.safetensors")
    assert all(tensor.numel() for tensor in weights.values())
    model = SecondaryStructureModel.from_pretrained(run / "model")
    assert model.head.state_dict().keys() <= {name.removeprefix("head.") for name in weights}
    assert list(json.loads((run / "metrics.json").read_text())["corpora"]) == CorpusArguments().train  # its own tests


@pytest.mark.tools
@pytest.mark.process
@pytest.mark.slow
def test_a_user_launches_zero3_as_it_is_with_the_default_recipe(tmp_path):
    require_tools("deepspeed")
    config = ROOT / "accelerate_configs" / "deepspeed_zero3.yaml"
    port = ("--main_process_port", "0")  # a free one: other tests launch processes, too
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config), *port]
    done = subprocess.run(
        [*launcher, str(RECIPE), *SMALL, "--output_dir", str(tmp_path / "run")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    check_run_of_the_default_recipe(tmp_path / "run", yaml.safe_load(config.read_text()))


@pytest.mark.process
@pytest.mark.slow
@on_a_cpu(zero_stages="123")
def test_a_cpu_pretrains_under_it_as_it_is(name, tmp_path):
    fasta, backbone = tmp_path / "proteins.fasta", tmp_path / "backbone"
    fasta.write_text("".join(f">{chain.id}\n{chain.sequence}\n" for chain in make_chains(60, seed=0)))
    sequences = ["--train_file", str(fasta), "--validation_file", str(fasta), "--backbone_dir", str(backbone)]
    shape = ["--hidden_size", "16", "--num_hidden_layers", "2", "--num_attention_heads", "2"]
    steps = ["--tokens_per_batch", "512", "--max_steps", "4", "--save_steps", "2", "--report_to", "none"]
    _, done = run_as_it_is(name, [*sequences, *shape, *steps], tmp_path, script=PRETRAINING)
    assert done.stdout.count('"unigram"') == 1  # the first process alone reports, and writes
    for folder in (tmp_path / "run", tmp_path / "run" / "checkpoint-4", backbone):
        weights = load_file(folder / "model.safetensors")
        assert weights and all(tensor.numel() for tensor in weights.values())
    SecondaryStructureModel.from_backbone(backbone, head="linear")


@pytest.mark.parametrize(("age", "warnings"), [(0, 0), (launch.BUILD_TIME + 1, 1)])
def test_a_lock_that_a_killed_build_left_is_named(age, warnings, tmp_path, monkeypatch, caplog):
    lock = tmp_path / "py311_cpu" / "deepspeed_shm_comm" / "lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    os.utime(lock, (time.time() - age,) * 2)
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    launch._warn_of_abandoned_builds()
    said = [record.getMessage() for record in caplog.records if record.name == launch.__name__]
    assert [str(lock) in message for message in said] == [True] * warnings


@pytest.fixture
def launcher_says(monkeypatch):
    def say(precision):
        monkeypatch.setattr(LaunchedArguments, "_precision_left", None)
        monkeypatch.setenv(LAUNCHER_PRECISION, precision)

    return say


@pytest.mark.parametrize(
    ("launched", "recipe", "expected"),
    [
        ("bf16", {}, (True, False)),
        ("no", {}, (False, False)),
        ("no", {"bf16": True}, (True, False)),
        ("bf16", {"bf16": True}, (True, False)),
        ("bf16", {"bf16": True, "fp16": False}, (True, False)),
        ("fp8", {}, (False, False)),
    ],
)
def test_the_launchers_precision_holds_where_the_recipe_sets_none(tmp_path, launcher_says, launched, recipe, expected):
    launcher_says(launched)
    training = RecipeTrainingArguments(str(tmp_path), report_to="none", **recipe)
    assert (training.bf16, training.fp16) == expected


@pytest.mark.parametrize(
    ("launched", "recipe", "said", "remedy"),
    [
        ("fp16", {"bf16": True}, "bf16: true, but the launcher says fp16", "bf16"),
        ("bf16", {"fp16": True}, "fp16: true, but the launcher says bf16", "fp16"),
        ("bf16", {"bf16": False}, "bf16: false, but the launcher says bf16", "no"),
    ],
)
def test_contradicting_precisions_are_one_line_that_names_both(tmp_path, launcher_says, launched, recipe, said, remedy):
    launcher_says(launched)
    with pytest.raises(ValueError) as error:
        RecipeTrainingArguments(str(tmp_path), report_to="none", **recipe)
    assert "\n" not in str(error.value)
    assert f"the recipe says {said} (mixed_precision in the --config_file" in str(error.value)
    assert f"--mixed_precision {remedy}." in str(error.value)


@pytest.mark.parametrize(
    ("launched", "recipe", "has_bf16", "expected"),
    [
        ("no", {"bf16": "auto"}, True, (True, False)),
        ("no", {"bf16": "auto"}, False, (False, False)),
        ("no", {"bf16": "auto", "fp16": True}, True, (False, True)),
        ("fp16", {"bf16": "auto"}, True, (False, True)),
        ("bf16", {"bf16": "auto"}, True, (True, False)),
    ],
)
def test_bf16_is_chosen_where_the_processor_has_it(
    tmp_path, monkeypatch, launcher_says, launched, recipe, has_bf16, expected
):
    launcher_says(launched)
    for module in (launch, precision):
        monkeypatch.setattr(module, "has_cpu_bf16", lambda: has_bf16)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    training = RecipeTrainingArguments(str(tmp_path), report_to="none", **recipe)
    assert (training.bf16, training.fp16) == expected


@pytest.mark.parametrize(("launched", "recipe"), [("no", {"bf16": True}), ("bf16", {}), ("bf16", {"bf16": "auto"})])
def test_bf16_that_is_forced_on_a_processor_without_it_is_warned_of(
    tmp_path, monkeypatch, launcher_says, caplog, launched, recipe
):
    launcher_says(launched)
    for has_bf16 in (True, False):
        caplog.clear()
        monkeypatch.setattr(launch, "has_cpu_bf16", lambda has_bf16=has_bf16: has_bf16)
        training = RecipeTrainingArguments(str(tmp_path), report_to="none", use_cpu=True, **recipe)
        assert training.bf16
        warned = [message for message in caplog.messages if "2 times slower than fp32" in message]
        assert len(warned) == (not has_bf16)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("processor : 0\nflags\t\t: fpu avx512f avx512_bf16 sse\n", True),
        ("processor : 0\nflags\t\t: fpu amx_bf16 amx_tile\n", True),
        ("processor : 0\nflags\t\t: fpu avx512f avx2\nbugs : bf16\n", False),
        ("processor : 0\nFeatures\t: fp asimd bf16 sve\n", True),
        ("processor : 0\nFeatures\t: fp asimd\n", False),
    ],
)
def test_the_flags_of_the_processor_say_whether_it_has_bf16(tmp_path, text, expected):
    (tmp_path / "cpuinfo").write_text(text)
    assert precision.has_cpu_bf16(tmp_path / "cpuinfo") is expected
    assert not precision.has_cpu_bf16(tmp_path / "nothing")


def test_no_recipe_forces_bf16_and_flags_take_auto():
    for path in (ROOT / "recipes").rglob("*.yaml"):
        settings = yaml.safe_load(path.read_text())
        assert settings.get("bf16") in (None, "auto"), path
    for flags, expected in ((["--bf16", "auto"], "auto"), (["--bf16"], True), (["--bf16", "false"], False)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(RecipeTrainingArguments, "__post_init__", lambda self: None)
            (training,) = parse_recipe([RecipeTrainingArguments], "", flags)
        assert training.bf16 == expected


def test_a_precision_is_not_taken_for_the_launchers_by_the_next_run_of_a_process(tmp_path, launcher_says):
    launcher_says("no")
    for wanted in ({"bf16": True}, {"bf16": True}, {}, {"bf16": False}):
        training = RecipeTrainingArguments(str(tmp_path), report_to="none", **wanted)
        assert training.bf16 == bool(wanted.get("bf16"))
