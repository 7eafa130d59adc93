"""What is in packaging/ keeps up with the package: versions, requirements, files, and commands that run."""

import configparser
import re
import shlex
import shutil
import subprocess
import sys

import jinja2
import pytest
import yaml
from scripts import BUILD_FILES, ROOT, run_lift_ss

from lift_ss_hf import __version__
from lift_ss_hf.cli import lift_ss

PACKAGING = ROOT / "packaging"
MODULE = PACKAGING / "nextflow" / "liftss" / "predict"
CONDA_NAMES = {"torch": "pytorch", "matplotlib": "matplotlib-base"}


def metadata():
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


def requirements(lines):
    """Each requirement's name and bounds."""
    found = (re.fullmatch(r"([\w.-]+) ?(.*)", line.strip()) for line in lines if line.strip())
    return {match[1]: match[2] for match in found}


@pytest.fixture(scope="module")
def recipe():
    template = jinja2.Template((PACKAGING / "conda" / "meta.yaml").read_text(), undefined=jinja2.StrictUndefined)
    return yaml.safe_load(template.render(PYTHON="python", pin_subpackage=lambda name, **_: name))


def test_the_conda_recipe_asks_for_what_setup_cfg_asks_for(recipe):
    assert recipe["package"] == {"name": "lift_ss_hf", "version": __version__}
    options = metadata()["options"]
    ours = requirements(options["install_requires"].splitlines())
    asked = {CONDA_NAMES.get(name, name): bounds for name, bounds in ours.items()}
    run = requirements(recipe["requirements"]["run"])
    assert run.pop("python") == options["python_requires"]
    assert run.pop("adapters") == ">=1.3,<2"
    assert run == asked
    (entry,) = recipe["build"]["entry_points"]
    assert entry == metadata()["options.entry_points"]["console_scripts"].strip()


@pytest.mark.process
@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_make_install_has_the_extras_of_users_and_trains_and_tests_nothing(tmp_path):
    def commands(target):
        words = ["make", "--dry-run", target, f"VENV={tmp_path}", f"PYTHON={sys.executable}"]
        return subprocess.run(words, cwd=ROOT, check=True, capture_output=True, text=True).stdout

    extras = set(metadata()["options.extras_require"])
    installed = {
        target: [set(found.split(",")) for found in re.findall(r'"\.\[(.*)\]"', commands(target))]
        for target in ("install", "demo", "test")
    }
    assert installed["install"] == installed["demo"] == [{"structures", "h5", "prot-t5"}]
    assert installed["test"] == [{"structures", "h5", "prot-t5"}, {"test", "quality"}]
    assert {extra for found in installed["test"] for extra in found} <= extras
    assert "recipes/" not in commands("install")
    assert "recipes/train_q8.py" in commands("demo")


def test_the_conda_recipe_has_what_bioconda_asks_for(recipe):
    assert recipe["build"]["noarch"] == "python"
    assert recipe["build"]["number"] == 0
    assert recipe["build"]["run_exports"]
    assert {"home", "license", "license_file", "summary"} <= set(recipe["about"])
    assert recipe["about"]["license"] == metadata()["metadata"]["license"]
    assert (ROOT / recipe["about"]["license_file"]).is_file()
    assert recipe["extra"]["recipe-maintainers"]


def test_the_commands_of_the_conda_recipe_run(recipe):
    (command,) = recipe["test"]["commands"]
    done = run_lift_ss(*shlex.split(command)[1:])
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()[2]) == 22


def instructions():
    """The instructions of the Dockerfile and their arguments."""
    text = re.sub(r"^#.*\n", "", (PACKAGING / "Dockerfile").read_text(), flags=re.M).replace("\\\n", " ")
    return [tuple(line.split(maxsplit=1)) for line in text.splitlines() if line]


def test_the_image_has_all_that_the_package_is_built_from():
    copied = [word for name, words in instructions() if name == "COPY" for word in words.split()[:-1]]
    assert set(copied) == {"constraints-5.txt", "lift_ss_hf", *BUILD_FILES}
    assert all((ROOT / path).exists() for path in copied)


def test_the_image_installs_in_the_order_of_the_makefile_and_runs_the_command():
    known = {"FROM", "COPY", "RUN", "ENV", "WORKDIR", "CMD"}  # no ENTRYPOINT: Nextflow starts bash
    assert {name for name, _ in instructions()} <= known
    installed = [
        line.split()[-1].strip('"')
        for name, words in instructions()
        if name == "RUN"
        for line in words.split("&&")
        if "pip install" in line
    ]
    assert installed == ["torch", "/source[prot-t5]", "adapters"]
    assert yaml.safe_load(dict(instructions())["CMD"]) == ["lift-ss", "--help"]
    (tag,) = set(re.findall(r"(?:-t|/data\") (\S+)", (PACKAGING / "Dockerfile").read_text()))
    assert f'container "{tag}"' in (MODULE / "main.nf").read_text()
    assert (PACKAGING / "README.md").read_text().count(f" {tag} ") == 2
    (python,) = re.findall(r"FROM python:(3\.\d+)-slim", (PACKAGING / "Dockerfile").read_text())
    assert f"Programming Language :: Python :: {python}" in metadata()["metadata"]["classifiers"]


def script(**values):
    """The words of the module's command, its variables replaced."""
    body = re.search(r'script:.*?"""\n(.*?)"""', (MODULE / "main.nf").read_text(), re.S)[1]
    for name, value in values.items():
        body = body.replace(f"${name}", str(value))
    assert "$" not in body
    return shlex.split(body.replace("\\\\\n", " "))


def test_the_command_of_the_module_writes_what_the_module_emits(tmp_path):
    (tmp_path / "a.fasta").write_text(">one\nMKTAYIAKQRQISFVKSHFSRQ\n")
    default = re.search(r"task\.ext\.args \?: '(.*?)'", (MODULE / "main.nf").read_text())[1]
    values = {"task.cpus": 2, "fasta": tmp_path / "a.fasta", "prefix": tmp_path / "p", "args": default}
    threads, *words = script(**values)
    assert threads == "OMP_NUM_THREADS=2"
    done = run_lift_ss(*words[1:])
    assert done.returncode == 0, done.stderr
    assert [path.name for path in (tmp_path / "p").glob("predictions.*")] == ["predictions.parquet"]
    with pytest.raises(SystemExit):
        lift_ss.parser().parse_args([*words[1:], "--no-such-flag"])


def test_the_module_describes_its_channels():
    code, described = (MODULE / "main.nf").read_text(), yaml.safe_load((MODULE / "meta.yml").read_text())
    assert re.search(r"^process LIFTSS_PREDICT \{$", code, re.M)
    assert described["name"] == "liftss_predict"
    assert {"description", "keywords", "tools", "input", "output", "topics", "authors", "maintainers"} <= set(described)
    assert set(re.findall(r"emit: (\w+)", code)) == set(described["output"])
    ((_, fasta),) = described["input"]
    assert set(fasta) == set(re.findall(r"path\((\w+)\)", code))
    ((_, _, version),) = described["topics"]["versions"]
    (command,) = version
    assert f'eval("{command}")' in code
    assert run_lift_ss(*command.split(" |")[0].split()[1:]).stdout.split()[-1] == __version__
    (dependency,) = yaml.safe_load((MODULE / "environment.yml").read_text())["dependencies"]
    assert dependency == f"bioconda::lift_ss_hf={__version__}"
    assert f'container "lift_ss_hf:{__version__}"' in code


def test_the_modules_own_test_names_its_process():
    text = (MODULE / "tests" / "main.nf.test").read_text()
    assert 'process "LIFTSS_PREDICT"' in text
    assert (MODULE / "tests" / re.search(r'script "(.+)"', text)[1]).resolve() == MODULE / "main.nf"
    assert all(text.count(opening) == text.count(closing) for opening, closing in ("{}", "[]", "()"))
