"""In-place and conditional batch norm: the same bits on every ISA level."""

from fastbn._core.dispatch import supported
from tests.process import run


def test_same_bits_on_every_level():
    done = {level: run("-m", "tests.inplace", FASTBN_ISA=level) for level in supported()}
    assert all(process.returncode == 0 for process in done.values()), done
    hashes = {level: process.stdout for level, process in done.items()}
    assert len({*hashes.values()}) == 1, hashes
