"""The examples: they parse, and what they launch are real arguments and files of ours."""

import os
import re
import runpy
import shlex
import subprocess
import sys
from unittest import mock

import pytest
import yaml
from accelerate.commands.launch import launch_command_parser
from small_runs import ROOT
from torch.distributed.launcher import LaunchConfig

from lift_ss_hf.cli import lift_ss
from lift_ss_hf.training.arguments import CorpusArguments, ModelArguments, RecipeTrainingArguments
from lift_ss_hf.training.recipes import parse_recipe

EXAMPLES = ROOT / "examples"
SLURM = ROOT / "examples" / "slurm_multi_node.sbatch"
KUBERNETES = ROOT / "examples" / "kubernetes_multi_node.yaml"
SHUTDOWN = "TORCH_ELASTIC_SHUTDOWN_TIMEOUT"


def kubernetes_script():
    service, job = yaml.safe_load_all(KUBERNETES.read_text())
    pod = job["spec"]["template"]["spec"]
    assert service["metadata"]["name"] == pod["subdomain"]
    assert service["spec"]["selector"]["job-name"] == job["metadata"]["name"]
    assert job["spec"]["completions"] == job["spec"]["parallelism"] == 2
    assert {mount["name"] for mount in pod["containers"][0]["volumeMounts"]} == {v["name"] for v in pod["volumes"]}
    return pod["containers"][0]["args"][0]


def launched(script, values):
    """The arguments of `accelerate launch` in a script, its variables replaced."""
    text = script.replace("\\\n", " ")
    line = re.search(r"accelerate launch (.*?)['\n]", text)[1]
    for name, value in values.items():
        line = re.sub(rf"\$\{{?{name}\}}?(?![A-Za-z_])", value, line.replace("$((SLURM_NNODES * 8))", "16"))
    return shlex.split(line)


@pytest.mark.parametrize("which", ["slurm", "kubernetes"])
def test_what_is_launched_is_what_accelerate_and_the_recipe_take(which, tmp_path):
    script = SLURM.read_text() if which == "slurm" else kubernetes_script()
    values = {"SLURM_NNODES": "2", "SLURM_NODEID": "1", "JOB_COMPLETION_INDEX": "1", "HEAD": "first", "PORT": "29500"}
    values |= {"RUN": str(tmp_path), "RESUME": "", "resume": ""}
    arguments = launched(script, values)
    assert "$" not in " ".join(arguments)
    launch = launch_command_parser().parse_args(arguments)
    assert (launch.num_machines, launch.num_processes, launch.machine_rank) == (2, 16, 1)
    assert launch.main_process_port == 29500
    assert (ROOT / launch.config_file).is_file()
    assert (ROOT / launch.training_script).is_file()
    recipe = str(ROOT / launch.training_script_args[0])
    classes = (ModelArguments, CorpusArguments, RecipeTrainingArguments)
    parse_recipe(classes, "", [recipe, *launch.training_script_args[1:]])


@pytest.mark.process
@pytest.mark.parametrize("script", [*sorted(EXAMPLES.glob("*.sbatch")), KUBERNETES], ids=lambda path: path.stem)
def test_the_shell_reads_them(script):
    text = kubernetes_script() if script == KUBERNETES else script.read_text()
    done = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_slurm_leaves_time_for_a_checkpoint_before_the_end():
    options = dict(re.findall(r"^#SBATCH --([\w-]+)=(\S+)", SLURM.read_text(), re.M))
    assert options["signal"].startswith("TERM@")
    assert options["ntasks-per-node"] == "1"


def test_the_processes_of_a_launch_get_nearly_all_of_the_grace_period(monkeypatch):
    for example, grace in ((SLURM, r"--signal=TERM@(\d+)"), (KUBERNETES, r"terminationGracePeriodSeconds: (\d+)")):
        (seconds,) = map(int, re.findall(grace, example.read_text()))
        (shutdown,) = re.findall(rf"{SHUTDOWN}\W+(?:value: \")?(\d+)", example.read_text())
        assert 0.8 * seconds <= int(shutdown) < seconds
        monkeypatch.setenv(SHUTDOWN, shutdown)
        assert LaunchConfig(1, 1, 1).shutdown_timeout == int(shutdown)  # torch knows the variable


@pytest.fixture
def shell(tmp_path):
    """Run a script in which the programs of Slurm, ours and Ray's print their arguments and some variables."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("lift-ss", "srun"):
        (programs / name).write_text('#!/bin/sh\necho "$RANK" "$WORLD_SIZE" "$OMP_NUM_THREADS"\nprintf "%s\\n" "$@"\n')
    (programs / "scontrol").write_text("#!/bin/sh\nprintf 'first\\nsecond\\n'\n")
    for program in programs.iterdir():
        program.chmod(0o755)

    def run(script, **variables):
        environment = {"PATH": f"{programs}:{os.environ['PATH']}", "INPUT": "in.fasta", "OUT": "out", **variables}
        command = ["bash", str(script)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, cwd=tmp_path)
        return done.stdout.splitlines()

    return run


@pytest.mark.process
def test_the_tasks_of_an_array_are_processes_that_share_a_run(shell):
    task = {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "32", "SLURM_CPUS_PER_TASK": "1"}
    variables, *arguments = shell(EXAMPLES / "slurm_predict_array.sbatch", **task)
    assert variables == "3 32 1"
    parsed = lift_ss.parser().parse_args(arguments)
    assert (parsed.inputs, parsed.output, parsed.resume) == (["in.fasta"], "out", True)


@pytest.mark.process
def test_ray_is_started_on_all_machines_and_the_recipe_on_the_first(shell):
    job = {"SLURM_JOB_NODELIST": "many", "SLURM_NNODES": "2", "SLURM_CPUS_PER_TASK": "32"}
    _, *arguments = shell(EXAMPLES / "slurm_ray.sbatch", **job)
    start, command = arguments[: arguments.index("--")], arguments[arguments.index("--") + 1 :]
    assert start[:6] == ["ray", "symmetric-run", "--address", "first:6379", "--min-nodes", "2"]
    assert command[:3] == ["env", "RAY_ADDRESS=first:6379", "python"]
    recipe = runpy.run_path(str(ROOT / command[3]))
    with mock.patch.object(sys, "argv", command[3:]):
        parsed = recipe["parse"]()
    assert (parsed.inputs, parsed.output, parsed.resume) == (["in.fasta"], "out", True)
