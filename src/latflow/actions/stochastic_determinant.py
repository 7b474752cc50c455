"""A fermion determinant estimated with a fixed set of noise vectors, where the dense one is too large."""

from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Complex, Float

from latflow.actions.base import AbstractAction, Field, autodiff_value_and_force
from latflow.dirac import AbstractFermion
from latflow.groups import AbstractGroup
from latflow.lattice import Geometry
from latflow.precision import working_dtype
from latflow.solvers import stochastic_log_det_surrogate


class StochasticDeterminant(AbstractAction):
    """An estimate of S = -(`flavours`/2) log det D D^dagger from `probes` z with E z z^dagger = 1 (`solvers.random_probes`),
    spinors of the even/odd complement stacked on a leading axis; `mu` > 0 regulates D D^dagger of the complement.

    The value is by stochastic Lanczos quadrature with `num_steps` products per probe, the force the mean of
    z^dagger M^-1 dM z (Hutchinson, one solve per probe to the relative residual `tol`): both unbiased for random probes up to
    the quadrature, but the force is not the derivative of the value. With all unit vectors as probes, times the square root of
    their number, both are exact. For gradients of a training that cannot afford the determinant; not a weight. nan where a
    solve fails. Raises ValueError for odd extents.
    """

    fermion: AbstractFermion
    probes: Complex[Array, "probes ..."]
    mu: float | Float[Array, ""] = 0.0
    flavours: int = eqx.field(static=True, default=2)
    num_steps: int = eqx.field(static=True, default=32)
    tol: float = eqx.field(static=True, default=1e-8)
    max_iterations: int = eqx.field(static=True, default=1000)
    geometry: Geometry = eqx.field(static=True, init=False)
    group: AbstractGroup = eqx.field(init=False)

    def __post_init__(self) -> None:
        self.fermion.geometry.require_even("even/odd preconditioning")
        self.geometry = self.fermion.geometry
        self.group = self.fermion.group

    def __call__(self, field: Field) -> Float[Array, ""]:
        schur = self.fermion.operator(field).schur()
        value, info = stochastic_log_det_surrogate(
            lambda given, v: given[0].normal(v) + given[1].astype(v.real.dtype) * v,
            (schur, jnp.asarray(self.mu, working_dtype())),
            self.probes.astype(schur.dtype),
            num_steps=self.num_steps,
            tol=self.tol,
            max_iterations=self.max_iterations,
        )
        value = jnp.where(jnp.all(info.converged), value, jnp.nan)
        return -self.flavours * (value / 2 + schur.log_abs_det_rest())

    def value_and_force(self, field: Field) -> tuple[Float[Array, ""], Field]:
        return autodiff_value_and_force(self, field)
