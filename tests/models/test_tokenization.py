import importlib.util
import json
import re

import datasets
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sentencepiece import SentencePieceProcessor
from tiny_models import (
    FAMILIES,
    TRANSFORMERS_4,
    prostt5_tokenizer,
    prot_t5_tokenizer,
    save_tiny_backbone,
    stock_tokenizer,
    tiny_backbone,
    write_spiece,
)
from tokenizers import Tokenizer, models, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast, T5Tokenizer

from lift_ss_hf.models import safety
from lift_ss_hf.models.backbones import get_family
from lift_ss_hf.models.modeling import SecondaryStructureModel
from lift_ss_hf.models.sequences import RARE_RESIDUES, STANDARD_RESIDUES, clean_sequence
from lift_ss_hf.models.tokenization import NoTokenizerError, ResidueTokenizer

RESIDUES = STANDARD_RESIDUES + RARE_RESIDUES
LEADING = {"<AA2fold>": "prostt5", "[NLU]": "ankh3"}  # by token


@pytest.fixture(scope="module")
def stock(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizers")
    return {family: stock_tokenizer(family, folder) for family in FAMILIES}


@pytest.mark.parametrize("family", FAMILIES)
@given(sequence=st.text(STANDARD_RESIDUES + "X", min_size=1, max_size=60))
def test_clean_residues_get_the_tokens_of_the_stock_tokenizer(stock, family, sequence):
    tokenizer = ResidueTokenizer.from_stock(stock[family], get_family(family))
    written = sequence if family.startswith("esm") else " ".join(sequence)  # ProtT5 and ProtBert read words
    expected = stock[family](written)["input_ids"]
    assert tokenizer.encode_sequence(sequence).tolist() == expected
    assert tokenizer(sequence)["input_ids"] == tokenizer.encode(sequence) == expected


@pytest.mark.parametrize("family", FAMILIES)
@given(sequence=st.text(RESIDUES + RESIDUES.lower(), min_size=1, max_size=60))
def test_one_residue_is_one_token(stock, family, sequence):
    tokenizer = ResidueTokenizer.from_stock(stock[family], get_family(family))
    tokens = tokenizer.encode_sequence(sequence)
    assert len(tokens) == len(sequence) + tokenizer.num_leading + tokenizer.num_trailing
    assert tokens.tolist() == tokenizer(sequence)["input_ids"]
    assert tokens.dtype == np.int64
    residues = stock[family].convert_ids_to_tokens(tokens[tokenizer.residue_slice()].tolist())
    expected = ["X" if letter in tokenizer.replaced else letter for letter in sequence.upper()]
    assert [residue.lstrip("▁") for residue in residues] == expected


def test_rare_residues_by_family(stock):
    assert ResidueTokenizer.from_stock(stock["esm"], get_family("esm")).replaced == "J"
    assert ResidueTokenizer.from_stock(stock["t5"], get_family("t5")).replaced == "BJOUZ"
    assert ResidueTokenizer.from_stock(stock["bert"], get_family("bert")).replaced == "BJOUZ"
    tokenizer = ResidueTokenizer.from_stock(stock["t5"], get_family("t5"))
    assert tokenizer.count_replaced(clean_sequence("MUkZX")) == 2


def test_runs_that_shift_the_stock_tokenizer_do_not_shift_labels(stock):
    assert len(stock["esm"]("MJJJK")["input_ids"]) == 5  # <cls> M <unk> K <eos>: why this class exists
    chain = ResidueTokenizer.from_stock(stock["esm"], get_family("esm")).encode_chain("MJJJK", "LLEEH")
    assert chain["input_ids"].tolist() == stock["esm"]("MXXXK")["input_ids"]
    assert chain["labels"].tolist() == [-100, 0, 0, 2, 2, 5, -100]


def test_labels_are_folded_and_unresolved_residues_ignored(stock):
    tokenizer = ResidueTokenizer.from_stock(stock["t5"], get_family("t5"))
    assert tokenizer.encode_chain("MKTA", "XHP-", "q3")["labels"].tolist() == [-100, 2, 0, 0, -100]
    assert "labels" not in tokenizer.encode_chain("MKTA")


@pytest.mark.parametrize(
    ("sequence", "states", "message"),
    [
        ("M" * 75, "L" * 74, "1abc_A: 75 residues but 74 states. Mark unresolved residues X instead of dropping them."),
        ("MK*T", "LLLL", r"1abc_A: '\*' at position 3 is not a residue"),
        ("MKT", "LQL", "1abc_A: unknown state 'Q' at position 2"),
        ("", "", "1abc_A: the sequence is empty"),
    ],
)
def test_a_chain_that_is_wrong_is_named(stock, sequence, states, message):
    with pytest.raises(ValueError, match=message):
        ResidueTokenizer.from_stock(stock["esm"], get_family("esm")).encode_chain(sequence, states, name="1abc_A")


def test_tokens_fit_the_model(stock, tmp_path):
    name = save_tiny_backbone(tmp_path / "backbone", "esm")
    model = SecondaryStructureModel.from_backbone(name, head="linear")
    tokenizer = ResidueTokenizer.from_pretrained(name)
    batch = tokenizer(["MKTA", "MK"], padding=True, return_tensors="pt")
    input_ids, attention_mask = batch["input_ids"], batch["attention_mask"]
    assert attention_mask.tolist() == [[1] * 6, [1, 1, 1, 1, 0, 0]]
    residues = model.residue_mask(attention_mask)
    assert residues.sum(1).tolist() == [4, 2]
    assert not torch.isin(input_ids[residues], torch.tensor(tokenizer.all_special_ids)).any()
    assert torch.isin(input_ids[~residues], torch.tensor(tokenizer.all_special_ids)).all()


def test_it_is_found_with_the_model_or_with_its_backbone(tmp_path):
    name = save_tiny_backbone(tmp_path / "backbone", "esm")
    expected = ResidueTokenizer.from_pretrained(name).encode("MKTAYIAK")
    SecondaryStructureModel.from_backbone(name, head="linear").save_pretrained(tmp_path / "model")
    assert ResidueTokenizer.from_pretrained(tmp_path / "model").encode("MKTAYIAK") == expected
    (tmp_path / "backbone").rename(tmp_path / "moved")
    with pytest.raises(ValueError, match="no tokenizer was found"):
        ResidueTokenizer.from_pretrained(tmp_path / "model")
    moved = ResidueTokenizer.from_pretrained(tmp_path / "model", backbone=tmp_path / "moved")
    moved.save_pretrained(tmp_path / "model")
    assert ResidueTokenizer.from_pretrained(tmp_path / "model").encode("MKTAYIAK") == expected
    auto = AutoTokenizer.from_pretrained(tmp_path / "model")
    assert isinstance(auto, ResidueTokenizer)
    assert auto("MKTAYIAK")["input_ids"] == expected
    with pytest.raises(ValueError, match=r"cannot read the configuration of .*nowhere"):
        ResidueTokenizer.from_pretrained(tmp_path / "nowhere")


def test_tokenizers_that_do_not_fit_are_refused(stock):
    with pytest.raises(
        ValueError, match="puts 2 special tokens around a sequence, but a backbone of type t5 has 0 before and 1"
    ):
        ResidueTokenizer.from_stock(stock["esm"], get_family("t5"))
    backend = Tokenizer(models.WordLevel({"the": 0, "<pad>": 1}))
    backend.post_processor = processors.TemplateProcessing(single="the $A the", special_tokens=[("the", 0)])
    words = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>")
    with pytest.raises(ValueError, match=r"no token for A, C, D, .*: it is not a tokenizer of protein residues"):
        ResidueTokenizer.from_stock(words, get_family("esm"))


def test_padding_and_truncation_of_the_last_call_are_not_kept(tmp_path):
    tokenizer = ResidueTokenizer.from_pretrained("bundled")
    expected = tokenizer.encode_sequence("MKTAYIAK").tolist()
    tokenizer("MKT", padding="max_length", max_length=16)
    tokenizer.save_pretrained(tmp_path / "padded")
    tokenizer("MKTAYIAK", truncation=True, max_length=2)
    tokenizer.save_pretrained(tmp_path / "truncated")
    for folder in (tmp_path / "padded", tmp_path / "truncated"):
        again = ResidueTokenizer.from_pretrained(folder)
        assert (again.num_leading, again.num_trailing) == (1, 1)
        assert again.encode_sequence("MKTAYIAK").tolist() == again("MKTAYIAK")["input_ids"] == expected


@pytest.mark.parametrize("family", FAMILIES)
def test_it_saves_and_loads_by_itself(stock, family, tmp_path):
    tokenizer = ResidueTokenizer.from_stock(stock[family], get_family(family))
    tokenizer.save_pretrained(tmp_path)
    for again in (ResidueTokenizer.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)):
        assert isinstance(again, ResidueTokenizer)
        assert again(RESIDUES)["input_ids"] == tokenizer(RESIDUES)["input_ids"]
        assert again.replaced == tokenizer.replaced


def test_residues_come_back_from_their_tokens():
    tokenizer = ResidueTokenizer.from_pretrained("bundled")
    assert tokenizer.decode(tokenizer("mktj")["input_ids"], skip_special_tokens=True) == "MKTX"
    assert tokenizer("")["input_ids"] == [*tokenizer("M")["input_ids"][:1], *tokenizer("M")["input_ids"][-1:]]


def test_a_corpus_in_numpy_s_format_is_encoded_too():
    tokenizer = ResidueTokenizer.from_pretrained("bundled")
    chains = datasets.Dataset.from_dict({"id": ["a", "b"], "sequence": ["MK", "TAY"], "states": ["HH", "LEE"]})
    plain, formatted = (
        corpus.map(tokenizer.encode_batch, batched=True, remove_columns=chains.column_names)
        for corpus in (chains, chains.with_format("numpy"))
    )
    assert formatted.with_format(None)[:] == plain[:]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda t: t("MK", "TA"), ValueError, "has no pair"),
        (lambda t: t(["MK", None]), TypeError, "found NoneType"),
        (lambda t: t("MK*"), ValueError, "'*' at position 3 is not a residue"),
        (lambda t: t.encode_batch({"sequence": ["MK", "M1"]}), ValueError, "row 2 of the batch: '1' at position 2"),
        (
            lambda t: t.encode_batch({"sequence": ["MK", "M"], "states": ["HH", None], "id": ["a", "b"]}),
            ValueError,
            "b: no states, but other rows have them",
        ),
        (lambda t: t.save_pretrained("nowhere", include_code=True), ValueError, "has no tokenization.py"),
    ],
)
def test_invalid_calls_are_one_line(call, error, message):
    with pytest.raises(error) as caught:
        call(ResidueTokenizer.from_pretrained("bundled"))
    assert message in str(caught.value)


@pytest.mark.parametrize("has_tokenizer", [True, False])
def test_the_subfolder_is_the_model_s_and_each_configuration_is_read_once(tmp_path, monkeypatch, has_tokenizer):
    save_tiny_backbone(tmp_path / "backbone", "esm")
    model = SecondaryStructureModel.from_backbone(tmp_path / "backbone", head="linear")
    model.save_pretrained(tmp_path / "models" / "first")
    expected = ResidueTokenizer.from_pretrained(tmp_path / "backbone")
    if has_tokenizer:
        expected.save_pretrained(tmp_path / "models" / "first")
    read, original = [], safety.cached_file

    def counted(name, file, **options):
        read.append((name, file))
        return original(name, file, **options)

    monkeypatch.setattr(safety, "cached_file", counted)
    tokenizer = ResidueTokenizer.from_pretrained(tmp_path / "models", subfolder="first")
    assert tokenizer("MKT")["input_ids"] == expected("MKT")["input_ids"]
    places = [str(tmp_path / "models"), *([] if has_tokenizer else [str(tmp_path / "backbone")])]
    assert [name for name, file in read if file == "config.json"] == places


def test_model_and_tokenizer_take_the_same_options_of_a_download(tmp_path, monkeypatch):
    save_tiny_backbone(tmp_path, "esm")
    given = {"cache_dir": str(tmp_path), "force_download": False, "local_files_only": True, "proxies": {}, "token": "t"}
    seen, original = [], safety.cached_file
    monkeypatch.setattr(
        safety, "cached_file", lambda *args, **options: seen.append(options) or original(*args, **options)
    )
    ResidueTokenizer.from_pretrained(tmp_path, **given)
    assert seen
    assert all(options.items() >= given.items() for options in seen)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"post_processor": None},
            "puts 0 special tokens around a sequence, but a backbone of type esm has 1",
        ),
        ({"pre_tokenizer": None}, "does not give each residue its own token"),
        ({"normalizer": {"type": "Lowercase"}}, "gives A another token than its own"),
    ],
)
def test_files_that_would_shift_or_lose_states_are_refused(change, message, tmp_path):
    """A model's states are those of its residues' tokens: with others, there would be fewer states than residues."""
    backbone = save_tiny_backbone(tmp_path / "backbone", "esm")
    SecondaryStructureModel.from_backbone(backbone, head="linear").save_pretrained(tmp_path / "model")
    ResidueTokenizer.from_pretrained(backbone).save_pretrained(tmp_path / "model")
    path = tmp_path / "model" / "tokenizer.json"
    expected = ResidueTokenizer.from_pretrained(tmp_path / "model")("MKTAYIAK")["input_ids"]
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    if not TRANSFORMERS_4 and "post_processor" not in change:  # which change no token there
        assert ResidueTokenizer.from_pretrained(tmp_path / "model")("MKTAYIAK")["input_ids"] == expected
        return
    with pytest.raises(ValueError, match=message):
        ResidueTokenizer.from_pretrained(tmp_path / "model")


@pytest.mark.parametrize("extra", [[], ["<extra_id_0>"], {}])
def test_a_stock_tokenizer_of_either_version_of_transformers_is_read(extra, tmp_path):
    backbone = save_tiny_backbone(tmp_path, "t5")
    expected = ResidueTokenizer.from_pretrained(backbone)("MKTAYIAK")["input_ids"]
    path = tmp_path / "tokenizer_config.json"
    content = json.loads(path.read_text()) | {"extra_special_tokens": extra, "tokenizer_class": "T5Tokenizer"}
    path.write_text(json.dumps(content | {"extra_ids": len(extra)}))
    assert ResidueTokenizer.from_pretrained(backbone)("MKTAYIAK")["input_ids"] == expected


def test_the_longest_input_is_a_number(tmp_path):
    tokenizer = ResidueTokenizer.from_pretrained(save_tiny_backbone(tmp_path, "esm"))
    tokenizer.save_pretrained(tmp_path / "saved")
    path = tmp_path / "saved" / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_max_length": "x"}))
    with pytest.raises(ValueError, match=r"has 'model_max_length' 'x'\. Expected a number"):
        ResidueTokenizer.from_pretrained(tmp_path / "saved")


def test_a_vocabulary_of_sentencepiece_needs_that_library_and_says_so(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text('{"model_type": "t5", "vocab_size": 30}')
    (tmp_path / "tokenizer_config.json").write_text('{"extra_ids": 0}')
    write_spiece(tmp_path / "spiece.model")
    tokenizer = ResidueTokenizer.from_pretrained(tmp_path)
    assert tokenizer("MKT")["input_ids"] == prot_t5_tokenizer()("M K T")["input_ids"]
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "sentencepiece" else find_spec(name))
    with pytest.raises(ValueError, match=r"vocabulary in spiece\.model.*pip install sentencepiece protobuf"):
        ResidueTokenizer.from_pretrained(tmp_path)


# ---- tokens that a checkpoint expects before the residues ------------------------------------------------------------


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """For each leading token, the stock tokenizer, and the tokens that the authors' own preparation gives."""
    folder = tmp_path_factory.mktemp("ankh3")
    prostt5, ankh3 = prostt5_tokenizer(), stock_tokenizer("ankh3", folder)
    pieces = SentencePieceProcessor(model_file=str(folder / "spiece.model"))
    return {
        # README.md of github.com/mheinzinger/ProstT5
        "<AA2fold>": (prostt5, lambda sequence: prostt5(write_for_prostt5(sequence))["input_ids"]),
        # the card of huggingface.co/ElnaggarLab/ankh3-large: with T5Tokenizer, which was sentencepiece and `</s>`
        "[NLU]": (ankh3, lambda sequence: [*pieces.encode("[NLU]" + sequence), ankh3.eos_token_id]),
    }


def write_for_prostt5(sequence):
    return "<AA2fold> " + " ".join(re.sub("[UZOB]", "X", sequence))


@pytest.mark.parametrize("token", LEADING)
@given(sequence=st.text(STANDARD_RESIDUES + "X", min_size=1, max_size=60))
def test_residues_follow_the_leading_token_as_their_authors_publish_it(published, token, sequence):
    stock, tokens_of = published[token]
    tokenizer, expected = ResidueTokenizer.from_stock(stock, get_family("t5")), tokens_of(sequence)
    assert expected[0] == stock.convert_tokens_to_ids(token)
    assert tokenizer.encode_sequence(sequence).tolist() == tokenizer(sequence)["input_ids"] == expected
    assert (tokenizer.num_leading, tokenizer.num_trailing) == (1, 1)
    labels = tokenizer.encode_chain(sequence, "H" * len(sequence), "q3")["labels"]
    assert labels.tolist() == [-100, *[2] * len(sequence), -100]
    assert tokenizer.decode(expected, skip_special_tokens=True) == sequence


def test_ankh3_gets_no_unknown_token_before_its_residues(tmp_path):
    """Fast tokenizers, the only ones of transformers 5, put one there; its card says to use the slow one."""
    stock = stock_tokenizer("ankh3", tmp_path)
    assert stock("[NLU]MKT")["input_ids"] == [4, stock.unk_token_id, 15, 13, 21, 1]
    assert ResidueTokenizer.from_stock(stock, get_family("t5"))("MKT")["input_ids"] == [4, 15, 13, 21, 1]
    if TRANSFORMERS_4:
        slow = T5Tokenizer.from_pretrained(tmp_path, extra_ids=0)
        assert slow("[NLU]MKT", add_special_tokens=True, is_split_into_words=False)["input_ids"] == [4, 15, 13, 21, 1]


def test_rare_residues_of_prostt5_are_its_authors_x():
    stock = prostt5_tokenizer()
    expected = stock(write_for_prostt5("MUZOBK"))["input_ids"]
    assert ResidueTokenizer.from_stock(stock, get_family("t5"))("MUZOBK")["input_ids"] == expected


def test_rare_residues_are_x_to_ankh3_though_its_authors_replace_none(tmp_path):
    """LIFT_SS gives ProtT5 X for them, and so do we to every T5: which tokens Ankh 3 has for them, we could not read.

    A letter without a token would be `<unk>`. X itself is as published (see the test of the leading tokens above).
    """
    stock = stock_tokenizer("ankh3", tmp_path)
    assert {"B", "O", "U", "Z"} <= stock.get_vocab().keys()
    tokenizer = ResidueTokenizer.from_stock(stock, get_family("t5"))
    assert tokenizer("MBJOUZK")["input_ids"] == tokenizer("MXXXXXK")["input_ids"]
    pieces = SentencePieceProcessor(model_file=str(tmp_path / "spiece.model"))
    assert tokenizer("MXXXXXK")["input_ids"] == [*pieces.encode("[NLU]MXXXXXK"), stock.eos_token_id]
    assert tokenizer("MUK")["input_ids"] != [*pieces.encode("[NLU]MUK"), stock.eos_token_id]


def test_a_sequence_in_lower_case_is_no_structure_to_prostt5():
    """Its 3Di states are lower-case letters, which are other tokens than the residues of that letter."""
    stock = prostt5_tokenizer()
    tokenizer = ResidueTokenizer.from_stock(stock, get_family("t5"))
    assert tokenizer("mkt")["input_ids"] == tokenizer("MKT")["input_ids"] == stock("<AA2fold> M K T")["input_ids"]
    assert tokenizer("mkt")["input_ids"] != stock("<AA2fold> m k t")["input_ids"]


@pytest.mark.parametrize("token", LEADING)
def test_the_leading_token_is_recorded_with_the_model(token, tmp_path):
    """A model knows where its residues are without a tokenizer, and a tokenizer of another kind is refused."""
    save_tiny_backbone(tmp_path / "backbone", LEADING[token])
    SecondaryStructureModel.from_backbone(tmp_path / "backbone", head="linear").save_pretrained(tmp_path / "model")
    assert json.loads((tmp_path / "model" / "config.json").read_text())["leading_token"] == token
    model = SecondaryStructureModel.from_pretrained(tmp_path / "model")
    assert model.residue_mask(torch.ones(1, 5)).tolist() == [[False, True, True, True, False]]
    expected = ResidueTokenizer.from_pretrained(tmp_path / "backbone")
    expected.save_pretrained(tmp_path / "model")
    again = AutoTokenizer.from_pretrained(tmp_path / "model")
    assert again("MKT")["input_ids"] == expected("MKT")["input_ids"]
    prot_t5 = ResidueTokenizer.from_stock(prot_t5_tokenizer(), get_family("t5"))
    prot_t5.save_pretrained(tmp_path / "model")
    message = rf"puts 1 special tokens .* but a backbone of type t5 with '{re.escape(token)}' has 1 before and 1 after"
    with pytest.raises(ValueError, match=message):
        ResidueTokenizer.from_pretrained(tmp_path / "model")


def test_a_backbone_without_tokenizer_files_has_no_leading_token(tmp_path):
    tiny_backbone("t5").save_pretrained(tmp_path)
    assert SecondaryStructureModel.plan(tmp_path).leading_token is None
    with pytest.raises(NoTokenizerError, match="no tokenizer was found"):
        ResidueTokenizer.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("family", "token", "message"),
    [
        ("esm", "<AA2fold>", r"leading_token is '<AA2fold>'\. Backbones of type esm have one of: null\."),
        ("t5", "<cls>", r"leading_token is '<cls>'\. Backbones of type t5 have one of: null, <AA2fold>, \[NLU\]\."),
        ("t5", 3, r"leading_token is 3\. Expected a token, or null"),
    ],
)
def test_leading_tokens_that_a_family_does_not_have_are_refused(family, token, message, tmp_path):
    backbone = save_tiny_backbone(tmp_path / "backbone", family)
    SecondaryStructureModel.from_backbone(backbone, head="linear").save_pretrained(tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"leading_token": token}))
    with pytest.raises(ValueError, match=message):
        SecondaryStructureModel.from_pretrained(tmp_path / "model")
