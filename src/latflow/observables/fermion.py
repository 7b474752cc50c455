"""Fermionic observables: pion correlator, chiral condensate, sign of the determinant, spectrum and condition numbers."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float, PRNGKeyArray

from latflow.dirac import AbstractDirac, AbstractFermion, Dirac, Spinor, dense
from latflow.groups import AbstractGroup
from latflow.lattice import Geometry
from latflow.observables.base import Field, Value
from latflow.observables.families import AbstractFamily
from latflow.precision import working_dtype
from latflow.solvers import cg

Sources = Literal["exact", "point", "time-slice"]


@dataclasses.dataclass(frozen=True, eq=False)
class FermionObservables(AbstractFamily):
    """Of one flavour on each configuration:

    * `pion` (L0,): sum_x |D^-1(x, y)|^2 over spins and colours of both ends and the sites x of the slice t time steps after y,
      averaged over y (for Yukawa theories the lightest pseudoscalar is called pion, too);
    * `condensate`: Re Tr D^-1 / V;
    * with `sign`: `det_sign`, the sign of det D, by dense LU.

    `sources`: "exact" inverts the dense matrix and averages over all y, O(V^3); "point" solves for all spins and colours of
    `number` sites y; "time-slice" solves for `number` random time slices with one-end noise of random phases (diluted in spin),
    whose mean is the average over the slice (hep-lat/0603007). Sites and noise are drawn from the configuration itself,
    so that they differ from one to the next and the observable remains a function of the field. None: no correlator. What a
    solve by CG that does not reach `tol` (None: 1e-9, or 1e-5 in single precision) gives is nan; operators of at most
    `direct` rows are solved by dense LU.
    """

    fermion: AbstractFermion
    sources: Sources | None = "point"
    number: int = 1
    sign: bool = False
    tol: float | None = None
    max_iterations: int = 10_000
    direct: int = 1024

    def __post_init__(self) -> None:
        if self.sources not in ("exact", "point", "time-slice", None):
            raise ValueError(f'sources are "exact", "point", "time-slice" or None, not {self.sources!r}')
        if self.number < 1:
            raise ValueError(f"at least one source is needed, got {self.number}")

    def refusal(self, group: AbstractGroup, geometry: Geometry) -> str | None:
        return None

    def evaluate(self, group: AbstractGroup, geometry: Geometry, field: Field) -> Mapping[str, Value]:
        operator = self.fermion.operator(field.astype(jnp.result_type(field.dtype, working_dtype())))
        found: dict[str, Array] = {}
        if self.sources == "exact":
            found = exact_pion_and_condensate(operator)
        elif self.sources is not None:
            found = self._stochastic(operator, _key_of(field))
        if self.sign:
            found["det_sign"] = operator.preconditioned().determinant_sign()
        return {name: value.astype(field.real.dtype) for name, value in found.items()}

    def _stochastic(self, operator: Dirac, key: PRNGKeyArray) -> dict[str, Array]:
        make = _point_sources if self.sources == "point" else _slice_sources

        def one(key: PRNGKeyArray) -> tuple[Array, Array]:
            b, start, norm = make(key, operator)
            x = solve(operator, b, self.tol, self.max_iterations, self.direct)
            weight = jnp.sum(x.real**2 + x.imag**2, axis=(0, 1, 2))
            slices = jnp.sum(weight.reshape(weight.shape[0], -1), axis=1)
            trace = jnp.sum(jnp.real(jnp.conj(b) * x)) / norm
            return jnp.roll(slices, -start) / norm, trace

        pion, condensate = jax.lax.map(one, jax.random.split(key, self.number))
        return {"pion": jnp.mean(pion, 0), "condensate": jnp.mean(condensate)}


def solve(
    operator: Dirac,
    sources: Complex[Array, "n Ns Nc ..."],
    tol: float | None = None,
    max_iterations: int = 10_000,
    direct: int = 1024,
) -> Complex[Array, "n Ns Nc ..."]:
    """D^-1 of several sources, through the even/odd complement (D itself on odd extents): by dense LU where that has at most
    `direct` rows, which is what a batch of chains wants (it would wait for its slowest CG), otherwise by CG on the normal
    equations; nan where that fails."""
    factor = operator.preconditioned()
    rhs, rest = jax.vmap(factor.prepare)(sources)
    if factor.size <= direct:
        columns = jnp.linalg.solve(factor.matrix(), rhs.reshape(len(rhs), -1).T).T
        x = columns.reshape(rhs.shape)
    else:
        tol = tol or (1e-9 if jnp.finfo(rhs.dtype).bits == 64 else 1e-5)

        def iterate(b: Spinor) -> Spinor:
            y, info = cg(factor.normal, b, tol=tol, max_iterations=max_iterations)
            return jnp.where(info.converged, factor.adjoint(y), jnp.nan)

        x = jax.lax.map(iterate, rhs)
    return jax.vmap(factor.reconstruct)(x, rest)


def exact_pion_and_condensate(operator: AbstractDirac) -> dict[str, Array]:
    """{"pion", "condensate"} from the dense inverse, averaged over all sources."""
    shape = operator.shape
    propagator = jnp.linalg.inv(dense(operator))
    spins, L0 = shape[0] * shape[1], shape[2]
    volume = operator.size // spins
    # sum over spins, colours and space of both ends, time slices of both ends remain
    weight = (propagator.real**2 + propagator.imag**2).reshape(spins, L0, -1, spins, L0, volume // L0).sum((0, 2, 3, 5))
    # distance t between slices: the shear that rolls column y back by y
    index = (np.arange(L0)[:, None] + np.arange(L0)[None, :]) % L0
    pion = weight[jnp.asarray(index), jnp.arange(L0)[None, :]].sum(1) / volume
    return {"pion": pion, "condensate": jnp.real(jnp.trace(propagator)) / volume}


def spectrum(operator: AbstractDirac) -> Complex[Array, " size"]:
    """All eigenvalues of D, in no order, by dense linear algebra (on CPUs)."""
    return jnp.linalg.eigvals(dense(operator))


def singular_values(operator: AbstractDirac) -> Float[Array, " size"]:
    """Those of D, descending, by dense linear algebra: their squares are the eigenvalues of M = D D^dagger."""
    return jnp.linalg.svd(dense(operator), compute_uv=False)


def condition_numbers(
    operator: AbstractDirac, masses: tuple[float, ...] = (), regulator: float = 0.0
) -> Float[Array, " monomials"]:
    """Condition numbers of the kernels of the monomials of Eq. (38) of 2207.08945 with M = D D^dagger: of
    1 + (mu_{i+1} - mu_i)(M + mu_i)^-1 for each ratio, and of M + mu_Nh."""
    M = singular_values(operator) ** 2
    mu = (regulator, *masses)
    kernels = [1 + (b - a) / (M + a) for a, b in itertools.pairwise(mu)]
    kernels.append(M + mu[-1])
    return jnp.stack([jnp.max(kernel) / jnp.min(kernel) for kernel in kernels])


def _key_of(field: Field) -> PRNGKeyArray:
    """A key that every configuration has of its own."""
    digest = jnp.sum(jnp.sin(jnp.arange(1, field.size + 1, dtype=field.real.dtype) * field.real.reshape(-1)))
    bits = jax.lax.bitcast_convert_type(digest.astype(jnp.float32), jnp.uint32)
    return jax.random.fold_in(jax.random.key(0), bits)


def _point_sources(key: PRNGKeyArray, operator: Dirac) -> tuple[Spinor, Array, Array]:
    """(one source per spin and colour at one site, its time, number of sites)."""
    Ns, Nc, *lattice = operator.shape
    site = jax.random.randint(key, (), 0, int(np.prod(lattice)))
    spot = (jnp.arange(int(np.prod(lattice))) == site).astype(operator.dtype)
    unit = jnp.eye(Ns * Nc, dtype=operator.dtype)
    b = (unit[:, :, None] * spot[None, None]).reshape(Ns * Nc, Ns, Nc, *lattice)
    return b, site // int(np.prod(lattice[1:])), jnp.ones(())


def _slice_sources(key: PRNGKeyArray, operator: Dirac) -> tuple[Spinor, Array, Array]:
    """(one source per spin on a time slice, with independent random phases; the time; sites of the slice)."""
    Ns, Nc, *lattice = operator.shape
    time_key, noise_key = jax.random.split(key)
    start = jax.random.randint(time_key, (), 0, lattice[0])
    noise = jnp.exp(2j * jnp.pi * jax.random.uniform(noise_key, (Nc, *lattice))).astype(operator.dtype)
    here = (jnp.arange(lattice[0]) == start).astype(operator.dtype).reshape(1, -1, *[1] * (len(lattice) - 1))
    unit = jnp.eye(Ns, dtype=operator.dtype).reshape(Ns, Ns, *[1] * (1 + len(lattice)))
    b = unit * (noise * here)[None, None]
    return b, start, jnp.asarray(float(np.prod(lattice[1:])))
