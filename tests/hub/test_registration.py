"""The Auto classes know our models once the package is imported, in whatever order; importing it stays cheap."""

import subprocess
import sys

import pytest

CHECK = (
    "assert AutoConfig.for_model('esm_secondary_structure').model_type == 'esm_secondary_structure'; "
    "from lift_ss_hf.models.esm import EsmSecondaryStructureConfig as C; "
    "assert AutoModelForTokenClassification._model_mapping[C].__name__ == 'EsmForSecondaryStructure'"
)
TRANSFORMERS = "from transformers import AutoConfig, AutoModelForTokenClassification"


def run(code):
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.process
@pytest.mark.parametrize(
    "imports",
    [
        f"import lift_ss_hf; {TRANSFORMERS}",
        f"{TRANSFORMERS}; import lift_ss_hf",
        f"import lift_ss_hf; from transformers import BertModel; {TRANSFORMERS}",
        f"import lift_ss_hf; import adapters; {TRANSFORMERS}",
        f"from lift_ss_hf.models.esm import EsmForSecondaryStructure; {TRANSFORMERS}",
    ],
)
def test_auto_classes_know_the_models(imports):
    run(f"{imports}; {CHECK}")


@pytest.mark.process
def test_importing_the_package_imports_no_torch():
    heavy = "{'torch', 'transformers', 'datasets', 'matplotlib'}"
    assert (
        run(f"import sys, lift_ss_hf, lift_ss_hf.metrics.scoring; print({heavy} & {{*sys.modules}})").strip() == "set()"
    )


@pytest.mark.process
def test_public_names_are_there_and_listed():
    code = "import lift_ss_hf; [getattr(lift_ss_hf, n) for n in lift_ss_hf.__all__]; assert 'score' in dir(lift_ss_hf)"
    run(code)


def test_the_announced_types_are_those_of_the_configurations():
    from lift_ss_hf.hub.registration import model_types
    from lift_ss_hf.models.families import MODEL_CLASSES

    assert tuple(sorted(model.config_class.model_type for model in MODEL_CLASSES.values())) == model_types()


def test_an_unknown_name_is_an_attribute_error():
    import lift_ss_hf

    with pytest.raises(AttributeError, match="nothing"):
        _ = lift_ss_hf.nothing


@pytest.mark.process
def test_importing_the_package_sets_no_log_level_and_reads_no_device():
    code = (
        "import logging, sys; level = logging.getLogger().level; import lift_ss_hf; "
        "assert logging.getLogger().level == level; assert 'torch' not in sys.modules"
    )
    assert run(code) == ""


@pytest.mark.process
def test_the_pipeline_is_known_by_its_task_with_the_bundled_model_as_its_default():
    code = (
        "import sys, lift_ss_hf; from transformers import pipeline; assert 'adapters' not in sys.modules\n"
        "p = pipeline('protein-secondary-structure'); print(p('MKTAYIAKQRQISFVKSHFSRQ', states='q3')['states'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    states = done.stdout.strip()
    assert len(states) == 22 and set(states) <= set("CEH")


def test_the_task_is_called_the_same_everywhere():
    from lift_ss_hf.hub import registration
    from lift_ss_hf.models import artefact

    assert {registration.TASK, *artefact.CUSTOM_PIPELINES} == {"protein-secondary-structure"}
