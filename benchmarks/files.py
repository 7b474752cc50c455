"""Speed of reading and writing configurations, checksum, order and unitarity of all links included.

    python benchmarks/files.py [--quick]

prints MB/s of the file for 16^4 (8^4 with --quick) in double and single precision, from and to the file cache: the median of
five times.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from latflow.groups import SUN
from latflow.io.ildg import read_ildg, write_ildg
from latflow.io.nersc import read_nersc, write_nersc


def seconds(action: Callable[[], object]) -> float:
    """Median of five, after one that does not count."""
    action()
    times = []
    for _ in range(5):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="8^4 instead of 16^4")
    L = 8 if parser.parse_args().quick else 16
    jax.config.update("jax_enable_x64", True)
    links = np.asarray(SUN(3).haar(jax.random.key(0), (4, *[L] * 4), jnp.complex128))
    print(f"{'format':<7} {'bits':>4} {'MB':>7} {'read MB/s':>10} {'write MB/s':>11}")
    with tempfile.TemporaryDirectory() as directory:
        for bits in (64, 32):
            field = links if bits == 64 else links.astype(np.complex64)
            for name, read, write in (("ILDG", read_ildg, write_ildg), ("NERSC", read_nersc, write_nersc)):
                path = Path(directory) / name
                write(path, field)
                size = path.stat().st_size / 1e6
                reading, writing = (seconds(action) for action in (lambda: read(path), lambda: write(path, field)))  # noqa: B023
                print(f"{name:<7} {bits:>4} {size:>7.1f} {size / reading:>10.0f} {size / writing:>11.0f}", flush=True)


if __name__ == "__main__":
    main()
