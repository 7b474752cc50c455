"""Joint models: draws, unbiased estimates, spectra, gradients, and the chain that is made of them."""

from __future__ import annotations

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fermion_cases import quick_jit

from latflow.actions import Determinant, WilsonGauge, monomials
from latflow.dirac import WilsonFermion
from latflow.exact import TorusU1Sampler
from latflow.flows import AbstractConditional, AbstractLinearMap, Identity, IdentityConditional
from latflow.groups import U1
from latflow.io.ensemble import EnsembleFile
from latflow.lattice import Geometry
from latflow.models import (
    ExactPrior,
    FlowModel,
    JointModel,
    JointTarget,
    gaussian_draws,
    log_estimate,
    noise_key,
    spectrum_of,
    weigh,
)
from latflow.samplers import draw_proposals, log_weights, weigh_proposals
from latflow.statistics import best_number, effective_sample_size, ess_of_draws, fit_draws, normalised_weights
from latflow.statistics.draws import DrawsPoint, averaged
from latflow.training import TrainSettings, fit
from latflow.training.joint_losses import joint_reverse_kl, marginal_with_probes
from latflow.training.losses import path_reverse_kl

GEOMETRY, BETA, MASSES = Geometry((4, 2)), 1.5, (0.4,)
FERMION = WilsonFermion(GEOMETRY, U1(), 0.1)
BOSON = WilsonGauge(GEOMETRY, U1(), BETA)


class ScaledMap(AbstractLinearMap):
    """phi = exp(s) chi."""

    log_scale: jax.Array
    spinor_shape: tuple[int, ...] = eqx.field(static=True)

    @property
    def shape(self):
        return self.spinor_shape

    @property
    def dtype(self):
        return jnp.complex128

    def mv(self, chi):
        return jnp.exp(self.log_scale) * chi

    def inverse(self, phi):
        return jnp.exp(-self.log_scale) * phi

    @property
    def log_abs_det(self):
        return self.size * self.log_scale


class Scale(AbstractConditional):
    """One number, to differentiate by hand."""

    log_scale: jax.Array

    def bind(self, field, features=None):
        return ScaledMap(self.log_scale, FERMION.operator(field).schur().shape)


def target(draws=1, kind="independent", masses=MASSES, **options):
    return JointTarget(BOSON, monomials(FERMION, masses), draws, kind, **options)


def model(scales=(0.05, 0.1)):
    marginal = FlowModel(ExactPrior(TorusU1Sampler(GEOMETRY, BETA, jnp.float64)), Identity())
    return JointModel(marginal, None, tuple(Scale(jnp.asarray(s, jnp.float64)) for s in scales), "conditional")


@functools.cache
def some_field():
    return model().draw(jax.random.key(3), 1)[0][..., 0]


@pytest.mark.parametrize("kind", ["independent", "orthogonal", "antithetic"])
def test_every_draw_is_gaussian(kind):
    """<chi_i chi_j^*> = delta_ij, <chi_i chi_j> = 0, |chi_i|^2 exponential, for each draw by itself."""
    n, N, number = 4096, 3, 5  # more draws than components: two orthogonal blocks
    keys = jax.random.split(jax.random.key(1), n)
    chi = np.asarray(quick_jit(jax.vmap(lambda key: gaussian_draws(key, number, (N,), jnp.complex128, kind)))(keys))
    assert chi.shape == (n, number, N)
    for draw in range(number):
        x = chi[:, draw]
        for product, expected in ((x[:, :, None] * x[:, None].conj(), np.eye(N)), (x[:, :, None] * x[:, None], 0 * np.eye(N))):
            error = np.maximum(product.std(0), 0.1) / np.sqrt(n)
            assert np.all(np.abs(product.mean(0) - expected) < 5 * error)
        for power, moment in ((2, 2.0), (3, 6.0)):  # of an exponential variable
            value = np.abs(x) ** (2 * power)
            assert np.all(np.abs(value.mean(0) - moment) < 5 * value.std(0) / np.sqrt(n))


def test_draws_even_each_other_out():
    key, n = jax.random.key(2), 512
    orthogonal = np.asarray(gaussian_draws(key, 4, (2, 3), jnp.complex128, "orthogonal")).reshape(4, 6)
    overlap = orthogonal.conj() @ orthogonal.T
    assert np.allclose(overlap, np.diag(np.diag(overlap)))
    pairs = np.abs(np.asarray(gaussian_draws(key, 2, (n,), jnp.complex64, "antithetic"))) ** 2
    assert np.allclose(np.exp(-pairs[0]) + np.exp(-pairs[1]), 1, atol=1e-5)
    with pytest.raises(ValueError, match="one draw at least"):
        gaussian_draws(key, 0, (n,), jnp.complex64)


@pytest.mark.parametrize("kind", ["independent", "orthogonal", "antithetic"])
def test_weights_estimate_the_determinant(kind):
    """<w_i> = det C_i^-1 from dense matrices, <w_i^2> as the spectrum says, for a flow that fits badly."""
    field, joint, n = some_field(), model(), 2048
    action = target(draws=4, kind=kind)
    found = quick_jit(jax.vmap(lambda key: weigh(joint, action, key, field)))(jax.random.split(jax.random.key(4), n))
    assert np.all(found.converged) and found.log_weight.shape == (n, 2, 4)
    for i, monomial in enumerate(action.monomials):
        relative = np.exp(np.asarray(found.log_weight[:, i]) - float(monomial.log_det(field)))
        each = relative.mean(1)  # over draws, which need not be independent
        assert abs(each.mean() - 1) < 5 * each.std() / np.sqrt(n)
        predicted = np.exp(float(spectrum_of(joint.maps(field)[i], monomial, field).log_second_moment))
        square = (relative**2).mean(1)
        assert effective_sample_size(2 * np.log(relative[:, 0])) > 0.05
        assert abs(square.mean() - predicted) < 5 * square.std() / np.sqrt(n)
    product = np.exp(np.asarray(jax.vmap(log_estimate)(found.log_weight)))
    assert np.allclose(product, np.exp(np.asarray(found.log_weight)).mean(2).prod(1))


def test_infinite_variance_is_reported():
    field = some_field()
    wide = spectrum_of(model((-1.0, 0.0)).maps(field)[0], target().monomials[0], field)
    assert wide.smallest < 0.5 and np.isinf(wide.log_second_moment)


def test_a_joint_target_is_its_marginal():
    field = some_field()
    exact = BOSON + Determinant(FERMION)
    assert np.isclose(target()(field), exact(field), rtol=1e-12)
    assert np.allclose(target().force(field), exact.force(field), atol=1e-9)


@pytest.mark.parametrize("estimator", ["path", "plain"])
def test_gradients_are_those_of_the_divergence(estimator):
    """d/ds of <tr A> - log det A with A = exp(2 s) C, averaged over fields: both estimators agree with it."""
    joint, action, n, rounds = model(), target(draws=2), 64, 24
    parameters, rest = joint.partition()
    assert jax.tree.leaves(eqx.filter(parameters.marginal, eqx.is_array)) == []
    loss = joint_reverse_kl(n, estimator)
    gradient = quick_jit(lambda key: jax.grad(loss, has_aux=True)(parameters, rest, action, key)[0])
    found = []
    for key in jax.random.split(jax.random.key(5), rounds):
        found.append([float(c.log_scale) for c in gradient(key).conditionals])
    fields = joint.draw(jax.random.key(6), 2048)[0]

    def trace(field):
        spectra = []
        for monomial, bound in zip(action.monomials, joint.maps(field), strict=True):
            dirac = monomial.operator(field).matrix()
            M = jnp.linalg.eigvalsh(dirac @ dirac.conj().T)
            C = 1 / (M + monomial.mu)
            C = C if monomial.heavier is None else 1 + (monomial.heavier - monomial.mu) * C
            spectra.append(2 * jnp.sum(jnp.exp(2 * bound.log_scale) * C - 1))
        return jnp.stack(spectra)

    exact = np.asarray(quick_jit(jax.vmap(trace, in_axes=-1))(fields))
    found, error = np.mean(found, 0), np.std(found, 0, ddof=1) / np.sqrt(rounds)
    error = np.hypot(error, exact.std(0) / np.sqrt(len(exact)))
    assert np.all(np.abs(found - exact.mean(0)) < 5 * error)


def test_stages_and_training(tmp_path):
    """The two scales are trained towards the best ones, from the closed form of the divergence, and the marginal stays."""
    joint, action = model((0.0, 0.0)), target()
    settings = TrainSettings(steps=60, batch_size=32, learning_rate=3e-2, log_every=30)
    seen = []
    trained = fit(joint, action, settings, jax.random.key(7), evaluate=lambda m, step: seen.append(step) or {"extra": step})
    assert seen == [30, 60] and trained.history[-1]["extra"] == 60
    fields = joint.draw(jax.random.key(8), 64)[0]
    for i, conditional in enumerate(trained.model.conditionals):
        # tr A = N at the minimum
        A = [
            np.trace(np.asarray(_preconditioned(trained.model, action, i, fields[..., k]))).real / _size(fields[..., k])
            for k in range(8)
        ]
        assert abs(np.mean(A) - 1) < 0.05, conditional
    before, after = (
        effective_sample_size(weigh_proposals(m, action, jax.random.key(9), 512)["joint"]) for m in (joint, trained.model)
    )
    assert after > before
    with pytest.raises(ValueError, match="path"):
        joint_reverse_kl(4, "score")
    with pytest.raises(ValueError, match="monomials"):
        weigh(joint, target(masses=()), jax.random.key(0), some_field())


def _preconditioned(joint, action, i, field):
    from latflow.models.joint import preconditioned

    return preconditioned(joint.maps(field)[i], action.monomials[i], field)


def _size(field):
    return FERMION.operator(field).schur().size


def test_noisy_gradients_of_the_determinant_are_unbiased():
    """Of the marginal alone, by Hutchinson with fresh probes: on average the gradient with the exact determinant."""

    class Turn(Identity.__mro__[1]):  # AbstractBijection
        """x -> x + angle on the links of direction 0 at time 0: what the Polyakov loops, hence the determinant, feel."""

        angle: jax.Array

        def _table(self):
            table = np.zeros((2, *GEOMETRY.shape))
            table[0, 0] = 1
            return self.angle * table

        def forward_and_log_det(self, x, context=None):
            return x + self._table(), jnp.zeros(())

        def inverse_and_log_det(self, y, context=None):
            return y - self._table(), jnp.zeros(())

    marginal = FlowModel(ExactPrior(TorusU1Sampler(GEOMETRY, BETA, jnp.float64)), Turn(jnp.asarray(0.4)))
    joint = JointModel(marginal, None, (IdentityConditional(FERMION),) * 2, "marginal")
    parameters, rest = joint.partition()
    assert parameters.conditionals == (IdentityConditional(FERMION),) * 2 or not jax.tree.leaves(parameters.conditionals)
    noisy, exact = marginal_with_probes(path_reverse_kl(16)), path_reverse_kl(16)
    key = jax.random.key(10)
    one = quick_jit(lambda k: jax.grad(noisy, has_aux=True)(parameters, rest, target(tol=1e-8), k)[0])
    other = quick_jit(lambda k: jax.grad(exact, has_aux=True)(parameters, rest, BOSON + Determinant(FERMION), k)[0])
    differences = [
        float(one(k).marginal.bijection.angle) - float(other(k).marginal.bijection.angle) for k in jax.random.split(key, 48)
    ]
    assert abs(np.mean(differences)) < 5 * np.std(differences) / np.sqrt(48)
    assert np.std(differences) > 0


def test_the_chain_is_exact(tmp_path):
    """Pseudo-marginal reweighting with two noisy draws agrees with the exact determinant on the same proposals."""
    joint, action, exact = model(), target(draws=2), BOSON + Determinant(FERMION)
    plaquette = {"cos": lambda field: jnp.mean(jnp.cos(field[0]) * 0 + jnp.cos(_plaquettes(field)))}
    path = tmp_path / "joint.h5"
    summary = draw_proposals(joint, action, plaquette, path, jax.random.key(11), 4096, 1024, marginal=exact)
    assert summary.unusable == 0
    with EnsembleFile.open(path) as file:
        log_weight, value = log_weights(file), file.read("measurements/cos")
        marginal = -file.read("marginal_action") - file.read("log_q")
        estimates = file.read("log_det_estimates")
        assert file.read("iterations").shape == (4096, 2) and estimates.shape == (4096, 2, 2)
    rest = log_weight - averaged(estimates, np.arange(2))
    assert np.allclose(rest + averaged(estimates, np.arange(2)), log_weight)
    assert effective_sample_size(log_weight) > 0.2
    w, exact_w = normalised_weights(log_weight), normalised_weights(marginal)
    # the same proposals: the difference of the two estimates is pure pseudofermion noise
    centred = value - np.mean(exact_w * value)
    noise = (w / w.mean() - exact_w) * centred
    assert abs(noise.mean()) < 5 * noise.std() / np.sqrt(len(noise))
    ratio = np.exp(log_weight - marginal)
    assert abs(ratio.mean() - 1) < 5 * ratio.std() / np.sqrt(len(ratio))


def _plaquettes(theta):
    return theta[0] + jnp.roll(theta[1], -1, 0) - jnp.roll(theta[0], -1, 1) - theta[1]


def test_failed_solves_are_seen(tmp_path):
    joint, action = model(), target(tol=1e-12, max_iterations=1)
    found = quick_jit(lambda key: weigh(joint, action, key, some_field()))(jax.random.key(12))
    assert not np.any(found.converged) and np.all(np.isnan(found.log_weight))


def test_ess_of_many_draws():
    """One monomial with log-normal noise of variance s^2 on constant weights: ESS(n) = 1 / (1 + (exp(s^2) - 1) / n)."""
    rng, n, s = np.random.default_rng(13), 8192, 0.6
    estimates = rng.normal(-(s**2) / 2, s, (n, 1, 16))
    points = ess_of_draws(np.zeros(n), estimates)
    assert [p.draws for p in points] == [1, 2, 4, 8, 16]
    for point in points:
        assert abs(point.ess - 1 / (1 + np.expm1(s**2) / point.draws)) < 5 * point.error + 1e-3
    found = fit_draws(points)
    assert found is not None and abs(found.ess - 1) < 0.01 and abs(found.C - np.expm1(s**2)) < 0.03
    assert fit_draws(points[:1]) is None
    with pytest.raises(ValueError, match="32 draws"):
        ess_of_draws(np.zeros(n), estimates, [32])


def test_noise_has_a_key_of_its_own():
    """None of those of the configurations, which `split` gives and which `fold_in` would give again."""
    key = jax.random.key(3)
    of_fields = np.asarray(jax.random.key_data(jax.random.split(key, 4096)))
    assert not np.any(np.all(of_fields == np.asarray(jax.random.key_data(noise_key(key))), axis=1))


def test_the_fit_keeps_its_bounds():
    """Heavy tails, of which more draws take more than the formula allows, and noise that lets the ESS fall."""
    heavy = fit_draws([DrawsPoint(n, ess, 1e-4) for n, ess in ((1, 1 / 3000), (2, 1 / 1300), (4, 1 / 500), (8, 1 / 150))])
    assert heavy.ess == 1 and heavy.C > 1000 and best_number(heavy, 1.0, 0.1) == 64
    flat = fit_draws([DrawsPoint(1, 0.51, 0.02), DrawsPoint(2, 0.5, 0.02)])
    assert flat.C == 0 and abs(flat.ess - 0.505) < 0.001 and best_number(flat, 1.0, 1.0) == 1


def test_the_best_number_of_draws():
    fitted = fit_draws([DrawsPoint(1, 0.2, 1e-3), DrawsPoint(2, 1 / 3, 1e-3), DrawsPoint(4, 0.5, 1e-3)])
    assert fitted is not None and np.isclose(fitted.C, 4) and np.isclose(fitted.ess, 1)
    assert best_number(fitted, 1.0, 1.0) == 2  # sqrt(C t_U / t_phi)
    assert best_number(fitted, 1.0, 1e-9) == 64
    assert best_number(fitted, 1e-9, 1.0) == 1
