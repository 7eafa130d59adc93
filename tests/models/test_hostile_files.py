"""Mutated JSON files of a model and its tokenizer: each loads, or is refused in one line."""

import copy
import json
import shutil

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_models import save_tiny_backbone

from lift_ss_hf.models.esm import EsmForSecondaryStructure
from lift_ss_hf.models.modeling import SecondaryStructureModel
from lift_ss_hf.models.tokenization import ResidueTokenizer
from lift_ss_hf.prediction.predictor import Predictor

FUZZ = settings(
    max_examples=60,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
NESTED = "<nested>"  # written as 900 lists, one in another
VALUES = st.sampled_from(
    [
        *(None, True, False, 0, 1, -1, 3, 10**7, 10**30, -(10**400), 0.5, 1e-38, 1e300, float("nan"), float("inf")),
        *("", "x", "/etc/passwd", "../x", [], [[]], [None], ["x", 1], {}, {"x": {}}, {"0": "x"}, NESTED),
    ]
)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A saved model with its backbone and its tokenizer, and the backbone alone."""
    folder = tmp_path_factory.mktemp("hostile")
    backbone = save_tiny_backbone(folder / "backbone", "esm", num_hidden_layers=2)
    model = EsmForSecondaryStructure.from_backbone(backbone, adapter="lora", top_blocks=1, head_channels=8)
    model.save_pretrained(folder / "model", include_backbone=True)
    ResidueTokenizer.from_pretrained(backbone).save_pretrained(folder / "model")
    return folder


def places(content, path=()):
    """Paths to all values of a JSON file."""
    children = content.items() if isinstance(content, dict) else enumerate(content if isinstance(content, list) else ())
    for key, value in children:
        yield (*path, key)
        yield from places(value, (*path, key))


@st.composite
def mutations(draw, content):
    """The text of a JSON file with one to three values replaced, nested or deleted."""
    paths = sorted(places(content), key=str)
    content = json.loads(json.dumps(content))
    for path in draw(st.lists(st.sampled_from(paths), min_size=1, max_size=3, unique=True)):
        how, value = draw(st.sampled_from(("replace", "replace", "nest", "delete"))), copy.deepcopy(draw(VALUES))
        try:
            parent = content
            for key in path[:-1]:
                parent = parent[key]
            if how == "delete":
                del parent[path[-1]]
            else:
                parent[path[-1]] = value if how == "replace" else {"x": parent[path[-1]]}
        except (LookupError, TypeError):  # an earlier mutation has removed it
            continue
    return json.dumps(content).replace(f'"{NESTED}"', "[" * 900 + "]" * 900)


def refused_in_one_line(load, *args, **options):
    try:
        load(*args, **options)
    except ValueError as error:
        assert len(str(error).splitlines()) == 1
        assert len(str(error)) < 1000


def predict(folder):
    model = SecondaryStructureModel.from_pretrained(folder)
    list(Predictor(model, ResidueTokenizer.from_pretrained(folder), max_tokens=64).predict(["MKTAYIAK", "MKT"]))


@pytest.mark.parametrize(
    ("part", "file", "load"),
    [
        ("model", "config.json", predict),
        ("backbone", "config.json", lambda folder: SecondaryStructureModel.from_backbone(folder, head="linear")),
        ("model", "tokenizer_config.json", ResidueTokenizer.from_pretrained),
        ("model", "tokenizer.json", ResidueTokenizer.from_pretrained),
        ("model", "special_tokens_map.json", ResidueTokenizer.from_pretrained),
        ("backbone", "tokenizer_config.json", ResidueTokenizer.from_pretrained),
    ],
)
def test_a_mutated_file_loads_or_is_refused_in_one_line(saved, tmp_path, part, file, load):
    shutil.copytree(saved / part, tmp_path / part)
    if not (tmp_path / part / file).exists():
        pytest.skip(f"this version of transformers writes no {file}")
    original = json.loads((tmp_path / part / file).read_text())

    @FUZZ
    @given(mutations(original))
    def fuzz(text):
        (tmp_path / part / file).write_text(text)
        refused_in_one_line(load, tmp_path / part)

    fuzz()
