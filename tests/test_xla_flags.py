"""The flags latflow gives to XLA, and the crash they avoid."""

import os

import jax
import jax.numpy as jnp

from latflow.flows import SpectralCoupling
from latflow.flows.staple_view import PlaquetteStaples
from latflow.groups import SUN
from latflow.lattice import Geometry, diagonal
from latflow.xla_flags import set_flags


def test_flags_of_the_user_are_kept(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_use_fusion_emitters=true")
    set_flags()
    set_flags()
    words = os.environ["XLA_FLAGS"].split()
    assert words[0] == "--xla_cpu_use_fusion_emitters=true"
    assert [w.split("=")[0] for w in words[1:]] == ["--xla_cpu_experimental_ynn_fusion_type"]


def test_threads_and_workers(monkeypatch):
    """One thread for LAPACK and workers enough for two factorisations at a time, unless the user wants it otherwise."""
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    for name in ("OPENBLAS_NUM_THREADS", "NPROC"):
        monkeypatch.delenv(name, raising=False)
    set_flags()
    assert (os.environ["OPENBLAS_NUM_THREADS"], os.environ["NPROC"]) == ("1", "16")
    monkeypatch.setenv("NPROC", "4")
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "2")
    set_flags()
    assert (os.environ["OPENBLAS_NUM_THREADS"], os.environ["NPROC"]) == ("2", "4")


def test_a_spectral_layer_on_a_batch_of_large_lattices_does_not_crash():
    group, geometry = SUN(3), Geometry((8,) * 4)
    links = jnp.broadcast_to(jnp.eye(3, dtype=jnp.complex64).reshape(3, 3, 1, 1, 1, 1, 1, 1), (3, 3, 4, *geometry.shape, 4))
    layer = SpectralCoupling(PlaquetteStaples(diagonal(geometry, 0), group), key=jax.random.key(0), phase=0)
    moved, log_det = jax.jit(lambda x: layer.forward_batch(x))(links)
    assert moved.shape == links.shape and bool(jnp.isfinite(log_det).all())
