"""Gradient estimators of the Kullback-Leibler divergence between a flow q and a target p = exp(-S) / Z.

Every loss maps (parameters, rest, action, key) to (loss, log weights of the batch). The reverse losses return
E_q[log q + S] = KL(q|p) - log Z. Its total derivative is

    d/dtheta E[log q_theta(y) + S(y)],  y = f_theta(z),
      = E[(d/dy)(log q_theta(y) + S(y)) dy/dtheta] + E[(d/dtheta) log q_theta(y) at fixed y].

The last term has zero mean but not zero variance; the path gradient (2206.09016, 2207.08219) leaves it out, so that its
variance vanishes as q approaches p. Both move samples, so samples in a trough between modes, where dy/dtheta ~ 1/q, have huge
gradients. The score-function gradient moves probability instead,

    E[(log q_theta(y) + S(y) - constant) (d/dtheta) log q_theta(y) at fixed y],

does not care about troughs, and its variance vanishes with that of log q + S; while q is far from p it is the noisiest.

Half the variance of log w is KL to leading order, and its minimum, zero, is the same (2010.10436). With the draws z of
the prior held fixed it is a problem of least squares, the natural one where the prior is a stored ensemble.
"""

from __future__ import annotations

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from latflow.actions import AbstractAction
from latflow.models import AbstractPrior, Model

LossValue = tuple[Float[Array, ""], Float[Array, " batch"]]
Loss = Callable[..., LossValue]  # (parameters, rest, action, key), of a flow model or a joint one

# Inside a step the batch is the last, contiguous axis; see FlowModel.
_LAST = -1


def plain_reverse_kl(size: int) -> Loss:
    """E_q[log q + S] over `size` draws, differentiated through both terms."""

    def loss(parameters: Model, rest: Model, action: AbstractAction, key: PRNGKeyArray) -> LossValue:
        y, log_q = eqx.combine(parameters, rest).draw(key, size)
        log_weight = -jax.vmap(action, in_axes=_LAST)(y) - log_q
        return -jnp.mean(log_weight), log_weight

    return loss


def path_reverse_kl(size: int) -> Loss:
    """The same value with the path gradient: log q is evaluated by the inverse with parameters held fixed."""

    def loss(parameters: Model, rest: Model, action: AbstractAction, key: PRNGKeyArray) -> LossValue:
        y, log_q = eqx.combine(parameters, rest).draw(key, size)
        fixed = eqx.combine(jax.lax.stop_gradient(parameters), rest)

        def difference(y):
            energy = jax.vmap(action, in_axes=_LAST)(y)
            return jnp.sum(fixed.log_q_of(y) + energy), energy

        pull, energy = jax.grad(difference, has_aux=True)(jax.lax.stop_gradient(y))
        log_weight = jax.lax.stop_gradient(-energy - log_q)
        surrogate = jnp.sum(y * jax.lax.stop_gradient(pull)) / size
        return surrogate - jax.lax.stop_gradient(surrogate) - jnp.mean(log_weight), log_weight

    return loss


def score_reverse_kl(size: int) -> Loss:
    """The same value with the score-function gradient E[(log q + S - mean) d log q / d theta at fixed y].

    Neither the action nor the flow is differentiated with respect to the field (2202.01314). The mean over the batch is the
    control variate, which the divisor size - 1 keeps unbiased.
    """

    def loss(parameters: Model, rest: Model, action: AbstractAction, key: PRNGKeyArray) -> LossValue:
        y, log_q = jax.lax.stop_gradient(eqx.combine(jax.lax.stop_gradient(parameters), rest).draw(key, size))
        log_weight = -jax.vmap(action, in_axes=_LAST)(y) - log_q
        mean = jnp.mean(log_weight)
        score = eqx.combine(parameters, rest).log_q_of(y)
        surrogate = jnp.sum((mean - log_weight) * score) / (size - 1)
        return surrogate - jax.lax.stop_gradient(surrogate) - mean, log_weight

    return loss


def prior_variance(size: int) -> Loss:
    """Half the variance of log w = -S(f(z)) - log r(z) + log det over `size` draws z of the prior; a trainable prior is not
    trained by it."""

    def loss(parameters: Model, rest: Model, action: AbstractAction, key: PRNGKeyArray) -> LossValue:
        model = eqx.combine(parameters, rest)
        z, log_r = jax.lax.stop_gradient(model.prior.draw(key, size))
        y, log_det = model.bijection.forward_batch(z)
        log_weight = log_det - log_r - jax.vmap(action, in_axes=_LAST)(y)
        return jnp.var(log_weight, ddof=1) / 2, log_weight

    return loss


def forward_kl(size: int, target: AbstractPrior) -> Loss:
    """-E_p[log q] over `size` exact draws of the target; the log weights are those of the target's draws."""

    def loss(parameters: Model, rest: Model, action: AbstractAction, key: PRNGKeyArray) -> LossValue:
        y = jax.vmap(target.sample, out_axes=_LAST)(jax.random.split(key, size))
        log_q = eqx.combine(parameters, rest).log_q_of(y)
        log_weight = jax.lax.stop_gradient(-jax.vmap(action, in_axes=_LAST)(y) - log_q)
        return -jnp.mean(log_q), log_weight

    return loss
