"""Flags for XLA's CPU compiler and linear algebra: read when JAX first computes, so they are set when latflow is imported."""

from __future__ import annotations

import os
from importlib.metadata import PackageNotFoundError, version

# Reductions through XLA's YNNPACK fusions end in a segmentation fault for some shapes of seven and more axes in jaxlib 0.10
# (a spectral layer on 4 lattices of 8^4 does); matrix products through it are sound. Newer fusion code doubles the time these
# flows take to compile and does not make them faster (docs/performance.md).
_FLAGS = {
    "xla_cpu_use_fusion_emitters": "false",
    "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT",
}


# XLA's factorisations of a batch wait for workers of the pool in which they run themselves. With as few as two workers a
# program in which two of them can run at the same time stops for ever (determinants and propagators, jaxlib 0.10).
_WORKERS = 16


def set_flags() -> None:
    """Add to XLA_FLAGS what it does not mention yet (only for jaxlib 0.10: XLA aborts when it meets a flag it does not know).

    LAPACK gets one thread unless OPENBLAS_NUM_THREADS says otherwise: batches of determinants are factorised one matrix after
    the other, and on a busy machine the threads of a small one wait for each other 25 times as long as it takes.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    if (os.cpu_count() or 1) < _WORKERS:
        os.environ.setdefault("NPROC", str(_WORKERS))
    try:
        known = version("jaxlib").startswith("0.10.")
    except PackageNotFoundError:
        known = False
    chosen = os.environ.get("XLA_FLAGS", "")
    added = [f"--{name}={value}" for name, value in _FLAGS.items() if known and name not in chosen]
    if added:
        os.environ["XLA_FLAGS"] = " ".join([chosen, *added]).strip()
