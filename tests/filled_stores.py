"""Stores of made-up hidden states; run as a script, they are written to disks too small for them."""

import subprocess
import sys
from pathlib import Path

import torch

from lift_ss_hf.batches.prefix_store import PrefixStore, chain_key

ORIGIN = {"weights": "a", "depth": 2}
KEYS = [chain_key([0, number, 2]) for number in range(4)]


def states_of(key):
    generator = torch.Generator().manual_seed(int(key[:8], 16))
    return torch.randn(1, 1, 5 + int(key[0], 16), 8, generator=generator).half()


def fill(folder, keys=KEYS, origin=ORIGIN):
    store = PrefixStore(folder, origin)
    with store.locked():
        missing = store.open(keys, repair=True)
        if missing:
            with store.writing(missing) as add:
                for key in missing:
                    add(key, states_of(key))
    assert store.open(keys) == []
    return missing


def parts(folder):
    return [path for path in folder.glob("*/[!.]*") if path.is_dir()]


def check(folder, keys=KEYS):
    store = PrefixStore(folder, ORIGIN)
    assert store.open(keys) == []
    assert all(torch.equal(store.read(key), states_of(key)) for key in keys)


def fill_small_disks(disk):
    """Fill disks of more and more pages: what is there afterwards is a whole part or none."""
    ends = set()
    for pages in range(2, 24):
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={4096 * pages}", "tmpfs", disk], check=True)
        try:
            fill(disk, [chain_key([number]) for number in range(100)])
            ends.add("whole")
        except OSError:
            assert parts(disk) == []
            assert not list(disk.glob("*/.*.incomplete"))
            ends.add("none")
        subprocess.run(["umount", disk], check=True)
    assert ends == {"whole", "none"}, ends


if __name__ == "__main__":
    fill_small_disks(Path(sys.argv[1]))
