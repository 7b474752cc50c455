"""log det M from random probes, by stochastic Lanczos quadrature (S. Ubaru, J. Chen and Y. Saad, SIAM J. Matrix Anal. Appl. 38
(2017) 1075), and its gradient by M. F. Hutchinson's estimator (Commun. Stat. Simul. 18 (1989) 1059).

With E z z^dagger = 1 and the Lanczos process of M started at z,

    log det M = E z^dagger log(M) z,      z^dagger log(M) z = |z|^2 sum_j s_{0j}^2 log theta_j,
    d log det M = tr M^-1 dM = E z^dagger M^-1 dM z.

The quadrature is exact for as many steps as M has dimensions; with fewer ones it has a bias, which falls like that of conjugate
gradients. The gradient has none beyond the tolerance of its solves.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from latflow.solvers.cg import cg
from latflow.solvers.info import SolveInfo
from latflow.solvers.lanczos import lanczos
from latflow.solvers.vectors import Operator, Vector, apply, inner


class LogDetEstimate(NamedTuple):
    """`mean` over the probes, and `samples`, one value per probe, in the working dtype; nan if M is not positive."""

    mean: Float[Array, ""]
    samples: Float[Array, " probes"]

    @property
    def error(self) -> Float[Array, ""]:
        """Standard error of the mean; nan for a single probe. Not meant for unit vectors, which are no random sample."""
        n = self.samples.shape[0]
        return jnp.std(self.samples, ddof=1) / n**0.5 if n > 1 else jnp.full_like(self.mean, jnp.nan)


def random_probes(key: PRNGKeyArray, like: PyTree, num: int, kind: str = "z2") -> Vector:
    """`num` vectors like `like` (arrays or shapes and types), stacked on a leading axis, with E z z^dagger = 1.

    "z2": real signs; "gaussian": normal variables of unit variance, complex ones for complex leaves. For Hermitian A the
    variance of z^dagger A z is 2 sum_{i != j} (Re A_ij)^2 with signs, sum_ij |A_ij|^2 with complex normal variables, and twice
    that with real ones. Raises ValueError for another kind.
    """
    draws = {"z2": jax.random.rademacher, "gaussian": jax.random.normal}
    if kind not in draws:
        raise ValueError(f"probes are of the kind {' or '.join(draws)}, got {kind!r}")
    leaves, structure = jax.tree.flatten(like)
    keys = jax.random.split(key, len(leaves))
    return structure.unflatten(
        # signs have no complex type of their own
        draws[kind](k, (num, *x.shape), x.dtype if kind == "gaussian" else jnp.int8).astype(x.dtype)
        for k, x in zip(keys, leaves, strict=True)
    )


def stochastic_log_det(mv: Operator, probes: Vector, *, num_steps: int) -> LogDetEstimate:
    """Estimates of log det M for Hermitian positive M from probes z with E z z^dagger = 1, stacked on a leading axis.

    `num_steps` products with M per probe, one probe after the other. The sum of the samples over all unit vectors is the
    determinant itself if `num_steps` suffices. Not for differentiation: see `stochastic_log_det_surrogate`.
    Raises ValueError for `num_steps` < 1, and if `mv` changes structure, shapes or types.
    """

    def sample(z: Vector) -> Float[Array, ""]:
        T = lanczos(mv, z, num_steps=num_steps)
        theta, s = T.spectrum()
        weights = T.norm2 * s[0] ** 2
        # zero where the space was exhausted, and for a probe of zero
        return jnp.sum(jnp.where(weights == 0, 0.0, weights * jnp.log(theta)))

    samples = jax.lax.map(sample, probes)
    return LogDetEstimate(jnp.mean(samples), samples)


def stochastic_log_det_surrogate(
    operator_mv: Callable[[Any, Vector], Vector],
    parameters: Any,
    probes: Vector,
    *,
    num_steps: int,
    tol: float,
    max_iterations: int = 1000,
) -> tuple[Float[Array, ""], SolveInfo]:
    """(estimate, info) of log det M(p), M(p) v = operator_mv(p, v): the value is `stochastic_log_det(...).mean`, the gradient
    with respect to the parameters (floating-point or complex arrays) is the mean over the probes of z^dagger M^-1 dM z.

    Both are estimates from the same probes, but the gradient is not the derivative of the value. One `cg` to `tol` per probe;
    the info has one entry per probe, and a gradient whose info has not converged is wrong. First derivatives only.
    Raises ValueError as `cg` does and for `num_steps` < 1.
    """
    constant = jax.tree.map(lambda p: jax.lax.stop_gradient(p) if eqx.is_inexact_array(p) else p, parameters)

    def fixed(v: Vector) -> Vector:
        return operator_mv(constant, v)

    value = stochastic_log_det(fixed, probes, num_steps=num_steps).mean
    solutions, info = jax.lax.map(lambda z: cg(fixed, z, tol=tol, max_iterations=max_iterations), probes)
    solutions, info, value = jax.lax.stop_gradient((solutions, info, value))
    # M is Hermitian: z^dagger M^-1 dM z = (M^-1 z)^dagger dM z
    forms = jax.lax.map(lambda xz: inner(xz[0], apply(lambda v: operator_mv(parameters, v), xz[1])), (solutions, probes))
    form = jnp.mean(forms)
    return value + (form - jax.lax.stop_gradient(form)), info
