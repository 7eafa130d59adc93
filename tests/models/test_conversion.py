"""Backbones that are pickles: which copy is taken, and what converting them writes, refuses and survives."""

import io
import json
import os
import pickle
import re
import shutil
import signal
import zipfile
from pathlib import Path

import pytest
import torch
from hub_layouts import NAME, add_layout, pickled, prot_t5_files, prot_t5_weights, prot_t5_weights_once, shards
from hub_server import offline, running_hub, using_hub
from safetensors.torch import load_file
from safetensors.torch import save as save_safetensors
from tiny_models import FAMILIES, save_tiny_backbone, tiny_backbone
from torch.torch_version import TorchVersion
from transformers import BertForMaskedLM, T5EncoderModel, safetensors_conversion

from lift_ss_hf.models import conversion, pickles
from lift_ss_hf.models.atomic import is_leftover
from lift_ss_hf.models.backbones import BackboneError, PickleError, fingerprint, get_family, portable_name
from lift_ss_hf.models.conversion import convert_backbone, write_shards
from lift_ss_hf.models.pickles import ROBOT
from lift_ss_hf.models.t5 import T5ForSecondaryStructure
from lift_ss_hf.models.tokenization import ResidueTokenizer

T5 = get_family("t5")
FINGERPRINT = fingerprint(tiny_backbone("t5").half().float())


@pytest.fixture
def hub(tmp_path):
    with running_hub() as server, using_hub(server, tmp_path / "home"):
        yield server


@pytest.fixture
def folder(tmp_path):
    """A local ProtT5 with a pickle."""
    prot_t5_files(tmp_path / "pickled")
    (tmp_path / "pickled" / "pytorch_model.bin").write_bytes(pickled(prot_t5_weights()))
    return tmp_path / "pickled"


def downloads(hub, suffix=".bin"):
    return [request for request in hub.requests if request.startswith("GET") and suffix in request.split("?")[0]]


# ---- what is taken ---------------------------------------------------------------------------------------------------


def test_a_pickle_is_refused_with_what_to_do_and_what_it_costs(hub, tmp_path):
    add_layout(hub, "pickle", tmp_path / "files")
    expected = r"only pytorch_model\.bin \(\d+ kB\): a pickle.*`lift-ss convert-backbone org/prot_t5`.*downloads \d+ kB"
    with pytest.raises(PickleError, match=expected) as refused:
        T5.load(NAME)
    assert "\n" not in str(refused.value)
    with pytest.raises(PickleError, match="convert-backbone org/prot_t5 --revision main`"):
        T5.load(NAME, revision="main")
    assert not downloads(hub, "/cdn/")
    with offline():
        for call in (T5.load, convert_backbone):
            with pytest.raises(BackboneError, match=r"cannot fetch the backbone 'org/prot_t5': .*offline") as refused:
                call(NAME)
            assert "\n" not in str(refused.value)


def test_a_converted_backbone_loads_by_name_and_without_network_or_pickle(hub, tmp_path):
    commit = add_layout(hub, "pickle", tmp_path / "files")
    place = Path(convert_backbone(NAME))
    assert {path.name for path in place.iterdir()} == {"config.json", "model.safetensors", "origin.json"}
    origin = json.loads((place / "origin.json").read_text())
    assert (origin["name"], origin["commit"]) == (NAME, commit)
    assert origin["sha256"] == {"pytorch_model.bin": place.name}
    for path in (tmp_path / "home" / "hub").rglob("*"):
        if path.name in (place.name, "pytorch_model.bin"):
            path.unlink()
    hub.requests.clear()
    assert fingerprint(T5.load(NAME)) == fingerprint(T5.load(NAME, revision=commit)) == FINGERPRINT
    assert convert_backbone(NAME) == str(place)
    assert not downloads(hub)
    with offline():
        assert fingerprint(T5.load(NAME)) == FINGERPRINT
        model = T5ForSecondaryStructure.from_backbone(NAME, adapter=None, head="linear")
    config = model.config
    assert (config.backbone_name, config.backbone_revision) == (NAME, commit)
    assert config.backbone_fingerprint == FINGERPRINT


def test_what_is_converted_belongs_to_the_pickle_not_to_its_name(hub, tmp_path):
    add_layout(hub, "pickle", tmp_path / "files")
    convert_backbone(NAME)
    files = dict(hub.snapshot(NAME, "main")[1])
    hub.add(NAME, files | {"README.md": b"# A new card"})
    hub.add("other/copy", files)
    assert fingerprint(T5.load(NAME)) == fingerprint(T5.load("other/copy")) == FINGERPRINT
    changed = {key: tensor + 1 for key, tensor in prot_t5_weights().items()}
    hub.add(NAME, files | {"pytorch_model.bin": pickled(changed)})
    with pytest.raises(PickleError, match="convert-backbone"):
        T5.load(NAME)


def test_what_was_converted_for_another_commit_or_name_loads_offline_once_it_was_found(hub, tmp_path):
    add_layout(hub, "pickle", tmp_path / "files")
    convert_backbone(NAME)
    files = dict(hub.snapshot(NAME, "main")[1])
    hub.add(NAME, files | {"README.md": b"# A new card"})
    hub.add("other/copy", files)
    hub.add("third/copy", files)
    convert_backbone(NAME)
    convert_backbone("other/copy")
    T5.load("third/copy")
    with offline():
        for name in (NAME, "other/copy", "third/copy"):
            assert fingerprint(T5.load(name)) == FINGERPRINT


def test_a_conversion_killed_before_the_answer_was_kept_loads_offline_once_it_was_found(hub, tmp_path, monkeypatch):
    add_layout(hub, "pickle", tmp_path / "files")
    with monkeypatch.context() as patch:
        patch.setattr(conversion, "write_lookup", lambda _: None)
        place = Path(convert_backbone(NAME))
    assert not (place.parents[1] / "lookups").exists()
    for path in (tmp_path / "home" / "hub").rglob("pytorch_model.bin"):
        path.unlink()
    convert_backbone(NAME)
    with offline():
        assert fingerprint(T5.load(NAME)) == FINGERPRINT


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("end", ["/discussions", "/revision/main"])
def test_a_hub_out_of_order_does_not_count_as_one_without_a_copy(hub, tmp_path, end, status):
    """Or the pickle, gigabytes of it, would be fetched although there is a copy."""
    add_layout(hub, "robot", tmp_path / "files")
    hub.statuses[end] = status
    for call in (T5.load, convert_backbone):
        with pytest.raises(BackboneError, match=rf"asked for a converted copy .*{status}.*Try again later") as told:
            call(NAME)
        assert "\n" not in str(told.value)
        assert not isinstance(told.value, PickleError)
    assert not downloads(hub, "/cdn/")
    hub.statuses.clear()
    assert fingerprint(T5.load(NAME)) == FINGERPRINT


@pytest.mark.parametrize("status", [403, 404, 410])
def test_a_repository_whose_discussions_are_closed_has_no_copy(hub, tmp_path, status):
    add_layout(hub, "pickle", tmp_path / "files")
    hub.statuses["/discussions"] = status
    with pytest.raises(PickleError, match="convert-backbone"):
        T5.load(NAME)


def test_the_copy_of_the_hub_s_robot_is_taken_for_main_and_for_a_commit(hub, tmp_path):
    commit = add_layout(hub, "robot", tmp_path / "files")
    hub.add(NAME, dict(hub.snapshot(NAME, "main")[1]) | {"README.md": b"# A new card"})
    assert fingerprint(T5.load(NAME, revision=commit)) == FINGERPRINT  # transformers finds none for a commit,
    assert fingerprint(T5.load(NAME)) == FINGERPRINT  # and none that is older than the last change of the card
    assert not downloads(hub)
    with offline():
        assert fingerprint(T5.load(NAME)) == FINGERPRINT


@pytest.mark.parametrize(
    ("author", "status", "changes"),
    [("somebody", "open", {}), (ROBOT, "closed", {}), (ROBOT, "open", {"pytorch_model.bin": b"another pickle"})],
    ids=["of somebody else", "rejected", "of another pickle"],
)
def test_other_pull_requests_are_not_taken(hub, tmp_path, author, status, changes):
    add_layout(hub, "pickle", tmp_path / "files")
    files = hub.snapshot(NAME, "main")[1]
    hub.offer(NAME, files | {"model.safetensors": save_safetensors(prot_t5_weights_once())} | changes, author, status)
    with pytest.raises(PickleError, match="convert-backbone"):
        T5.load(NAME)


def test_safetensors_that_main_has_now_are_taken_for_a_commit_with_the_same_pickle(hub, tmp_path):
    commit = add_layout(hub, "pickle", tmp_path / "files")
    hub.add(NAME, hub.snapshot(NAME, "main")[1] | {"model.safetensors": save_safetensors(prot_t5_weights_once())})
    assert fingerprint(T5.load(NAME, revision=commit)) == FINGERPRINT


def test_nobody_is_asked_to_convert(hub, tmp_path, monkeypatch):
    """transformers would have a program on the Hub do it, and send it the user's token."""

    def asked(*_, **__):
        raise AssertionError("the Hub was asked to convert")

    monkeypatch.setattr(safetensors_conversion, "spawn_conversion", asked)
    add_layout(hub, "pickle", tmp_path / "files")
    with pytest.raises(PickleError):
        T5.load(NAME)
    hub.add("org/nothing", {"config.json": hub.snapshot(NAME, "main")[1]["config.json"]})
    with pytest.raises(BackboneError, match="cannot fetch the backbone 'org/nothing'"):
        T5.load("org/nothing")


# ---- what is written -------------------------------------------------------------------------------------------------


def test_only_the_encoder_is_written_as_it_is(folder, tmp_path):
    out = Path(convert_backbone(folder, output=tmp_path / "out"))
    assert {path.stat().st_mode for path in out.iterdir()} == {(folder / "config.json").stat().st_mode}
    written = load_file(out / "model.safetensors")
    expected = {key: tensor for key, tensor in prot_t5_weights_once().items() if not key.startswith("decoder.")}
    assert written.keys() == expected.keys()
    assert all(torch.equal(written[key], expected[key]) for key in expected)  # and of the same type
    assert (out / "config.json").read_bytes() == (folder / "config.json").read_bytes()
    assert fingerprint(T5.load(str(out))) == FINGERPRINT
    assert ResidueTokenizer.from_pretrained(out)("MKT") == ResidueTokenizer.from_pretrained(folder)("MKT")
    T5EncoderModel.from_pretrained(out)  # for other programs, too


@pytest.mark.parametrize("layout", ["both", "robot", "safetensors_shards", "cached"])
def test_a_folder_is_written_from_safetensors_where_there_are_any(hub, tmp_path, layout):
    commit = add_layout(hub, "pickle" if layout == "cached" else layout, tmp_path / "files")
    if layout == "cached":
        convert_backbone(NAME)
        for path in (tmp_path / "home" / "hub").rglob("pytorch_model.bin"):
            path.unlink()
        hub.requests.clear()
    out = tmp_path / "out"
    assert convert_backbone(NAME, output=out) == str(out)
    assert not downloads(hub)
    origin = json.loads((out / "origin.json").read_text())
    assert (origin["name"], origin["commit"]) == (NAME, commit)
    assert load_file(out / "model.safetensors").keys() == {
        key for key in prot_t5_weights_once() if not key.startswith("decoder.")
    }
    with offline():
        assert fingerprint(T5.load(str(out))) == FINGERPRINT
        assert ResidueTokenizer.from_pretrained(out)("MKT")["input_ids"]
        with pytest.raises(ValueError, match=r"out exists\. Give a new folder"):
            convert_backbone(NAME, output=out)


def test_a_folder_with_safetensors_is_written_for_each_family(tmp_path):
    for family in FAMILIES:
        save_tiny_backbone(tmp_path / family, family)
        out = convert_backbone(tmp_path / family, output=tmp_path / f"{family}_out")
        there, here = (fingerprint(get_family(family).load(str(folder))) for folder in (tmp_path / family, out))
        assert there == here


def test_a_model_over_a_written_folder_records_the_hub_s_name_and_loads_here_and_elsewhere(hub, tmp_path):
    commit = add_layout(hub, "robot", tmp_path / "files")
    out = convert_backbone(NAME, output=tmp_path / "out")
    with using_hub(hub, tmp_path / "cluster"):  # where nothing of it is in the cache
        with offline():
            model = T5ForSecondaryStructure.from_backbone(out, adapter=None, head="linear")
            assert (model.config.backbone_name, model.config.backbone_revision) == (NAME, commit)
            model.save_pretrained(tmp_path / "model")
            for load in (T5ForSecondaryStructure.from_pretrained, ResidueTokenizer.from_pretrained):
                load(tmp_path / "model")
        (tmp_path / "out").rename(tmp_path / "moved")
        with offline(), pytest.raises(BackboneError, match=r"cannot fetch the backbone 'org/prot_t5'.*pass backbone="):
            T5ForSecondaryStructure.from_pretrained(tmp_path / "model")
    with using_hub(hub, tmp_path / "elsewhere"):
        T5ForSecondaryStructure.from_pretrained(tmp_path / "model")


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b"[]",
        b'{"commit": "' + b"0" * 40 + b'"}',
        b'{"name": "../../etc", "commit": "' + b"0" * 40 + b'"}',
        b'{"name": "org/name", "commit": null}',
        b'{"name": "org/name", "commit": "../main"}',
    ],
)
def test_a_damaged_or_foreign_origin_is_ignored(tmp_path, content):
    (tmp_path / "origin.json").write_bytes(content)
    assert portable_name(tmp_path) == (str(tmp_path), None)


@pytest.mark.parametrize("damage", ["cut", "part missing"])
def test_damaged_safetensors_are_not_written_to_a_folder(tmp_path, damage):
    save_tiny_backbone(tmp_path / "in", "esm")
    weights = tmp_path / "in" / "model.safetensors"
    if damage == "cut":
        weights.write_bytes(weights.read_bytes()[:-100])
        expected = "is damaged"
    else:
        write_shards(load_file(weights), tmp_path / "in", shard_bytes=10_000)
        weights.unlink()
        min((tmp_path / "in").glob("*.safetensors")).unlink()
        expected = "cannot fetch the safetensors of .* are missing"
    with pytest.raises(BackboneError, match=expected) as told:
        convert_backbone(tmp_path / "in", output=tmp_path / "out")
    assert "\n" not in str(told.value)
    assert not (tmp_path / "out").exists()


def test_pickles_in_parts_and_of_old_torch_are_converted(folder, tmp_path):
    weights = prot_t5_weights()
    old = io.BytesIO()
    torch.save(weights, old, _use_new_zipfile_serialization=False)
    (folder / "pytorch_model.bin").write_bytes(old.getvalue())
    assert fingerprint(T5.load(convert_backbone(folder, output=tmp_path / "old"))) == FINGERPRINT
    (folder / "pytorch_model.bin").unlink()
    for file, content in shards(weights, "part{}.bin", "pytorch_model.bin.index.json", pickled).items():
        (folder / file).write_bytes(content)
    assert fingerprint(T5.load(convert_backbone(folder, output=tmp_path / "parts"))) == FINGERPRINT


def test_names_of_a_whole_model_and_of_tensorflow_are_understood(tmp_path):
    folder = tmp_path / "bert"
    save_tiny_backbone(folder, "bert")
    encoder = load_file(folder / "model.safetensors")
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    weights = {f"bert.{key}": tensor for key, tensor in encoder.items()}
    for new, name in old.items():
        weights = {key.replace(new, name): tensor for key, tensor in weights.items()}
    assert any(key.endswith("gamma") for key in weights)
    head = BertForMaskedLM(tiny_backbone("bert").config).cls.state_dict(prefix="cls.")
    (folder / "pytorch_model.bin").write_bytes(pickled(weights | head))
    (folder / "model.safetensors").unlink()
    converted = convert_backbone(folder, output=tmp_path / "out")
    assert fingerprint(get_family("bert").load(converted)) == fingerprint(tiny_backbone("bert"))
    assert all(torch.equal(encoder[key], tensor) for key, tensor in load_file(f"{converted}/model.safetensors").items())


def test_weights_are_written_in_files_of_limited_size(tmp_path):
    base = torch.arange(64.0).reshape(8, 8)
    weights = {"whole": base.clone(), "turned": base.T.contiguous().T, "part": base[2:4], "other_part": base[3:5]}
    write_shards(weights, tmp_path, shard_bytes=256)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())["weight_map"]
    assert len(set(index.values())) > 1
    written = {name: load_file(tmp_path / file)[name] for name, file in index.items()}
    assert all(torch.equal(written[name], tensor) for name, tensor in weights.items())


def test_a_local_folder_is_converted_in_the_cache_too(hub, folder):
    with pytest.raises(PickleError, match=re.escape(f"lift-ss convert-backbone {folder}`")) as refused:
        T5.load(str(folder))
    assert "downloads" not in str(refused.value)
    convert_backbone(folder)
    assert fingerprint(T5.load(str(folder))) == FINGERPRINT


def test_a_local_pickle_is_hashed_once_until_it_changes(hub, folder, monkeypatch):
    convert_backbone(folder)
    with monkeypatch.context() as patch:
        patch.setattr(pickles, "computed_checksum", lambda path: pytest.fail(f"{path} was read again"))
        assert fingerprint(T5.load(str(folder))) == FINGERPRINT
    weights, facts = folder / "pytorch_model.bin", (folder / "pytorch_model.bin").stat()
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + b"!")  # of the same size
    os.utime(weights, ns=(facts.st_atime_ns, facts.st_mtime_ns + 1))
    with pytest.raises(PickleError, match="convert-backbone"):
        T5.load(str(folder))


def test_a_local_pickle_loads_where_its_checksum_cannot_be_kept(hub, folder, tmp_path):
    convert_backbone(folder)
    kept = tmp_path / "home" / "lift_ss_hf" / "checksums"
    shutil.rmtree(kept)
    kept.write_text("in the way")
    assert fingerprint(T5.load(str(folder))) == FINGERPRINT


def test_an_existing_output_is_left_alone(folder, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("mine")
    with pytest.raises(ValueError, match=r"out exists\. Give a new folder"):
        convert_backbone(folder, output=tmp_path / "out")
    assert (tmp_path / "out" / "thesis.tex").read_text() == "mine"


def test_an_interrupted_conversion_leaves_nothing(hub, tmp_path, monkeypatch):
    add_layout(hub, "pickle", tmp_path / "files")

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    for step in ("write_shards", "encoder_weights"):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(conversion, step, interrupted)
            convert_backbone(NAME)
        with pytest.raises(PickleError):
            T5.load(NAME)
    assert not [path for path in (tmp_path / "home" / "lift_ss_hf" / "backbones").iterdir() if path.is_dir()]


@pytest.mark.process
def test_of_a_killed_conversion_nothing_is_taken_and_the_next_one_is_whole(hub, folder, tmp_path):
    child = os.fork()
    if child == 0:
        conversion.shutil.copyfile = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # once the weights are written
        convert_backbone(folder)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    backbones = tmp_path / "home" / "lift_ss_hf" / "backbones"
    (half,) = [path for path in backbones.iterdir() if path.is_dir()]
    assert is_leftover(half) and (half / "model.safetensors").is_file()
    with pytest.raises(PickleError):
        T5.load(str(folder))
    place = convert_backbone(folder)
    assert fingerprint(T5.load(str(folder))) == FINGERPRINT
    assert [path for path in backbones.iterdir() if path.is_dir()] == [Path(place)]


# ---- what is refused -------------------------------------------------------------------------------------------------


class Hostile:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


def hostile_pickles(path):
    weights = prot_t5_weights()
    yield "plain", pickle.dumps(Hostile(path), protocol=2)
    yield "in a table", pickled(weights | {"shared.weight": Hostile(path)})
    yield "beside the weights", pickled(weights | {"extra": Hostile(path)})


def test_a_hostile_pickle_is_refused_and_nothing_of_it_runs(hub, folder, tmp_path):
    ran = tmp_path / "ran"
    for where, content in hostile_pickles(ran):
        (folder / "pytorch_model.bin").write_bytes(content)
        with pytest.raises(
            BackboneError, match=r"pytorch_model\.bin of .*cannot be converted: it asks for \w+\.mkdir"
        ) as told:
            convert_backbone(folder)
        assert "\n" not in str(told.value), where
        assert not ran.exists(), where
    with pytest.raises(PickleError):
        T5.load(str(folder))
    torch.load(folder / "pytorch_model.bin", weights_only=False)
    assert ran.exists()  # these pickles do run code where they are read as pickles


def compressed(content):
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry))
    return file.getvalue()


WEIGHTS = prot_t5_weights()
REPEATED = torch.zeros(1, 1, dtype=torch.float16).expand(30, 32)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a file of weights, or is cut"),
        (b"garbage" * 1000, "not a file of weights, or is cut"),
        (pickled(WEIGHTS)[:-200], "not a file of weights, or is cut"),
        (compressed(pickled(WEIGHTS)), "not a file of weights, or is cut"),
        (pickled([1, 2]), "expected a table of weights"),
        (pickled({}), "expected a table of weights"),
        (pickled({"model": WEIGHTS}), "expected a table of weights"),
        (pickled(WEIGHTS | {"shared.weight": REPEATED}), "expected a table of weights"),
        (pickled(WEIGHTS | {"shared.weight": torch.zeros(31, 32)}), r"shape \(31, 32\). Expected .*shape \(30, 32\)"),
        (pickled(WEIGHTS | {"shared.weight": torch.zeros(30, 32).int()}), "is torch.int32 of shape"),
        (pickled({"shared.weight": WEIGHTS["shared.weight"]}), "lacks 3. weights of its encoder"),
    ],
)
def test_what_is_not_the_encoder_s_weights_is_refused(folder, tmp_path, content, message):
    (folder / "pytorch_model.bin").write_bytes(content)
    with pytest.raises(BackboneError, match=message) as told:
        convert_backbone(folder, output=tmp_path / "out")
    assert "\n" not in str(told.value)
    assert not (tmp_path / "out").exists()
    assert not [path for path in tmp_path.iterdir() if is_leftover(path)]


def test_sizes_that_do_not_fit_the_configuration_are_refused_before_the_download(hub, tmp_path, monkeypatch):
    add_layout(hub, "pickle", tmp_path / "files")
    monkeypatch.setattr(conversion, "FREE_BYTES", 0)
    monkeypatch.setattr(conversion, "MOST_BYTES_PER_PARAMETER", 1)
    with pytest.raises(ValueError, match=r"is larger than a model of .* parameters can be"):
        convert_backbone(NAME)
    assert not downloads(hub, "/cdn/")


def test_a_download_that_is_not_the_hub_s_file_is_refused(hub, tmp_path):
    add_layout(hub, "pickle", tmp_path / "files")
    serve = hub.large

    class Damaged(dict):
        def __getitem__(self, checksum):
            return serve[checksum][:-1] + b"!"

        def __setitem__(self, checksum, content):
            serve[checksum] = content

    hub.large = Damaged()
    with pytest.raises(BackboneError, match="is damaged: its SHA-256 is"):
        convert_backbone(NAME)


def test_an_old_torch_converts_nothing(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "__version__", TorchVersion("2.9.1"))
    with pytest.raises(BackboneError, match=r"torch 2\.9\.1 can be made to run code.*Install torch 2\.10 or later"):
        convert_backbone(folder, output=tmp_path / "out")


def test_a_backbone_without_any_weights_is_not_converted(folder):
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(BackboneError, match="no weights that can be converted"):
        convert_backbone(folder)


# ---- half precision --------------------------------------------------------------------------------------------------


def test_weights_in_half_precision_are_computed_in_bf16_or_fp32(folder, tmp_path):
    weights = prot_t5_weights()
    for key in weights:
        if key.endswith((".wi.weight", ".wo.weight")):
            weights[key] = weights[key] * 3000
    (folder / "pytorch_model.bin").write_bytes(pickled(weights))
    out = convert_backbone(folder, output=tmp_path / "out")
    tokens = torch.arange(3, 23)[None]

    def error(model):
        with torch.no_grad():
            return float((model(tokens).last_hidden_state - exact).abs().max())

    with torch.no_grad():
        exact = T5EncoderModel.from_pretrained(out, dtype=torch.float64)(tokens).last_hidden_state
    assert (
        error(T5EncoderModel.from_pretrained(out, dtype=torch.float32).half()) > 0.5
    )  # values of about 1: it overflows
    assert error(T5.load(out, dtype=torch.bfloat16)) < 0.05
    assert error(T5.load(out)) < 1e-4
    assert T5.load(out).dtype == torch.float32
    with pytest.raises(ValueError, match=r"t5 backbones overflow in float16.*Use bfloat16, or float32"):
        T5.load(out, dtype=torch.float16)
