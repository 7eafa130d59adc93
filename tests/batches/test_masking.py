"""Masked training chains: only residues are masked, different ones every epoch, reproducibly."""

import numpy as np
import pytest
from tiny_models import save_tiny_backbone

from lift_ss_hf.batches.collator import TokenBudgetBatches
from lift_ss_hf.batches.masking import MaskedChains
from lift_ss_hf.models.tokenization import ResidueTokenizer


class Chains(list):
    """Encoded chains with their lengths, as in training."""

    def __init__(self, tokenizer, number=20, residues=200):
        rng = np.random.default_rng(0)
        sequences = ["".join(rng.choice(list("ACDEFGHIKLMNPQRSTVWY"), residues)) for _ in range(number)]
        super().__init__(tokenizer.encode_chain(sequence, "H" * residues) for sequence in sequences)
        self.lengths = [len(item["input_ids"]) for item in self]


@pytest.fixture(params=["esm", "bert", "t5"])
def tokenizer(request, tmp_path):
    return ResidueTokenizer.from_pretrained(save_tiny_backbone(tmp_path / "backbone", request.param))


def test_a_fraction_of_the_residues_is_masked_and_nothing_else_changes(tokenizer):
    chains = Chains(tokenizer)
    before = [np.copy(item["input_ids"]) for item in chains]
    masked = MaskedChains(chains, 0.2, tokenizer)
    fractions = []
    for index, original in enumerate(before):
        item = masked[index]
        changed = item["input_ids"] != original
        assert set(item["input_ids"][changed]) <= {tokenizer.masked_residue_id}
        assert not changed[: tokenizer.num_leading].any()
        assert not changed[len(changed) - tokenizer.num_trailing :].any()
        assert (item["labels"] == chains[index]["labels"]).all()
        assert (chains[index]["input_ids"] == original).all()
        fractions.append(changed.sum() / 200)
    assert 0.15 < np.mean(fractions) < 0.25
    assert len(set(fractions)) > 1
    assert masked.lengths == chains.lengths


def test_a_masked_residue_becomes_the_mask_token_or_x(tokenizer):
    name = {1: tokenizer.mask_token, 0: "X"}[tokenizer.num_leading]  # T5 has neither a leading token nor a mask
    assert tokenizer.masked_residue_id == tokenizer.get_vocab()[name]


def test_masks_depend_on_epoch_and_seed_only(tokenizer):
    batches = TokenBudgetBatches(masked := MaskedChains(Chains(tokenizer), 0.2, tokenizer), masked.lengths, 1000)

    def epoch(number):
        batches.set_epoch(number)
        return np.stack([masked[index]["input_ids"] for index in range(len(masked))])

    first = epoch(0)
    assert (epoch(1) != first).any(axis=1).all()
    assert (epoch(0) == first).all()
    others = MaskedChains(masked.chains, 0.2, tokenizer, seed=1)
    assert (others[0]["input_ids"] != first[0]).any()
