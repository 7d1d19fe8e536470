"""Mean and standard deviation of each channel of a stream that does not fit in memory.

Each thread counts some of the batches in its own ChannelStats, and the main thread merges them. The result agrees with
one pass over all batches.
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np

import fastbn

BATCHES, SHAPE = 32, (16, 3, 128, 128)   # NCHW
WORKERS = 2
SCALE, OFFSET = 2.0, np.float32([1.0, 100.0, 10_000.0]).reshape(3, 1, 1)   # E[x^2] - E[x]^2 fails for 10,000


def read_batch(number):
    """Return one batch of the stream, in place of a file or a socket."""
    rng = np.random.default_rng(number)
    return SCALE * rng.standard_normal(SHAPE, dtype=np.float32) + OFFSET


def statistics(numbers):
    """Return the statistics of some batches, with one batch in memory at a time."""
    stats = fastbn.ChannelStats(SHAPE[1])
    for number in numbers:
        stats.update(read_batch(number), num_threads=1)   # the workers run in parallel
    return stats


def main():
    """Merge the statistics of the workers, and compare them with one pass and with sums in float32."""
    with ThreadPoolExecutor(WORKERS) as pool:
        parts = list(pool.map(statistics, [range(w, BATCHES, WORKERS) for w in range(WORKERS)]))
    merged = fastbn.ChannelStats(SHAPE[1])
    for part in parts:
        merged.merge(part)
    alone = statistics(range(BATCHES))

    print(f"{merged.count[0]:,.0f} values per channel, from {BATCHES} batches read by {WORKERS} threads")
    print(f"  mean      {merged.mean}")
    print(f"  std       {merged.std(ddof=1)}")
    difference = abs(merged.var() / alone.var() - 1).max()
    print(f"  relative difference of the variance from one pass: {difference:.0e}")

    total, squares = np.zeros(3, np.float32), np.zeros(3, np.float32)
    for number in range(BATCHES):
        x = read_batch(number)
        total += x.mean(axis=(0, 2, 3))
        squares += np.square(x).mean(axis=(0, 2, 3))
    print(f"  variance as E[x^2] - E[x]^2 in float32: {squares / BATCHES - (total / BATCHES) ** 2}")


if __name__ == "__main__":
    main()
