import itertools

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from lift_ss_hf.models.windows import Window, cut_batch, plan_windows


def test_a_chain_that_fits_is_one_window():
    assert plan_windows(10, None) == plan_windows(10, 10) == [Window(0, 10, 0, 10)]


def test_two_windows_are_cut_in_the_middle_of_what_they_share():
    assert plan_windows(12, 8, 2) == [Window(0, 8, 0, 6), Window(4, 12, 6, 12)]


@given(length=st.integers(1, 3000), max_residues=st.integers(1, 1100), data=st.data())
def test_every_residue_is_kept_once_from_the_window_it_is_farthest_inside_of(length, max_residues, data):
    overlap = data.draw(st.none() | st.integers(0, max_residues - 1).filter(lambda o: length < 300 or o < 200))
    assume(overlap is None or max_residues - overlap >= 3 or length <= 300)  # thousands of windows: slow, nothing new
    windows = plan_windows(length, max_residues, overlap)
    assert [w.keep_start for w in windows] == [0, *(w.keep_stop for w in windows[:-1])]
    assert windows[-1].keep_stop == length
    for window in windows:
        assert window.stop - window.start == min(length, max_residues)
        assert 0 <= window.start <= window.keep_start < window.keep_stop <= window.stop <= length
    for left, right in itertools.pairwise(windows):
        least = overlap if overlap is not None else min(256, max_residues // 4)
        assert left.stop - right.start >= least
        # as far from the left one's end as from the right one's start, to one residue
        assert abs((left.stop - left.keep_stop) - (right.keep_start - right.start)) <= 1


def test_windows_that_would_not_advance_are_refused():
    with pytest.raises(ValueError, match=r"windows of 8 residues cannot overlap by 8\. Choose .* 0 to 7"):
        plan_windows(20, 8, 8)


@pytest.mark.parametrize(("leading", "trailing"), [(1, 1), (0, 1)])
@pytest.mark.parametrize("side", ["right", "left"])
def test_stitching_undoes_cutting(leading, trailing, side):
    lengths, width = [25, 3, 8, 40], 42
    mask = torch.zeros(4, width, dtype=torch.long)
    for row, length in enumerate(lengths):
        tokens = length + leading + trailing
        mask[row, slice(tokens) if side == "right" else slice(width - tokens, None)] = 1
    windows = cut_batch(mask, leading, trailing, 8, 3)
    position = torch.arange(4 * width).view(4, width)
    seen = position.flatten()[windows.token_index][..., None].float()  # each window returns what it was given
    assert torch.equal(windows.stitch(seen)[..., 0][mask > 0].long(), position[mask > 0])
    assert windows.attention_mask.sum(1).max() == 8 + leading + trailing
    for index, keep in zip(windows.token_index, windows.attention_mask, strict=True):
        places = index[keep > 0] % width - int(mask[index[0] // width].argmax())
        chain = int(mask[index[0] // width].sum())
        assert places[:leading].tolist() == list(range(leading))  # every window has the special tokens
        assert places[-trailing:].tolist() == list(range(chain - trailing, chain))
