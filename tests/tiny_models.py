"""Tiny backbones with random weights (4 blocks, 32 wide): one of each family, ProstT5 and Ankh 3; a model over one."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, pre_tokenizers, processors
from tokenizers import models as unigram
from transformers import (
    BertConfig,
    BertModel,
    BertTokenizer,
    EsmConfig,
    EsmModel,
    EsmTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
)

from lift_ss_hf.models.modeling import SecondaryStructureModel
from lift_ss_hf.models.sequences import STANDARD_RESIDUES

TRANSFORMERS_4 = transformers.__version__.startswith("4.")
FAMILIES = ("esm", "t5", "bert") if TRANSFORMERS_4 else ("esm", "t5", "bert", "esmc")
T5_BACKBONES = ("t5", "prostt5", "ankh3")
BACKBONES = (*FAMILIES, *T5_BACKBONES[1:])
PROSTT5_LEADING = 49  # <AA2fold>, the last token of `prostt5_tokenizer`
RESIDUES = STANDARD_RESIDUES + "XBOUZ"
T5_SPECIAL = ("<pad>", "</s>", "<unk>")
PROT_T5_PIECES = (*T5_SPECIAL, *(f"▁{residue}" for residue in RESIDUES))  # each residue is a word
# a sequence is written without blanks; Ankh 3's own file could not be read, so that only what is known of it is so
ANKH3_PIECES = (*T5_SPECIAL, "[S2S]", "[NLU]", *RESIDUES)
DROPOUT = {"t5": "dropout_rate", "esmc": "attention_dropout"} | dict.fromkeys(("esm", "bert"), "hidden_dropout_prob")
# of each backbone: padding, and the tokens before and after the residues
AROUND = {
    "esm": (1, [0], [2]),
    "t5": (0, [], [1]),
    "bert": (0, [2], [3]),
    "esmc": (1, [0], [2]),
    "prostt5": (0, [PROSTT5_LEADING], [1]),
    "ankh3": (0, [ANKH3_PIECES.index("[NLU]")], [1]),
}
ESM_TOKENS = ["<cls>", "<pad>", "<eos>", "<unk>", *"LAGVSERTIDPKQNFYMHWCXBUZO.-", "<null_1>", "<mask>"]


def tiny_backbone(family: str, seed: int = 0, **changes: object) -> PreTrainedModel:
    """A backbone in evaluation mode, no bias zero and no norm one; `changes` go to its configuration."""
    torch.manual_seed(seed)
    backbone = _untrained_backbone(family, **changes)
    with torch.no_grad():
        for parameter in backbone.parameters():
            if parameter.dim() == 1:  # what initialisation leaves at 0 or 1 would hide mistakes with it
                parameter.add_(0.1 * torch.randn_like(parameter))
    return backbone.eval()


def _untrained_backbone(family: str, **changes: object) -> PreTrainedModel:
    if family == "esm":
        settings = {"vocab_size": 33, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4}
        settings |= {"intermediate_size": 48, "position_embedding_type": "rotary", "token_dropout": True}
        settings |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "initializer_range": 0.2}
        settings |= {"pad_token_id": 1, "mask_token_id": 32, "max_position_embeddings": 1026}
        return EsmModel(EsmConfig(**{**settings, **changes}), add_pooling_layer=False)
    if family == "bert":
        settings = {"vocab_size": 30, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4}
        settings |= {"intermediate_size": 48, "max_position_embeddings": 2048, "initializer_range": 0.2}
        settings |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        return BertModel(BertConfig(**{**settings, **changes}), add_pooling_layer=False)
    if family == "esmc":
        settings = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4}
        settings |= {"intermediate_size": 48, "initializer_range": 0.2}
        return transformers.EsmcModel(transformers.EsmcConfig(**{**settings, **changes}))
    if family not in T5_BACKBONES:
        raise ValueError(f"no tiny backbone of {family!r}: add one")
    settings = {"d_model": 32, "num_layers": 4, "num_heads": 4, "d_kv": 8, "d_ff": 48}
    settings["vocab_size"] = 52 if family == "prostt5" else 30
    if family == "ankh3":
        settings |= {"feed_forward_proj": "gated-silu", "dropout_rate": 0.0}
    return T5EncoderModel(T5Config(**{**settings, **changes}))


def prot_t5_tokenizer() -> T5TokenizerFast:
    """As ProtT5's: `</s>` at the end."""
    tokenizer = Tokenizer(unigram.Unigram([(piece, 0.0) for piece in PROT_T5_PIECES], unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return T5TokenizerFast(tokenizer_object=tokenizer, extra_ids=0)


def prostt5_tokenizer() -> T5TokenizerFast:
    """As ProstT5's: ProtT5's vocabulary, then the 3Di states in lower case and the directions of translation."""
    tokenizer = prot_t5_tokenizer()
    tokenizer.add_tokens([*STANDARD_RESIDUES.lower(), "<fold2AA>", "<AA2fold>"])
    return tokenizer


def write_spiece(path: Path, pieces: Sequence[str] = PROT_T5_PIECES) -> None:
    """Write a vocabulary as sentencepiece has it, the one file that ProtT5 has."""
    from sentencepiece import sentencepiece_model_pb2 as sentencepiece

    model, piece = sentencepiece.ModelProto(), sentencepiece.ModelProto.SentencePiece
    types = {"<pad>": piece.CONTROL, "</s>": piece.CONTROL, "<unk>": piece.UNKNOWN}
    types |= dict.fromkeys(("[S2S]", "[NLU]"), piece.USER_DEFINED)
    for text in pieces:
        model.pieces.add(piece=text, type=types.get(text, piece.NORMAL), score=0.0)
    settings = model.trainer_spec
    settings.model_type, settings.vocab_size = settings.UNIGRAM, len(model.pieces)
    settings.pad_id, settings.eos_id, settings.unk_id, settings.bos_id = 0, 1, 2, -1
    model.normalizer_spec.name, model.normalizer_spec.add_dummy_prefix = "identity", pieces == PROT_T5_PIECES
    path.write_bytes(model.SerializeToString())


def prot_bert_tokenizer(folder) -> BertTokenizer:
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(STANDARD_RESIDUES + "XUBZO")]
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    return BertTokenizer(str(folder / "vocab.txt"), do_lower_case=False)


def save_tiny_backbone(folder: Path, family: str, **changes: object) -> str:
    """Write a tiny backbone and its tokenizer; returns the folder."""
    tiny_backbone(family, **changes).save_pretrained(folder)
    stock_tokenizer(family, folder).save_pretrained(folder)
    return str(folder)


def stock_tokenizer(family: str, folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer that comes with a backbone; the vocabularies that are files go to the folder."""
    if family == "esm":
        (folder / "vocab.txt").write_text("\n".join(ESM_TOKENS))
        return EsmTokenizer(str(folder / "vocab.txt"))
    if family == "bert":
        return prot_bert_tokenizer(folder)
    if family == "esmc":
        return transformers.EsmcTokenizer()
    if family == "ankh3":
        write_spiece(folder / "spiece.model", ANKH3_PIECES)
        return T5TokenizerFast.from_pretrained(folder, extra_ids=0)
    if family not in T5_BACKBONES:
        raise ValueError(f"no tokenizer of {family!r}: add one")
    return prostt5_tokenizer() if family == "prostt5" else prot_t5_tokenizer()


def save_tiny_model(folder: Path, **options: object) -> Path:
    """Write an ESM backbone to `folder/backbone` and a model over it to `folder/model`; return the model's folder."""
    save_tiny_backbone(folder / "backbone", "esm")
    torch.manual_seed(0)
    settings = {"top_blocks": 2, "head_channels": 16, **options}
    SecondaryStructureModel.from_backbone(folder / "backbone", **settings).save_pretrained(folder / "model")
    return folder / "model"


def batch_of_chains(family: str, lengths: list[int], seed: int = 0) -> dict[str, torch.Tensor]:
    """Random residues with the family's special tokens, padded on the right, and labels (some unresolved)."""
    generator = torch.Generator().manual_seed(seed)
    pad, leading, trailing = AROUND[family]
    width = max(lengths) + len(leading) + len(trailing)
    input_ids = torch.full((len(lengths), width), pad)
    attention_mask = torch.zeros(len(lengths), width, dtype=torch.long)
    labels = torch.full((len(lengths), width), -100)
    for row, length in enumerate(lengths):
        residues = torch.randint(5, 25, (length,), generator=generator)
        input_ids[row, : length + width - max(lengths)] = torch.tensor([*leading, *residues.tolist(), *trailing])
        attention_mask[row, : length + width - max(lengths)] = 1
        states = torch.randint(0, 9, (length,), generator=generator)
        states[::7] = -100
        labels[row, len(leading) : len(leading) + length] = states
    return {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}


def write_models_and_chains(folder: Path, num_records: int) -> Path:
    """Write two models over one backbone, `model` and `other`, and `chains.fasta`; return the folder.

    Every twentieth record is invalid, and the last ten share the names of the first.
    """
    save_tiny_backbone(folder / "backbone", "esm")
    for seed, name in enumerate(("model", "other")):
        torch.manual_seed(seed)
        model = SecondaryStructureModel.from_backbone(folder / "backbone", top_blocks=2, head_channels=16)
        model.save_pretrained(folder / name)
    rng = random.Random(0)
    with (folder / "chains.fasta").open("w") as file:
        for index in range(num_records):
            sequence = "".join(rng.choices(STANDARD_RESIDUES, k=rng.randint(5, 150)))
            name = f"chain{index % (num_records - 10)}"
            file.write(f">bad{index}\nMK{index}V\n" if index % 20 == 19 else f">{name}\n{sequence}\n")
    return folder
