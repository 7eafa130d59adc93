"""Batches: padding is masked, the budget holds, no chain is lost or seen twice, and an epoch can be repeated."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lift_ss_hf.batches.collator import ChainCollator, TokenBudgetBatches, budget_batches
from lift_ss_hf.models.states import IGNORE_INDEX


def chain(length, first=5):
    return {"input_ids": list(range(first, first + length)), "labels": [1] * length}


def test_padding_is_masked_and_never_a_label():
    batch = ChainCollator(pad_token_id=0)([chain(2), chain(4)])
    assert batch["input_ids"].tolist() == [[5, 6, 0, 0], [5, 6, 7, 8]]
    assert batch["attention_mask"].tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]
    assert batch["labels"].tolist() == [[1, 1, IGNORE_INDEX, IGNORE_INDEX], [1, 1, 1, 1]]
    assert all(tensor.dtype == torch.int64 for tensor in batch.values())


def test_the_collator_takes_chains_and_ready_batches_alike():
    collate = ChainCollator(0)
    loose, ready = collate([chain(2), chain(4)]), collate([[chain(2), chain(4)]])
    assert all(torch.equal(loose[name], ready[name]) for name in loose)
    assert "labels" not in collate([{"input_ids": [1, 2]}])


lengths_lists = st.lists(st.integers(1, 300), min_size=1, max_size=200)


@given(lengths=lengths_lists, max_tokens=st.integers(1, 2000), epoch=st.integers(0, 3))
def test_every_chain_once_per_epoch_within_the_budget(lengths, max_tokens, epoch):
    batches = TokenBudgetBatches(list(range(len(lengths))), lengths, max_tokens, seed=1)
    number = len(batches)
    batches.set_epoch(epoch)
    assert len(batches) == number  # or a run could not be resumed
    found = [batches[i] for i in range(len(batches))]
    assert sorted(index for batch in found for index in batch) == list(range(len(lengths)))
    for batch in found:
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= max_tokens


@given(lengths=lengths_lists, max_tokens=st.integers(1, 2000))
def test_prediction_batches_cover_everything_within_the_budget(lengths, max_tokens):
    batches = budget_batches(lengths, max_tokens)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= max_tokens


def test_batches_depend_on_the_epoch_only():
    lengths = np.random.default_rng(0).integers(50, 60, 400)
    batches = TokenBudgetBatches(list(range(400)), lengths, 600, seed=0)

    def partners(epoch):
        batches.set_epoch(epoch)
        return [tuple(batches[i]) for i in range(len(batches))]

    first = partners(0)
    assert partners(1) != first
    assert partners(0) == first


def test_real_lengths_need_little_padding():
    lengths = np.random.default_rng(0).lognormal(5.2, 0.6, 3000).astype(int) + 30
    assert TokenBudgetBatches(list(range(3000)), lengths, 8192).padding_fraction < 0.05


def test_chains_and_lengths_must_be_equally_many():
    with pytest.raises(ValueError, match="2 chains but 1 length"):
        TokenBudgetBatches(["a", "b"], [3], 10)
