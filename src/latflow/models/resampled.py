"""A prior whose draws are kept or discarded by a learned function: a resampled base distribution.

With acceptance a(x) = min(1, exp(f(x) - c)) the draws of r that are kept have density

    r(x) a(x) / A,    A = E_r[a],

independent as before (M. Bauer and A. Mnih, 1810.11428; as the base of a flow: 2110.15828). Here f is linear in loops and
learned from draws of r whose weights are known: it is the part of log w that is cheap to evaluate. Where w = p/r is costly, as
with a fermion determinant, one configuration that is worth its determinant is found among 1/A that are not.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Inexact, Int, PRNGKeyArray

from latflow.loops.features import AbstractFeatures
from latflow.models.prior import AbstractPrior
from latflow.precision import working_dtype
from latflow.statistics.weights import effective_sample_size

Field = Inexact[Array, "..."]


class Filter(NamedTuple):
    """f(x) - c = `weights` . features(x) - `offset`, and log A with its statistical error: of the draws from which the filter
    was learned, until `measured` replaces them."""

    weights: Float[np.ndarray, " features"]
    offset: float
    log_acceptance: float
    log_acceptance_error: float


class ResampledPrior(AbstractPrior):
    """Draws of `prior` kept with probability min(1, exp(f - c)). Its log density is that of `prior` plus min(0, f - c) - log A,
    A being an estimate: what depends on the normalisation (log Z) has its error, ratios of densities do not."""

    prior: AbstractPrior
    features: AbstractFeatures = eqx.field(static=True)
    weights: Float[Array, " features"]
    offset: Float[Array, ""]
    log_acceptance: Float[Array, ""]

    def __init__(self, prior: AbstractPrior, features: AbstractFeatures, filter: Filter):
        if len(filter.weights) != len(features.names):
            raise ValueError(f"{len(filter.weights)} weights were learned for {len(features.names)} features")
        self.prior, self.features = prior, features
        self.weights = jnp.asarray(filter.weights, working_dtype())
        self.offset = jnp.asarray(filter.offset, working_dtype())
        self.log_acceptance = jnp.asarray(filter.log_acceptance, working_dtype())

    def log_acceptance_of(self, x: Field) -> Float[Array, ""]:
        """log a(x) <= 0."""
        return jnp.minimum(jnp.dot(self.weights, self.features(x)) - self.offset, 0)

    def log_density(self, x: Field) -> Float[Array, ""]:
        return self.prior.log_density(x) + self.log_acceptance_of(x) - self.log_acceptance

    def sample(self, key: PRNGKeyArray) -> Field:
        return self.draw(key, 1)[0][..., 0]

    def draw(self, key: PRNGKeyArray, size: int, start: Int[Array, ""] | None = None) -> tuple[Field, Float[Array, " batch"]]:
        """Draws candidates in rounds of a fixed number until `size` of them are kept, in their order.

        A filter that keeps next to nothing is given up after a hundred times the candidates that A lets expect: what is missing
        then has the density nan, and so no weight.
        """
        candidates = max(16, min(size, 256))
        rounds = 100 + 100 * jnp.ceil(size / candidates * jnp.exp(-self.log_acceptance))
        shapes = jax.eval_shape(lambda k: self.prior.draw(k, candidates), key)
        field = jnp.zeros((*shapes[0].shape[:-1], size), shapes[0].dtype)

        def unfinished(state: tuple[Any, ...]) -> Bool[Array, ""]:
            return (state[1] < size) & (state[0] < rounds)

        def again(state: tuple[Any, ...]) -> tuple[Any, ...]:
            count, filled, field, density = state
            draw_key, accept_key = jax.random.split(jax.random.fold_in(key, count))
            x, log_r = self.prior.draw(draw_key, candidates)
            log_a = jax.vmap(self.log_acceptance_of, in_axes=-1)(x)
            kept = jnp.log(jax.random.uniform(accept_key, (candidates,), log_a.dtype)) < log_a
            # candidates that are not kept, or one too many, go to a place that does not exist
            place = jnp.where(kept, filled + jnp.cumsum(kept) - 1, size)
            field = field.at[..., place].set(x, mode="drop")
            density = density.at[place].set(log_r + log_a - self.log_acceptance, mode="drop")
            return count + 1, filled + jnp.sum(kept), field, density

        begin = (jnp.zeros((), jnp.int32), jnp.zeros((), int), field, jnp.full((size,), jnp.nan, working_dtype()))
        return jax.lax.while_loop(unfinished, again, begin)[2:]


def learn_filter(
    features: Float[np.ndarray, "n features"], log_weight: Float[np.ndarray, " n"], acceptance: float, ridge: float = 1e-2
) -> tuple[Filter, dict[str, float]]:
    """The filter that best explains `log_weight` = log p/r + constant of n independent draws of r by their `features`, and
    {"ess_before", "ess", "acceptance"} as estimated on those draws, the ESS by cross-validation.

    f is the ridge regression of log w weighted with w, i.e. it minimises the variance of log w - f over p, to which the ESS is
    closest: 1 / ESS = E_p[w / Z]. c makes the mean of a that of `acceptance`. Draws without weight (-inf, or not a
    number) count in A and in the ESS. Raises ValueError with few others, and for an acceptance that is not in (0, 1).
    """
    if not 0 < acceptance < 1:
        raise ValueError(f"the mean acceptance must lie between 0 and 1, got {acceptance}")
    usable = np.isfinite(log_weight)
    X, y = np.asarray(features, np.float64), np.where(usable, log_weight, -np.inf)
    if usable.sum() < 16:
        raise ValueError(f"only {usable.sum()} draws of the prior have a finite weight: too few to learn from")
    center, scale = X.mean(0), X.std(0)
    scale = np.where(scale > 1e-9 * (1 + np.abs(center)), scale, np.inf)  # what does not vary tells nothing
    Z = (X - center) / scale

    def fit(rows: np.ndarray) -> np.ndarray:
        rows = rows & usable
        w = np.exp(y[rows] - y[rows].max())
        w /= w.sum()
        A = Z[rows] - w @ Z[rows]
        return np.linalg.solve(
            (A * w[:, None]).T @ A + ridge * np.eye(Z.shape[1]), (A * w[:, None]).T @ (y[rows] - w @ y[rows])
        )

    folds = np.arange(len(y)) % 4
    held_out = np.empty(len(y))
    for fold in range(4):
        held_out[folds == fold] = Z[folds == fold] @ fit(folds != fold)
    _, log_a = _cap(held_out, acceptance)
    coefficients = fit(np.ones(len(y), bool))
    f = Z @ coefficients
    cap, log_accept = _cap(f, acceptance)
    a = np.exp(log_accept)
    weights = coefficients / scale
    offset = float(cap + weights @ center)
    mean = float(a.mean())
    error = float(a.std() / mean / math.sqrt(len(a)))
    facts = {"ess_before": effective_sample_size(y), "ess": _ess(y, log_a), "acceptance": mean}
    return Filter(weights, offset, math.log(mean), error), facts


def measured(
    prior: ResampledPrior,
    filter: Filter,
    key: PRNGKeyArray,
    size: int,
    on_progress: Callable[[int], None] | None = None,
) -> Filter:
    """`filter`, that of `prior`, with log A from at least `size` fresh draws of what it resamples, to which neither f nor c was
    fitted; nothing but the loops is evaluated. `on_progress` gets the number of draws made, and may raise to stop."""
    batch, drawn = min(size, 256), []
    for k in jax.random.split(key, -(-size // batch)):
        drawn.append(np.asarray(_accepted(prior, k, batch), np.float64))
        if on_progress is not None:
            on_progress(batch * len(drawn))
    a = np.concatenate(drawn)
    mean = float(a.mean())
    error = float(a.std() / mean / math.sqrt(len(a)))
    return filter._replace(log_acceptance=math.log(mean), log_acceptance_error=error)


@eqx.filter_jit
def _accepted(prior: ResampledPrior, key: PRNGKeyArray, size: int) -> Float[Array, " batch"]:
    return jnp.exp(jax.vmap(prior.log_acceptance_of, in_axes=-1)(prior.prior.draw(key, size)[0]))


def _cap(f: np.ndarray, acceptance: float) -> tuple[float, np.ndarray]:
    """(c, log a) with the mean of a = min(1, exp(f - c)) nearest to `acceptance`, by bisection."""
    low, high = float(f.min()) - 1, float(f.max()) + 50
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if np.exp(np.minimum(f - middle, 0)).mean() > acceptance else (low, middle)
    return high, np.minimum(f - high, 0)


def _ess(log_weight: np.ndarray, log_a: np.ndarray) -> float:
    """ESS of draws that were kept with probability a, estimated with draws that were not: E[w]^2 / (E[a] E[w^2 / a])."""
    y = log_weight - log_weight.max()
    return float(np.exp(y).mean() ** 2 / (np.exp(log_a).mean() * np.exp(2 * y - log_a).mean()))


def best_beta(beta: float, plaquettes: Float[np.ndarray, " n"], log_weight: Float[np.ndarray, " n"]) -> float:
    """The coupling beta' of the pure gauge prior with the largest ESS, found by reweighting draws at `beta`.

    `plaquettes` = -S / beta of each, the sum of Re Tr P / Nc; `log_weight` = log p/r + constant. Draws at beta' stand for
    those at beta with u = exp((beta' - beta) plaquettes), and have weights w / u. Searched within a distance that the draws
    still cover: there, u has an ESS of at least 1/4. Draws without weight count in the ESS. Raises ValueError where there is
    no weight at all, and unless beta > 0.
    """
    usable = np.isfinite(log_weight)
    if not (beta > 0 and usable.any()):
        raise ValueError(f"a coupling is searched from beta > 0 with finite weights, got {beta} and {usable.sum()} of them")
    s, y = np.asarray(plaquettes, np.float64), np.where(usable, log_weight, -np.inf)
    s = s - s.mean()

    def quality(shift: float) -> float:
        u = np.exp(shift * s - (shift * s).max())
        w, ratio = np.exp(y - y.max()), np.exp(2 * y - shift * s - (2 * y - shift * s).max())
        scale = 2 * y.max() - (shift * s).max() - (2 * y - shift * s).max()
        if u.sum() ** 2 / (len(u) * (u * u).sum()) < 0.25:
            return -np.inf
        return float(scale + 2 * np.log(w.sum()) - np.log(u.sum()) - np.log(ratio.sum()))

    candidates = beta * np.linspace(-0.5, 1.0, 301)
    candidates = candidates[beta + candidates > 0]
    return float(beta + candidates[int(np.argmax([quality(shift) for shift in candidates]))])
