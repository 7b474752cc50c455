"""Loop features against loops walked link by link; filters learned from weighted draws, and the priors they make."""

from __future__ import annotations

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contracts import close, cut, gauge_transform, pool
from fermion_cases import links_of, quick_jit, rectangle, uniform_flux, walk

from latflow.exact import TorusU1Sampler
from latflow.groups import SUN, U1, RealLine
from latflow.lattice import Geometry, shift
from latflow.loops import plaquette
from latflow.loops.features import MatrixFeatures, TorusFeatures, features_of
from latflow.models.prior import ExactPrior
from latflow.models.resampled import Filter, ResampledPrior, best_beta, learn_filter, measured
from latflow.statistics import effective_sample_size

# extents differ so that mixed-up directions show
FEATURES = {
    "u1": TorusFeatures(Geometry((5, 4)), reach=3, pairs=2, kinks=2, charges=2),
    "u1 small": TorusFeatures(Geometry((2, 3))),
    "su2-2d": MatrixFeatures(Geometry((3, 4)), SUN(2), reach=2),
    "su3-3d": MatrixFeatures(Geometry((2, 3, 2)), SUN(3), reach=2),
}

BETA, DRAWS = 2.0, 4096
SQUARE = ExactPrior(TorusU1Sampler(Geometry((4, 4)), BETA))
FEATURES_44 = TorusFeatures(Geometry((4, 4)), reach=1, pairs=0, kinks=0, charges=2)


def links(features, seed=0):
    group = features.group if isinstance(features, MatrixFeatures) else U1()
    return cut(group, pool(group, seed)[0], (features.geometry.Nd, *features.geometry.shape))


@functools.cache
def compiled(features):
    return quick_jit(lambda field: features(field))


def torus_value(name, U, charge):
    """One feature of U(1) from its name, every loop walked from every site."""
    found = re.match(r"([a-z_]+?)_((?:\d+[x_]?)+)$", name)
    kind, numbers = found.groups() if found else ("", "")
    shape = U.shape[3:]
    sites = list(np.ndindex(*shape))

    def loop(x, path):
        return walk(U, x, path)[0][0, 0]

    def winding(mu, x):
        return loop(x, [mu + 1] * shape[mu])

    def starts(mu):  # one site of each line
        return [x for x in sites if x[mu] == 0]

    if not kind:
        pairs = [(winding(0, x), winding(1, y)) for x in starts(0) for y in starts(1)]
        return sum((a * (b if name == "cross_sum" else b.conj())).real for a, b in pairs)
    n = [int(k) for k in re.split("[x_]", numbers)]
    if kind == "charge":
        return float(abs(charge) >= n[0] if n[0] == 2 else abs(charge) == n[0])
    if kind == "block":
        return sum(loop(x, rectangle(0, 1, *n)).real for x in sites)
    if kind in ("sum", "difference"):
        total = 0.0
        for x in sites:
            for b in {n[1], -n[1]} if n[0] else {n[1]}:
                p = loop(x, rectangle(0, 1))
                q = loop(((x[0] + n[0]) % shape[0], (x[1] + b) % shape[1]), rectangle(0, 1))
                total += (p * (q if kind == "sum" else q.conj())).real
        return total
    mu, nu = n[0], 1 - n[0]
    if kind in ("line", "double_line"):
        return sum((winding(mu, x) ** (2 if kind == "double_line" else 1)).real for x in starts(mu))
    aside = [nu + 1] * n[1]
    if kind == "kink":
        back = [-step for step in aside]
        return sum(loop(x, aside + [mu + 1] * n[2] + back + [mu + 1] * (shape[mu] - n[2])).real for x in sites)
    pairs = [(winding(mu, x), winding(mu, walk(U, x, aside)[1])) for x in starts(mu)]
    return sum((a * (b.conj() if kind == "strip" else b)).real for a, b in pairs)


def matrix_value(name, U):
    kind, *n = re.split("_|x", name)
    n = [int(k) for k in n]
    shape, Nc = U.shape[3:], len(U)
    if kind in ("loop", "adjoint"):
        traces = [np.trace(walk(U, x, rectangle(*n))[0]) / Nc for x in np.ndindex(*shape)]
        return sum(t.real if kind == "loop" else abs(t) ** 2 for t in traces)
    traces = [np.trace(walk(U, x, [n[0] + 1] * shape[n[0]])[0]) / Nc for x in np.ndindex(*shape) if x[n[0]] == 0]
    return {"line": sum(traces).real, "line2": sum(abs(t) ** 2 for t in traces), "lines": abs(sum(traces)) ** 2}[kind]


@pytest.mark.parametrize("name", FEATURES)
def test_features_are_the_loops_of_their_names(name):
    features = FEATURES[name]
    field = links(features)
    found = np.asarray(compiled(features)(field))
    assert len(features.names) == len(set(features.names)) == len(found) and found.dtype == np.float64
    U = links_of(U1() if name.startswith("u1") else features.group, field)
    if name == "u1":
        P = np.angle([walk(U, x, rectangle(0, 1))[0][0, 0] for x in np.ndindex(5, 4)])
        expected = [torus_value(n, U, round(P.sum() / (2 * np.pi))) for n in features.names]
        close(found, expected, 1e-11)
    elif name != "u1 small":
        close(found, [matrix_value(n, U) for n in features.names], 1e-11)


@pytest.mark.parametrize("name", FEATURES)
def test_features_are_invariant(name):
    """Under gauge transformations, translations, and charge conjugation."""
    features = FEATURES[name]
    group, geometry = U1() if "u1" in name else features.group, features.geometry
    field, run = links(features), compiled(features)
    omega = cut(group, pool(group, 2)[0], geometry.shape)
    turned = quick_jit(gauge_transform, static_argnums=(0, 3))(group, field, omega, geometry.Nd)
    conjugate = jnp.conj(field) if group.colour_shape else -field
    for other in (turned, conjugate, *(shift(field, mu, geometry.Nd) for mu in range(geometry.Nd))):
        close(run(other), run(field), 1e-11)
    single = jax.eval_shape(run, jax.ShapeDtypeStruct(field.shape, jnp.complex64 if group.colour_shape else jnp.float32))
    assert single.dtype == jnp.float64


@pytest.mark.parametrize("Q", [0, 1, -1, 2, -3])
def test_charges(Q):
    features = FEATURES["u1"]
    found = dict(zip(features.names, np.asarray(compiled(features)(jnp.asarray(uniform_flux((5, 4), Q)))), strict=True))
    assert (found["charge_1"], found["charge_2"]) == (abs(Q) == 1, abs(Q) >= 2)
    close(found["block_2x1"], 20 * np.cos(4 * np.pi * Q / 20))


def test_which_features_a_group_has():
    assert features_of(U1(), Geometry((4, 4))) == TorusFeatures(Geometry((4, 4)))
    assert features_of(SUN(3), Geometry((2, 2, 2, 2))) == MatrixFeatures(Geometry((2, 2, 2, 2)), SUN(3))
    for group, geometry in ((U1(), Geometry((4, 4, 4))), (RealLine(), Geometry((4, 4)))):
        with pytest.raises(ValueError, match="no loop features"):
            features_of(group, geometry)
    with pytest.raises(ValueError, match="two dimensions"):
        TorusFeatures(Geometry((4, 4, 4)))


# ---- filters ------------------------------------------------------------------------------------------------------------


def synthetic(noise, n=4000, offset=7.0):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, 6)) * [1, 10, 0.1, 1, 1, 0] + [0, 100, 0, 3, 0, 5]  # the last is a constant
    return X, X @ [0.8, 0.06, 2.0, -0.5, 0.0, 1.0] + offset + noise * rng.normal(size=n)


def test_a_weight_that_is_linear_in_the_features_is_removed():
    """What is left is the cut at an acceptance of 1, small where few are accepted, and the noise exp(-noise^2)."""
    X, y = synthetic(0.1)
    assert effective_sample_size(y) < 0.35
    previous = 1.0
    for acceptance in (0.02, 0.1, 0.5):
        found, facts = learn_filter(X, y, acceptance)
        a = np.exp(np.minimum(X @ found.weights - found.offset, 0))
        close([a.mean(), facts["acceptance"]], acceptance, 1e-6)
        close(found.log_acceptance, np.log(acceptance), 1e-6)
        close(found.log_acceptance_error, a.std() / a.mean() / np.sqrt(len(a)))
        assert found.weights[-1] == 0
        assert facts["ess"] < previous + 0.01
        previous = facts["ess"]
        # the prediction: new draws, kept or not by a die
        new, weight = X[::-1], y[::-1]
        kept = np.random.default_rng(1).random(len(y)) < a[::-1]
        if kept.sum() > 300:
            log_a = np.minimum(new @ found.weights - found.offset, 0)
            assert abs(effective_sample_size((weight - log_a)[kept]) - facts["ess"]) < 0.05
    assert learn_filter(X, y, 0.02)[1]["ess"] > 0.97 and learn_filter(X, y, 0.9)[1]["ess"] < 0.7
    close(learn_filter(X, y, 0.1)[1]["ess_before"], effective_sample_size(y))


def test_noise_limits_the_effective_sample_size():
    X, y = synthetic(0.5, n=8000)
    np.testing.assert_allclose(learn_filter(X, y, 0.02)[1]["ess"], np.exp(-0.25), atol=0.05)


def test_draws_without_weight():
    """A weight of zero teaches nothing, but such draws are accepted like others and count in the acceptance and in the ESS."""
    X, y = synthetic(0.1)
    lost = X[:, 0] > 0.7
    assert 0.15 < lost.mean() < 0.35
    found, facts = learn_filter(X, np.where(lost, -np.inf, y), 0.1)
    a = np.exp(np.minimum(X @ found.weights - found.offset, 0))
    close([a.mean(), np.exp(found.log_acceptance), facts["acceptance"]], 0.1, 1e-6)
    weight = np.where(lost, 0, np.exp(y - y.max()))
    close(facts["ess_before"], weight.sum() ** 2 / (len(y) * (weight**2).sum()))
    expected = weight.mean() ** 2 / (a.mean() * (weight**2 / a).mean())
    np.testing.assert_allclose(facts["ess"], expected, atol=0.02)


def test_impossible_filters():
    X, y = synthetic(0.1, n=40)
    for acceptance in (0.0, 1.0, -0.1, float("nan")):
        with pytest.raises(ValueError, match="between 0 and 1"):
            learn_filter(X, y, acceptance)
    with pytest.raises(ValueError, match="too few"):
        learn_filter(X, np.where(np.arange(40) < 15, y, -np.inf), 0.1)
    with pytest.raises(ValueError, match="3 weights"):
        ResampledPrior(SQUARE, FEATURES_44, Filter(np.zeros(3), 0.0, 0.0, 0.0))
    for beta, log_weight in ((0.0, y), (-1.0, y), (1.0, np.full(40, -np.inf))):
        with pytest.raises(ValueError, match="beta > 0"):
            best_beta(beta, X[:, 0], log_weight)


@pytest.mark.parametrize("target", [1.6, 2.0, 2.9])
def test_best_beta(target):
    """The target is pure gauge theory at another coupling."""
    sums, _ = plaquettes()
    np.testing.assert_allclose(best_beta(BETA, sums, (target - BETA) * sums + 3), target, rtol=0.03)
    # a part of the weight that does not know of the plaquette changes nothing, nor do draws without weight
    noise = 0.3 * np.random.default_rng(0).normal(size=len(sums))
    noise[:50] = -np.inf
    np.testing.assert_allclose(best_beta(BETA, sums, (target - BETA) * sums + noise), target, rtol=0.06)


# ---- the prior ----------------------------------------------------------------------------------------------------------


def observables(fields):
    """Per configuration, batch first: the mean plaquette, its double, and a line around time."""
    P = fields[:, 0] + np.roll(fields[:, 1], -1, 1) - np.roll(fields[:, 0], -1, 2) - fields[:, 1]
    return np.stack([np.cos(P).mean((1, 2)), np.cos(2 * P).mean((1, 2)), np.cos(fields[:, 0].sum(1)).mean(1)], 1)


@functools.cache
def plaquettes():
    """(sum of cos P, fields with the batch axis first) of draws of the prior."""
    fields = np.moveaxis(np.asarray(quick_jit(lambda key: SQUARE.draw(key, DRAWS)[0])(jax.random.key(5))), -1, 0)
    P = plaquette(U1(), Geometry((4, 4)), jnp.asarray(fields[0]), 0, 1)
    close(observables(fields[:1])[0, :2], [np.cos(P).mean(), np.cos(2 * P).mean()])
    return 16 * observables(fields)[:, 0], fields


@functools.cache
def resampled():
    """A prior that prefers large plaquettes and small lines, how it was learned, and 4096 of its draws."""
    _, fields = plaquettes()
    X = np.asarray(quick_jit(jax.vmap(FEATURES_44))(fields))
    names = FEATURES_44.names
    log_weight = 0.25 * X[:, names.index("block_1x1")] - 0.5 * X[:, names.index("line_0")]
    found, _ = learn_filter(X, log_weight, 0.3)
    prior = ResampledPrior(SQUARE, FEATURES_44, found)
    x, log_density = quick_jit(lambda key: prior.draw(key, DRAWS))(jax.random.key(6))
    return prior, found, np.exp(np.minimum(X @ found.weights - found.offset, 0)), np.moveaxis(np.asarray(x), -1, 0), log_density


def test_draws_have_the_density_they_claim():
    """Exactly as many as asked for, none twice, each with the log density of its field."""
    prior, _, _, fields, log_density = resampled()
    assert fields.shape == (DRAWS, 2, 4, 4) and log_density.shape == (DRAWS,) and log_density.dtype == jnp.float64
    assert len(np.unique(fields[:, 0, 0, 0])) == DRAWS
    close(quick_jit(jax.vmap(prior.log_density))(fields), log_density, 1e-10)


def test_means_over_draws_are_weighted_means_over_the_prior():
    """E[O] = E_r[O a] / E_r[a], and the filter makes a difference."""
    _, _, a, fields, _ = resampled()
    _, base = plaquettes()
    direct, of_base = observables(fields), observables(base)
    expected = (a[:, None] * of_base).mean(0) / a.mean()
    error = np.sqrt(direct.var(0) / DRAWS + (a[:, None] ** 2 * (of_base - expected) ** 2).mean(0) / a.mean() ** 2 / DRAWS)
    assert effective_sample_size(np.log(a)) > 0.2
    assert (np.abs(direct.mean(0) - expected) < 5 * error).all()
    assert (np.abs(direct.mean(0) - of_base.mean(0)) > 8 * error).any()


def test_the_density_is_normalised():
    """E_q[r / q] = 1 = E_r[q / r], up to the error of A."""
    prior, found, a, fields, log_density = resampled()
    log_r = np.asarray(quick_jit(jax.vmap(SQUARE.log_density))(fields))
    ratio = np.exp(log_r - np.asarray(log_density))
    error = np.hypot(ratio.std() / np.sqrt(DRAWS), found.log_acceptance_error)
    assert 0.001 < error < 0.1 and abs(ratio.mean() - 1) < 5 * error
    # from independent draws of the prior
    fresh = quick_jit(lambda key: SQUARE.draw(key, DRAWS)[0])(jax.random.key(8))
    new = np.exp(np.asarray(quick_jit(jax.vmap(prior.log_acceptance_of, in_axes=-1))(fresh)) - found.log_acceptance)
    assert abs(new.mean() - 1) < 5 * np.hypot(new.std() / np.sqrt(DRAWS), found.log_acceptance_error)
    assert (a <= 1).all()


def test_single_draws_and_small_batches():
    prior = resampled()[0]
    draw, sample = quick_jit(lambda key: prior.draw(key, 5)), quick_jit(lambda key: prior.sample(key))
    key = jax.random.key(9)
    x, log_density = draw(key)
    assert x.shape == (2, 4, 4, 5) and np.isfinite(log_density).all()
    close(draw(key)[0], x, 0)
    one = sample(key)
    assert one.shape == (2, 4, 4) and not np.allclose(one, sample(jax.random.key(10)))
    assert prior.limit is None and not prior.trainable
    single = ResampledPrior(ExactPrior(TorusU1Sampler(Geometry((4, 4)), BETA, jnp.float32)), FEATURES_44, resampled()[1])
    x, log_density = jax.eval_shape(lambda key: single.draw(key, 5), key)
    assert (x.dtype, log_density.dtype) == (jnp.float32, jnp.float64)


def test_the_share_that_is_kept_is_measured_on_fresh_draws():
    """A from other draws, whatever the filter thought of it, with a smaller error; and the same for the same key."""
    prior, found, a, _, _ = resampled()
    wrong = found._replace(log_acceptance=0.0, log_acceptance_error=1.0)
    fresh = measured(prior, wrong, jax.random.key(12), 8192)
    spread = a.std() / a.mean() / np.sqrt(len(a))
    assert abs(fresh.log_acceptance - np.log(a.mean())) < 5 * np.hypot(spread, fresh.log_acceptance_error)
    assert 0 < fresh.log_acceptance_error < spread
    assert fresh.offset == found.offset
    assert measured(prior, wrong, jax.random.key(12), 8192).log_acceptance == fresh.log_acceptance


def test_a_filter_that_keeps_nothing_ends():
    """Instead of drawing for ever: draws without a density."""
    hopeless = resampled()[1]._replace(offset=1e9)
    _, log_density = quick_jit(lambda key: ResampledPrior(SQUARE, FEATURES_44, hopeless).draw(key, 3))(jax.random.key(13))
    assert np.isnan(log_density).all()
