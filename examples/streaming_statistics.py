"""Mean and standard deviation of each channel over data that never lie in memory at once.

Threads take batches from a stream, each with a ChannelStats of its own; in the end their statistics are merged. The
result is that of one pass over all the data, whoever took which batch.
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np

import fastbn

BATCHES, SHAPE = 32, (16, 3, 128, 128)   # NCHW
WORKERS = 2
SCALE, OFFSET = 2.0, np.float32([1.0, 100.0, 10_000.0]).reshape(3, 1, 1)   # E[x^2] - E[x]^2 fails on the last one


def read_batch(number):
    """Return one batch of the stream; a file or a socket in earnest."""
    rng = np.random.default_rng(number)
    return SCALE * rng.standard_normal(SHAPE, dtype=np.float32) + OFFSET


def statistics(numbers):
    """Return the statistics of some batches, holding one batch at a time."""
    stats = fastbn.ChannelStats(SHAPE[1])
    for number in numbers:
        stats.update(read_batch(number), num_threads=1)   # the workers are the threads; the kernels release the GIL
    return stats


def main():
    """Merge the statistics of the workers, and compare with one pass and with running sums in float32."""
    with ThreadPoolExecutor(WORKERS) as pool:
        parts = list(pool.map(statistics, [range(w, BATCHES, WORKERS) for w in range(WORKERS)]))
    merged = fastbn.ChannelStats(SHAPE[1])
    for part in parts:
        merged.merge(part)
    alone = statistics(range(BATCHES))

    print(f"{merged.count[0]:,.0f} values a channel, from {BATCHES} batches read by {WORKERS} threads")
    print(f"  mean      {merged.mean}")
    print(f"  std       {merged.std(ddof=1)}")
    difference = abs(merged.var() / alone.var() - 1).max()
    print(f"  variance merged and in one pass agree to {difference:.0e}, relative")

    total, squares = np.zeros(3, np.float32), np.zeros(3, np.float32)
    for number in range(BATCHES):
        x = read_batch(number)
        total += x.mean(axis=(0, 2, 3))
        squares += np.square(x).mean(axis=(0, 2, 3))
    print(f"  variance as E[x^2] - E[x]^2 in float32: {squares / BATCHES - (total / BATCHES) ** 2}")


if __name__ == "__main__":
    main()
