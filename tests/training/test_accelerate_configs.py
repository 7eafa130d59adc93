"""The launch configurations: each is what its installed library reads, and does what its first lines say."""

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from small_runs import ROOT

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
