"""Files: what is refused and at which cost, what is read, and how they are written."""

import time
import tracemalloc

import pytest

from fastbn.checkpoints import restore
from tests.layers import assert_same, snapshot, trained
from tests.malformed.corpus import corpus

CORPUS = corpus()
SECONDS = 0.05
TRIES = 5
MEMORY_PER_BYTE = 16
MEMORY_SLACK = 4 << 20


@pytest.mark.parametrize("name", CORPUS)
def test_a_malformed_file_is_refused(name, tmp_path):
    wrong = CORPUS[name]
    path = tmp_path / f"model{wrong.suffix}"
    path.write_bytes(wrong.data)
    bn = trained()
    before = snapshot(bn)
    fastest = float("inf")
    for _ in range(TRIES):
        start = time.perf_counter()
        with pytest.raises(ValueError, match=wrong.message) as caught:
            restore(bn, path)
        fastest = min(fastest, time.perf_counter() - start)
        if fastest < SECONDS:
            break
    assert fastest < SECONDS
    assert str(caught.value).startswith(f"{path}: ")
    assert len(str(caught.value)) < 1000
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=wrong.message):
            restore(bn, path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < MEMORY_PER_BYTE * len(wrong.data) + MEMORY_SLACK
    assert_same(bn, before)
    assert path.read_bytes() == wrong.data
