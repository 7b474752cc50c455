"""Operators for tests of solvers: random Hermitian matrices, and the even/odd Wilson operator on a rough U(1) field."""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
from fermion_cases import quick_jit

from latflow.dirac import WilsonFermion, dense
from latflow.groups import U1
from latflow.lattice import Geometry
from latflow.solvers import cg

N = 20
TOL = 1e-10


def hermitian(seed, low, high=1.0, real=False):
    """A matrix of the logarithmically spaced spectrum from `low` to `high`, and two vectors."""
    rng = np.random.default_rng(seed)
    draw = rng.normal(size=(N + 2, N)) + (0 if real else 1j) * rng.normal(size=(N + 2, N))
    Q = np.linalg.qr(draw[:N])[0]
    M = Q * np.geomspace(low, high, N) @ Q.conj().T
    return jnp.asarray((M + M.conj().T) / 2), jnp.asarray(draw[N]), jnp.asarray(draw[N + 1])


@functools.cache
def wilson():
    """M = D D^dagger of the complement as a function of the links, as a matrix, and a source."""
    fermion = WilsonFermion(Geometry((4, 4)), U1(), 0.2)
    theta = jax.random.uniform(jax.random.key(0), (2, 4, 4), jnp.float64, -np.pi, np.pi)
    schur = fermion.operator(theta).schur()
    matrix = dense(schur)
    return SimpleNamespace(
        theta=theta,
        mv=lambda theta, v: fermion.operator(theta).schur().normal(v),
        matrix=matrix @ matrix.conj().T,
        source=schur.random(jax.random.key(1)),
    )


def times(M, v):
    return M @ v


@functools.cache
def solver(tol=TOL, max_iterations=1000):
    """The same compiled function for all matrices of one type."""
    return quick_jit(lambda M, b, x0=None: cg(functools.partial(times, M), b, tol=tol, max_iterations=max_iterations, x0=x0))


def residual_of(M, x, b):
    M, x, b = (np.asarray(a, np.complex128) for a in (M, x, b))
    return np.linalg.norm(b - M @ x) / np.linalg.norm(b)
