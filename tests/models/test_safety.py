"""What a hostile model would have us do is refused in one line, before anything is read, run or allocated."""

import json
import pickle

import pytest
import torch
from hub_server import running_hub
from tiny_models import save_tiny_backbone

from lift_ss_hf.models.artefact import find_backbone
from lift_ss_hf.models.backbones import PickleError
from lift_ss_hf.models.esm import EsmForSecondaryStructure
from lift_ss_hf.models.families import get_family
from lift_ss_hf.models.modeling import SecondaryStructureModel
from lift_ss_hf.models.tokenization import ResidueTokenizer
from lift_ss_hf.training.checkpoints import find_damage


@pytest.fixture
def saved(tmp_path):
    """A saved model that holds its backbone, and beside it the backbone alone."""
    model = EsmForSecondaryStructure.from_backbone(
        save_tiny_backbone(tmp_path / "backbone", "esm"), top_blocks=2, head_channels=16
    )
    model.save_pretrained(tmp_path / "model", include_backbone=True)
    ResidueTokenizer.from_pretrained(tmp_path / "backbone").save_pretrained(tmp_path / "model")
    return tmp_path


def edit(folder, part=None, **changes):
    content = json.loads((folder / "config.json").read_text())
    (content if part is None else content[part]).update(changes)
    (folder / "config.json").write_text(json.dumps(content))


class Hostile:
    def __reduce__(self):
        return (print, ("CODE OF A PICKLE WAS RUN",))


def test_a_pickle_is_refused_by_name_and_never_read(saved, capsys):
    for folder in (saved / "model", saved / "backbone"):
        (folder / "model.safetensors").unlink()
        (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Hostile()))
    with pytest.raises(ValueError, match=r"pytorch_model\.bin, a pickle.*as safetensors only; convert"):
        SecondaryStructureModel.from_pretrained(saved / "model")
    with pytest.raises(ValueError, match=r"pytorch_model\.bin, a pickle.*as safetensors only; convert"):
        SecondaryStructureModel.from_backbone(saved / "backbone")
    assert "CODE" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("part", "changes", "message"),
    [
        (None, {"architectures": ["T5ForSecondaryStructure"]}, r"architectures .*Expected \['EsmForSecondary"),
        (None, {"model_type": "llama"}, "holds a model of type 'llama'"),
        (None, {"head_channels": 10**12}, "head_channels 1000000000000. Expected at most"),
        (None, {"head_channels": 1 << 18}, "head_channels 262144. Expected at most"),
        (None, {"head_depth": 10**9}, "head_depth"),
        (None, {"adapter_options": {"reduction_factor": float("nan")}}, "reduction_factor nan. Expected a finite"),
        (None, {"adapter_options": {"reduction_factor": 1e-9}}, "reduction_factor"),
        (None, {"calibration_temperature": float("inf")}, "Expected a finite number"),
        ("backbone_config", {"hidden_size": 10**9}, "hidden_size 1000000000. Expected at most"),
        ("backbone_config", {"num_hidden_layers": 1000, "hidden_size": 1 << 18}, "describes .* parameters"),
        ("backbone_config", {"_attn_implementation": "somebody/kernel"}, "could load code or files from elsewhere"),
        ("backbone_config", {"transformers_weights": "../../x.safetensors"}, "could load code or files"),
        ("backbone_config", {"quantization_config": {"quant_method": "x"}}, "quantised weights"),
    ],
)
def test_a_hostile_configuration_is_refused(saved, part, changes, message):
    edit(saved / "model", part, **changes)
    with pytest.raises(ValueError, match=message) as refused:
        SecondaryStructureModel.from_pretrained(saved / "model")
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize("changes", [{"_attn_implementation": "a/b"}, {"transformers_weights": "../x.safetensors"}])
def test_a_hostile_backbone_is_refused_where_it_is_named_and_where_it_is_fetched(saved, changes):
    edit(saved / "backbone", **changes)
    with pytest.raises(ValueError, match="could load code or files from elsewhere"):
        SecondaryStructureModel.from_backbone(saved / "backbone")
    model = EsmForSecondaryStructure.from_backbone(
        save_tiny_backbone(saved / "other", "esm"), top_blocks=2, head_channels=16
    )
    model.save_pretrained(saved / "small")
    edit(saved / "other", **changes)
    with pytest.raises(ValueError, match="could load code or files from elsewhere"):
        SecondaryStructureModel.from_pretrained(saved / "small")


@pytest.mark.parametrize("name", ["../../outside.safetensors", "/etc/passwd", "weights.bin", "a/b.safetensors"])
def test_an_index_that_leads_elsewhere_is_refused(saved, name):
    (saved / "backbone" / "model.safetensors").rename(saved / "outside.safetensors")
    index = {"metadata": {}, "weight_map": {"embeddings.word_embeddings.weight": name}}
    (saved / "backbone" / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="Expected safetensors files beside it"):
        SecondaryStructureModel.from_backbone(saved / "backbone")
    (saved / "backbone" / "model.safetensors.index.json").write_text("[]")
    with pytest.raises(ValueError, match="not an index of weights"):
        SecondaryStructureModel.from_backbone(saved / "backbone")


@pytest.mark.parametrize("path", ["/etc", "../../home", "a/../../b"])
def test_what_comes_from_the_hub_names_no_path_of_this_machine(path):
    with pytest.raises(ValueError, match=r"of org/name has its backbone at .*Pass backbone="):
        find_backbone(path, None, "org/name")


@pytest.mark.process
def test_what_comes_from_the_hub_is_checked_like_a_folder(saved, monkeypatch, tmp_path):
    with running_hub() as hub:
        files = {path.name: path.read_bytes() for path in (saved / "model").iterdir()}
        config = json.loads(files["config.json"])
        config |= {"includes_backbone": False, "backbone_name": str(saved / "backbone")}
        hub.repos["org/name"] = {"main": [("1" * 40, files | {"config.json": json.dumps(config).encode()})]}
        code = (
            "from lift_ss_hf import SecondaryStructureModel as M\n"
            "try: M.from_pretrained('org/name')\nexcept ValueError as e: print(e)"
        )
        from clean_process import in_clean_process

        done = in_clean_process(hub, tmp_path / "clean", "-c", code)
        assert "a path of some machine. Pass backbone=" in done.stdout, done.stderr


def test_the_weights_of_a_model_are_read_without_pickle(saved, monkeypatch):
    def refused(*_, **__):
        raise AssertionError("a pickle was read")

    monkeypatch.setattr(torch, "load", refused)
    monkeypatch.setattr(pickle, "load", refused)
    SecondaryStructureModel.from_pretrained(saved / "model")
    SecondaryStructureModel.from_backbone(saved / "backbone", top_blocks=1, head_channels=16)


def test_the_hub_s_converted_copy_is_taken_where_it_is_the_same(saved, monkeypatch):
    """transformers finds it only if no commit is asked for: https://github.com/huggingface/transformers, 4.57."""
    model = EsmForSecondaryStructure.from_backbone(saved / "backbone", top_blocks=2, head_channels=16)
    model.config.backbone_revision = "0" * 40
    model.save_pretrained(saved / "small")
    family, asked = get_family("esm"), []
    load = type(family).load

    def only_without_a_commit(self, name, revision=None, **options):
        asked.append(revision)
        if revision is not None:
            raise PickleError("it has no safetensors.")
        return load(self, saved / "backbone", **options)

    monkeypatch.setattr(type(family), "load", only_without_a_commit)
    monkeypatch.setattr(
        "lift_ss_hf.models.artefact.find_backbone", lambda name, revision, artefact: ("org/name", revision)
    )
    SecondaryStructureModel.from_pretrained(saved / "small")
    assert asked == ["0" * 40, None]
    other = save_tiny_backbone(saved / "other", "esm", seed=1)
    monkeypatch.setattr(type(family), "load", lambda self, name, revision=None, **options: load(self, other, **options))
    with pytest.raises(ValueError, match="is not the one this model was trained on"):
        SecondaryStructureModel.from_pretrained(saved / "small")


def test_a_checkpoint_with_a_pickle_is_not_resumed(tmp_path):
    (tmp_path / "trainer_state.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps(Hostile()))
    assert "pytorch_model.bin is a pickle" in (find_damage(tmp_path) or "")


def test_a_subclass_of_one_s_own_saves_what_loads_again(saved):
    class Mine(EsmForSecondaryStructure):
        pass

    Mine.from_pretrained(saved / "model").save_pretrained(saved / "mine")
    assert type(EsmForSecondaryStructure.from_pretrained(saved / "mine")) is EsmForSecondaryStructure
