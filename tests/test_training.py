"""Training: estimators against each other and against calculus, bookkeeping, faults, resumption."""

from __future__ import annotations

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from jaxtyping import Array, Float

from latflow.actions import AbstractAction, FreeScalar, WilsonGauge
from latflow.errors import MismatchError
from latflow.exact import TorusU1Sampler
from latflow.flows import AbstractBijection, ContinuousFlow, Identity, U1LoopTerms, u1_coupling_flow
from latflow.flows.spline import harmonic_inverse
from latflow.groups import U1, RealLine
from latflow.lattice import Geometry
from latflow.models import ExactPrior, FlowModel, FreeFieldPrior, HaarPrior, NormalPrior
from latflow.training import (
    TrainingDiverged,
    TrainSettings,
    fit,
    forward_kl,
    path_reverse_kl,
    plain_reverse_kl,
    prior_variance,
    score_reverse_kl,
)
from latflow.training.step import annealed, initial_state, make_step

SITES = Geometry((2, 2))
F64 = jnp.float64


class Stretch(AbstractBijection):
    """y = x exp(a): the smallest trainable flow."""

    a: Float[Array, ""]

    def forward_and_log_det(self, x, context=None):
        return x * jnp.exp(self.a), self.a * x.size

    def inverse_and_log_det(self, y, context=None):
        return y * jnp.exp(-self.a), -self.a * y.size


class Gaussian(AbstractAction):
    """Independent sites of standard deviation sigma; not finite where the first site exceeds `bad`."""

    sigma: float
    bad: float
    geometry: Geometry = eqx.field(static=True)
    group: RealLine

    def __init__(self, sigma: float, bad: float = np.inf):
        self.sigma, self.bad, self.geometry, self.group = sigma, bad, SITES, RealLine()

    def __call__(self, field):
        value = jnp.sum((field / self.sigma) ** 2) / 2
        return jnp.where(field[0, 0] > self.bad, jnp.nan, value)

    def value_and_force(self, field):
        return jax.value_and_grad(self)(field)


def stretch(a: float) -> FlowModel:
    return FlowModel(NormalPrior(SITES, 1.0, F64), Stretch(jnp.asarray(a, F64)))


def gradients(loss, model, action, n=4):
    parameters, rest = model.partition()
    grad = jax.jit(jax.grad(lambda p, k: loss(p, rest, action, k)[0]))
    return np.array([float(grad(parameters, jax.random.key(i)).bijection.a) for i in range(n)])


def test_reverse_gradients_agree_with_calculus():
    """KL(q|p) for sigma_q = e^a, sigma_p = s is 4 [e^{2a} / 2 s^2 - a] + const, with derivative 4 [e^{2a}/s^2 - 1]."""
    model, action = stretch(0.3), Gaussian(1.2)
    want = 4 * (np.exp(0.6) / 1.44 - 1)
    for make in (plain_reverse_kl, path_reverse_kl, score_reverse_kl):
        values = gradients(make(4096), model, action, 8)
        assert abs(values.mean() - want) < 5 * values.std(ddof=1) / np.sqrt(8)
        assert values.std() < 0.2


def test_path_and_score_gradients_are_noiseless_at_the_optimum():
    model, action = stretch(0.3), Gaussian(float(np.exp(0.3)))
    for noiseless in (path_reverse_kl, score_reverse_kl):
        assert np.abs(gradients(noiseless(64), model, action)).max() < 1e-12
    assert np.abs(gradients(plain_reverse_kl(64), model, action)).max() > 1e-3


class Shifted(WilsonGauge):
    """Wilson's action less 100 beta: log Z moves with the coupling, nothing else does."""

    def __init__(self, geometry: Geometry, beta: float):
        super().__init__(geometry, U1(), beta)

    def __call__(self, links):
        return super().__call__(links) - 100 * self.beta


def test_score_gradient_reaches_a_trained_prior():
    """The three reverse estimators agree on dKL/d log m2 of a free-field prior that does not fit the target."""
    geometry = Geometry((4, 4))
    model, action = FlowModel(FreeFieldPrior(geometry, 1.0), Identity()), FreeScalar(geometry, 0.5)
    parameters, rest = model.partition()
    found = []
    for make in (plain_reverse_kl, path_reverse_kl, score_reverse_kl):
        grad = jax.jit(jax.grad(lambda p, k, loss=make(2048): loss(p, rest, action, k)[0]))
        values = np.array([float(grad(parameters, jax.random.key(i)).prior.log_m2) for i in range(8)])
        found.append((values.mean(), values.std(ddof=1) / np.sqrt(8)))
    assert abs(found[0][0]) > 0.1
    for value, error in found[1:]:
        assert abs(value - found[0][0]) < 5 * np.hypot(error, found[0][1]) + 1e-4


def test_losses_report_the_same_value_and_weights():
    model, action = stretch(0.1), Gaussian(1.0)
    parameters, rest = model.partition()
    a, wa = plain_reverse_kl(16)(parameters, rest, action, jax.random.key(0))
    b, wb = path_reverse_kl(16)(parameters, rest, action, jax.random.key(0))
    c, wc = score_reverse_kl(16)(parameters, rest, action, jax.random.key(0))
    np.testing.assert_allclose([b, c], a)
    np.testing.assert_allclose([wb, wc], [wa, wa])


def test_forward_gradient_agrees_with_calculus():
    model, action = stretch(0.3), Gaussian(1.2)
    target = NormalPrior(SITES, 1.2, F64)
    values = gradients(forward_kl(4096, target), model, action, 8)
    want = 4 * (1 - 1.44 * np.exp(-0.6))  # d/da of 4 [a + s^2 e^{-2a} / 2]
    assert abs(values.mean() - want) < 5 * values.std(ddof=1) / np.sqrt(8)


@pytest.mark.parametrize("estimator", ["path", "plain", "score", "forward"])
def test_each_estimator_finds_the_gaussian(estimator):
    settings = TrainSettings(steps=150, batch_size=256, learning_rate=0.03, estimator=estimator, log_every=50)
    target = NormalPrior(SITES, 1.5, F64) if estimator == "forward" else None
    result = fit(stretch(0.0), Gaussian(1.5), settings, jax.random.key(0), target=target)
    assert abs(float(result.model.bijection.a) - np.log(1.5)) < 0.03
    assert result.history[-1]["ess"] > 0.98
    assert [line["step"] for line in result.history] == [50, 100, 150]
    assert result.skipped == 0 and not result.interrupted


def test_forward_without_samples_is_refused():
    with pytest.raises(ValueError, match="target"):
        fit(stretch(0.0), Gaussian(1.0), TrainSettings(estimator="forward"), jax.random.key(0))


def test_bad_steps_are_skipped_and_counted():
    settings = TrainSettings(steps=60, batch_size=4, learning_rate=0.01, estimator="plain", log_every=20, max_bad_steps=30)
    result = fit(stretch(0.0), Gaussian(1.0, bad=1.5), settings, jax.random.key(0))
    assert 0 < result.skipped < 60
    assert np.isfinite(float(result.model.bijection.a))
    assert result.history[-1]["skipped"] == result.skipped
    assert result.history[-1]["loss"] is not None


def test_divergence_stops_the_run_and_keeps_the_parameters(tmp_path):
    settings = TrainSettings(steps=100, batch_size=4, log_every=5, max_bad_steps=10, checkpoint_every=5)
    model = stretch(0.25)
    with pytest.raises(TrainingDiverged, match="learning_rate"):
        fit(model, Gaussian(1.0, bad=-np.inf), settings, jax.random.key(0), directory=tmp_path / "checkpoints")
    assert float(model.bijection.a) == 0.25
    resumed = fit(
        model, Gaussian(1.0), dataclasses.replace(settings, steps=5), jax.random.key(0), directory=tmp_path / "checkpoints"
    )
    assert resumed.resumed_from == 5 and float(resumed.model.bijection.a) == 0.25


def u1_problem(shape: tuple[int, int] = (4, 4)):
    geometry = Geometry(shape)
    flow = u1_coupling_flow(geometry, key=jax.random.key(1), mask="coarse-to-fine", blocks=0, bins=4, hidden=(4,))
    return FlowModel(HaarPrior(geometry, U1()), flow), WilsonGauge(geometry, U1(), 1.0)


def test_resumed_run_equals_uninterrupted_run_bit_for_bit(tmp_path):
    model, action = u1_problem((2, 4))
    settings = TrainSettings(steps=12, batch_size=8, log_every=3, checkpoint_every=5, anneal_from=0.5, anneal_steps=8)
    whole = fit(model, action, settings, jax.random.key(2))
    calls = iter(range(100))
    first = fit(model, action, settings, jax.random.key(2), directory=tmp_path / "c", should_stop=lambda: next(calls) >= 6)
    assert first.interrupted and first.steps == 7
    second = fit(model, action, settings, jax.random.key(2), directory=tmp_path / "c")
    assert second.resumed_from == 7 and second.steps == 12
    for a, b in zip(jax.tree.leaves(whole.model), jax.tree.leaves(second.model), strict=True):
        np.testing.assert_array_equal(a, b)
    assert [line["coupling"] for line in whole.history][-1] == 1.0
    with pytest.raises(MismatchError, match=r"train\.steps"):
        fit(model, action, dataclasses.replace(settings, steps=6), jax.random.key(2), directory=tmp_path / "c")


def test_forward_training_on_exact_samples():
    model, action = u1_problem()
    target = ExactPrior(TorusU1Sampler(action.geometry, 1.0, jnp.float32))
    settings = TrainSettings(steps=40, batch_size=64, learning_rate=2e-2, estimator="forward", log_every=20)
    history = fit(model, action, settings, jax.random.key(0), target=target).history
    assert history[-1]["ess"] > history[0]["ess"]


def test_step_is_traced_once():
    model, action = stretch(0.0), Gaussian(1.0)
    parameters, rest = model.partition()
    traces = 0

    def loss(*arguments):
        nonlocal traces
        traces += 1
        return plain_reverse_kl(8)(*arguments)

    settings = TrainSettings(steps=5)
    step, state = make_step(rest, action, settings, loss), initial_state(parameters, settings)
    for _ in range(5):
        state, _ = step(state, jax.random.key(0))
    assert traces == 1
    assert int(state.step) == 5


def test_schedules_and_clipping():
    rate = TrainSettings(steps=100, learning_rate=1.0, warmup_steps=10, schedule="cosine").learning_rate_schedule()
    np.testing.assert_allclose([float(rate(i)) for i in (0, 5, 10, 55, 100)], [0, 0.5, 1, 0.5, 0], atol=1e-6)
    rate = TrainSettings(learning_rate=1.0, schedule="step", decay_every=10, decay_factor=0.8).learning_rate_schedule()
    np.testing.assert_allclose([float(rate(i)) for i in (9, 10, 25)], [1, 0.8, 0.64], rtol=1e-6)
    gradient = jnp.asarray([30.0, 40.0])
    first = TrainSettings(clip_norm=5.0, clip_value=3.5).optimiser()
    again = TrainSettings().optimiser()
    clipped, _ = first.update(gradient, first.init(gradient), gradient)
    direct, _ = again.update(jnp.asarray([3.0, 3.5]), again.init(gradient), gradient)
    np.testing.assert_allclose(clipped, direct, rtol=1e-6)


def test_ess_while_annealing_does_not_mix_couplings():
    """Haar proposals at a small, moving beta on 2x2: each batch alone has a large ESS, the pooled log Z's would not."""
    geometry = Geometry((2, 2))
    settings = TrainSettings(
        steps=20, batch_size=512, learning_rate=1e-12, estimator="plain", anneal_from=0.0, anneal_steps=20, log_every=20
    )
    flow = u1_coupling_flow(geometry, key=jax.random.key(1), mask="coarse-to-fine", blocks=0, bins=4, hidden=(4,))
    action = Shifted(geometry, 0.4)
    history = fit(FlowModel(HaarPrior(geometry, U1()), flow), action, settings, jax.random.key(0)).history
    assert history[-1]["ess"] > 0.5


def test_annealing_moves_the_coupling_linearly():
    action = WilsonGauge(Geometry((4, 4)), U1(), 3.0)
    settings = TrainSettings(anneal_from=1.0, anneal_steps=10)
    for step, want in ((0, 1.0), (5, 2.0), (10, 3.0), (20, 3.0)):
        moved, coupling = annealed(action, settings, jnp.asarray(step, jnp.int32))
        np.testing.assert_allclose([float(coupling), float(moved.beta)], want)
    with pytest.raises(ValueError, match="coupling"):
        fit(stretch(0.0), Gaussian(1.0), settings, jax.random.key(0))


def block_log_density(n: int, beta: float, flux: np.ndarray) -> np.ndarray:
    """log g_n of the flux of n free plaquettes: g_n(W) = sum_m (I_m / I_0)^n cos(m W) / 2 pi."""
    m = np.arange(1, 60)
    ratio = scipy.special.ive(m, beta) / scipy.special.ive(0, beta)
    return np.log((1 + 2 * np.sum(ratio**n * np.cos(m * flux[..., None]), -1)) / (2 * np.pi))


@pytest.mark.optimised
def test_each_level_learns_its_exact_conditional():
    """A block of n plaquettes with flux s splits into a and s - a with probability g_{n/2}(a) g_{n/2}(s - a) / g_n(s)."""
    geometry, beta = Geometry((4, 4)), 3.0
    flow = u1_coupling_flow(geometry, key=jax.random.key(1), mask="coarse-to-fine", blocks=0, bins=24, hidden=(8,))
    settings = TrainSettings(steps=300, batch_size=256, learning_rate=1e-2, estimator="score", clip_norm=50.0, log_every=100)
    model = fit(
        FlowModel(HaarPrior(geometry, U1()), flow), WilsonGauge(geometry, U1(), beta), settings, jax.random.key(2)
    ).model
    y = -np.pi + (np.arange(512) + 0.5) * 2 * np.pi / 512
    for layer in model.bijection.bijections:
        n = int(np.prod(layer.view.block))
        # the whole torus has flux 0; smaller blocks are looked at where most of their fluxes are
        for s in (0.0,) if n == geometry.volume else (0.0, 0.4, -0.8):
            near = jnp.asarray([np.cos(s / 2), np.cos(s), np.cos(2 * s)], jnp.float32)
            cosines = jnp.repeat(layer._odd_parameters(near)[:, None], y.size, 1)
            _, log_slope = jax.jit(harmonic_inverse, static_argnums=2)(jnp.asarray(y, jnp.float32), cosines, layer.bins)
            log_q = np.asarray(log_slope, np.float64) - np.log(2 * np.pi)
            log_p = block_log_density(n // 2, beta, s / 2 + y) + block_log_density(n // 2, beta, s / 2 - y)
            log_p -= np.log(np.sum(np.exp(log_p)) * 2 * np.pi / 512)
            divergence = np.sum(np.exp(log_q) * (log_q - log_p)) * 2 * np.pi / 512
            assert divergence < 0.01, (layer.view.block, s)


def test_variance_is_least_where_the_map_is_exact_and_gauss_newton_finds_it():
    model, action = stretch(0.0), Gaussian(1.5)
    parameters, rest = model.partition()
    loss = prior_variance(64)
    exact = eqx.tree_at(lambda m: m.bijection.a, parameters, jnp.log(1.5))
    assert float(loss(parameters, rest, action, jax.random.key(0))[0]) > 0.1
    value, gradient = jax.jit(jax.value_and_grad(lambda p: loss(p, rest, action, jax.random.key(0))[0]))(exact)
    assert abs(value) < 1e-10 and abs(float(gradient.bijection.a)) < 1e-10
    settings = TrainSettings(steps=8, batch_size=16, optimizer="gauss-newton", estimator="variance", log_every=1)
    found = fit(model, action, settings, jax.random.key(1))
    np.testing.assert_allclose(found.model.bijection.a, np.log(1.5), rtol=1e-9)
    assert found.history[-1]["ess"] > 1 - 1e-9 and found.history[-1]["loss"] < 1e-12


def test_gauss_newton_solves_the_normal_equations_and_resumes(tmp_path):
    model, action = u1_problem()
    model = FlowModel(model.prior, ContinuousFlow(U1LoopTerms(action.geometry), steps=1, modes=2, dtype=jnp.float64))
    settings = TrainSettings(steps=1, batch_size=24, optimizer="gauss-newton", estimator="variance", damping=0.1)
    key = jax.random.key(3)
    found = fit(model, action, settings, key).model.bijection.coefficients.ravel()
    z, log_r = model.prior.draw(jax.random.fold_in(key, 0), 24)

    def log_weight(c):
        flow = eqx.tree_at(lambda f: f.coefficients, model.bijection, c.reshape(-1, 2))
        y, log_det = flow.forward_batch(z)
        return log_det - log_r - jax.vmap(action, in_axes=-1)(y)

    zero = jnp.zeros(found.size)
    w, J = map(np.asarray, jax.jit(lambda c: (log_weight(c), jax.jacfwd(log_weight)(c)))(zero))
    w, J = w - w.mean(), J - J.mean(0)
    square = np.diag(J.T @ J)
    expected = -np.linalg.solve(J.T @ J + 0.1 * np.diag(np.maximum(square, square.max() / 100)), J.T @ w)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)
    # to first order the odd modes in time do nothing, and they must not run away
    assert np.max(np.abs(found.reshape(-1, 2)[:, 1])) < 1e-6 < np.min(np.abs(found.reshape(-1, 2)[:, 0]))
    settings = dataclasses.replace(settings, steps=3)
    whole = fit(model, action, settings, key, directory=tmp_path / "a").model
    fit(model, action, dataclasses.replace(settings, steps=2), key, directory=tmp_path / "b")
    resumed = fit(model, action, settings, key, directory=tmp_path / "b").model
    np.testing.assert_array_equal(whole.bijection.coefficients, resumed.bijection.coefficients)
