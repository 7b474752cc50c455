"""Gradient estimators of the divergence of a joint model of gauge field and pseudofermions from its target.

As in `losses`, the value is E_q[log q(U) + S_b(U) + sum_i (log q(phi_i|U) + phi_i^dagger C_i phi_i)] up to constants, the mean
of -log w. "plain" differentiates all of it. "path" holds the parameters fixed in the densities, which are then evaluated at
moving configurations: log q(phi|U) = -|D~^-1 phi|^2 - 2 log |det D~| of the fixed map. Its noise vanishes where q = p; for the
conditional part that is where A = D~^dagger C D~ is 1, because the gradient is that of chi^dagger (A - 1) chi.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact, PRNGKeyArray

from latflow.actions import StochasticDeterminant
from latflow.models import JointModel, JointTarget, gaussian_draws, log_estimate, noise_key
from latflow.models.joint import require_fitting, solved_action
from latflow.solvers import inner, random_probes

LossValue = tuple[Float[Array, ""], Float[Array, " batch"]]


def joint_reverse_kl(size: int, estimator: str = "path") -> Callable[..., LossValue]:
    """The loss over `size` configurations, each with `action.draws` pseudofermions per monomial; the log weights returned are
    those of the means over draws. A configuration with a failed solve makes the loss nan, so that the step is skipped.

    Raises ValueError for another estimator."""
    if estimator not in ("path", "plain"):
        raise ValueError(f'joint models are trained with the estimators "path" and "plain", not {estimator!r}')

    def loss(parameters: JointModel, rest: JointModel, action: JointTarget, key: PRNGKeyArray) -> LossValue:
        model = eqx.combine(parameters, rest)
        fixed = eqx.combine(jax.lax.stop_gradient(parameters), rest) if estimator == "path" else None
        require_fitting(model, action)
        fields, log_q = model.draw(key, size)
        if model.stage == "conditional":
            fields, log_q = jax.lax.stop_gradient((fields, log_q))
        elif fixed is not None:
            log_q = fixed.log_q_of(fields)
        boson = jax.vmap(action.without_pseudofermions, in_axes=-1)(fields)
        keys = jax.random.split(noise_key(key), size)
        weigh = eqx.Partial(_log_weights, model, fixed, action)
        log_weight = jax.vmap(weigh, in_axes=(0, -1))(keys, fields)
        estimate = jax.vmap(log_estimate)(jax.lax.stop_gradient(log_weight))
        divergence = log_q + boson - jnp.sum(jnp.mean(log_weight, axis=2), axis=1)
        return jnp.mean(divergence), jax.lax.stop_gradient(estimate - log_q - boson)

    return loss


def _log_weights(
    model: JointModel, fixed: JointModel | None, target: JointTarget, key: PRNGKeyArray, field: Inexact[Array, "..."]
) -> Float[Array, "monomials draws"]:
    """log w_i of one configuration, differentiable; with `fixed` in the form whose derivative is the path gradient."""
    maps = model.maps(field)
    densities = maps if fixed is None else fixed.maps(field)
    rows = []
    for i, (monomial, bound, density) in enumerate(zip(target.monomials, maps, densities, strict=True)):
        chi = gaussian_draws(jax.random.fold_in(key, i), target.draws, bound.shape, bound.dtype, target.kind)

        def log_weight(chi: Array, monomial=monomial, bound=bound, density=density) -> Array:
            phi = bound.mv(chi)
            value, info = solved_action(target, monomial, field, phi)
            source = chi if fixed is None else density.inverse(phi)
            return (inner(source, source) + 2 * density.log_abs_det - value) * jnp.where(info.converged, 1.0, jnp.nan)

        rows.append(jax.vmap(log_weight)(chi))
    return jnp.stack(rows)


def marginal_with_probes(loss: Callable[..., LossValue]) -> Callable[..., LossValue]:
    """A loss of the marginal alone in which the determinant is estimated with fresh noise in every step, `action.draws` vectors
    for all of its configurations: unbiased gradients (Hutchinson, 2106.05934 App. C, 2208.03832 Sec. 3.1) where the dense
    matrix is too large. The log weights are noisy ones. The mass of the lightest even/odd monomial, the regulator of training,
    is that of the determinant."""

    def noisy(parameters: Any, rest: Any, action: JointTarget, key: PRNGKeyArray) -> LossValue:
        fermion = action.monomials[0].fermion
        field = jax.eval_shape(lambda key: eqx.combine(parameters, rest).draw(key, 1)[0][..., 0], key)
        schur = eqx.filter_eval_shape(lambda field: fermion.operator(field).schur(), field)
        noise = random_probes(noise_key(key), jax.ShapeDtypeStruct(schur.shape, schur.dtype), action.draws)
        mu = action.monomials[0].mu if action.monomials[0].even_odd else 0.0
        estimated = StochasticDeterminant(fermion, noise, mu, tol=action.tol, max_iterations=action.max_iterations)
        return loss(parameters, rest, action.boson + estimated, key)

    return noisy
