"""Pseudofermion monomials against dense matrices, and HMC with them against reweighted exact samples."""

from __future__ import annotations

import functools
from types import SimpleNamespace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contracts import close, compiled, cut, pool
from fermion_cases import quick_jit

from latflow.actions import Determinant, FreeScalar, Monomial, OddSites, Pseudofermion, WilsonGauge, monomials
from latflow.dirac import StaggeredYukawa, WilsonFermion, WilsonYukawa, dense
from latflow.errors import LatflowError
from latflow.exact import FreeField, TorusU1Sampler
from latflow.groups import SUN, U1
from latflow.io.ensemble import EnsembleFile
from latflow.kernels import BOSONS, Level, PseudofermionHMC, tune_step_size
from latflow.lattice import Geometry
from latflow.loops import plaquette
from latflow.samplers import run_chain
from latflow.solvers import inner
from latflow.statistics import effective_sample_size, normalised_weights

SMALL, SQUARE = Geometry((4, 2)), Geometry((4, 4))
OPERATORS = {
    "U1": (WilsonFermion(SMALL, U1(), 0.23), False),
    "U1 even/odd": (WilsonFermion(SMALL, U1(), 0.23), True),
    "SU3 even/odd": (WilsonFermion(SMALL, SUN(3), 0.2), True),
    "clover": (WilsonFermion(SMALL, SUN(2), 0.15, csw=1.3), True),
    "Wilson-Yukawa": (WilsonYukawa(SMALL, 0.2, 0.4), True),
    "staggered-Yukawa": (StaggeredYukawa(SMALL, 0.6, 0.5), True),
    "staggered-Yukawa full": (StaggeredYukawa(SMALL, 0.6, 0.5), False),
}
SOLVE = {"tol": 1e-12, "max_iterations": 500}
# the sets (mu_0, mu_1, ...) of zero to three Hasenbusch steps
MASSES = [(0.0,), (0.05, 0.4), (0.0, 0.1, 0.8), (0.0, 0.05, 0.3, 1.5)]


@functools.cache
def case(name: str) -> SimpleNamespace:
    """Fields near one configuration, and two compiled functions for all masses: what is tested, and its dense truth."""
    fermion, even_odd = OPERATORS[name]
    group, yukawa = fermion.group, not isinstance(fermion, WilsonFermion)
    sites = SMALL.shape if yukawa else (2, *SMALL.shape)
    u, x = pool(group, 0)

    def moved(step):
        return cut(group, compiled(group).multiply(compiled(group).exp(step * x), u), sites)

    def tested(field, eta, mu, heavier):
        monomial = Monomial(fermion, mu, heavier, even_odd)
        phi, _ = monomial.heatbath(field, eta, **SOLVE)
        solved = Pseudofermion(monomial, phi, **SOLVE).solved(field)
        return phi, solved, monomial.log_det(field)

    def matrix(field):
        operator = fermion.operator(field)
        return dense(operator.schur() if even_odd else operator)

    def exact(field, phi, mu, heavier):
        D = matrix(field)
        M, vector = D @ D.conj().T, phi.reshape(-1)
        unit = jnp.eye(len(vector))
        value = jnp.real(jnp.vdot(vector, jnp.linalg.solve(M + mu * unit, vector)))
        if heavier is None:
            return value, jnp.linalg.slogdet(M + mu * unit)[1]
        log_det = jnp.linalg.slogdet(M + mu * unit)[1] - jnp.linalg.slogdet(M + heavier * unit)[1]
        return inner(phi, phi) + (heavier - mu) * value, log_det

    field = cut(group, u, sites)
    eta = Monomial(fermion, even_odd=even_odd).noise(jax.random.key(1), field)
    return SimpleNamespace(
        fermion=fermion,
        even_odd=even_odd,
        group=group,
        field=field,
        eta=eta,
        direction=cut(group, x, sites),
        moved=moved,
        tested=quick_jit(tested),
        exact=quick_jit(exact),
        matrix=quick_jit(matrix),
    )


@pytest.mark.parametrize("name", OPERATORS)
def test_monomials_agree_with_dense_matrices(name):
    """The heatbath gives phi^dagger C phi = |eta|^2, the determinants multiply to det(M + mu_0), and the force is that of the
    dense quadratic form by central differences of fourth order in the algebra."""
    c, step = case(name), 1e-3
    for masses in MASSES:
        total = 0.0
        for mu, heavier in zip(masses, (*masses[1:], None), strict=True):
            mu = jnp.asarray(mu)
            heavier = None if heavier is None else jnp.asarray(heavier)
            phi, solved, log_det = c.tested(c.field, c.eta, mu, heavier)
            value, expected = c.exact(c.field, phi, mu, heavier)
            assert solved.info.converged and phi.shape == c.eta.shape and phi.dtype == c.eta.dtype
            close([solved.value, value, log_det], [inner(c.eta, c.eta), inner(c.eta, c.eta), expected], 1e-10)
            lower2, lower, upper, upper2 = (c.exact(c.moved(n * step), phi, mu, heavier)[0] for n in (-2, -1, 1, 2))
            slope = (lower2 - 8 * lower + 8 * upper - upper2) / (12 * step)
            close(c.group.inner(solved.force, c.direction), slope, 1e-7)
            total += log_det
        unit = jnp.eye(c.eta.size)
        D = c.matrix(c.field)
        close(total, jnp.linalg.slogdet(D @ D.conj().T + masses[0] * unit)[1], 1e-10)


@pytest.mark.parametrize("name", ["clover", "Wilson-Yukawa", "U1 even/odd"])
def test_odd_sites_complete_the_determinant(name):
    """2 log |det D| of the whole lattice, and the slope along a direction."""
    c = case(name)
    rest = OddSites(c.fermion)
    assert rest.trivial(c.field) == (name == "U1 even/odd")

    @quick_jit
    def run(field):
        log_det = functools.reduce(jnp.add, (m.log_det(field) for m in monomials(c.fermion, (0.3,))))
        return log_det, *rest.value_and_force(field), dense(c.fermion.operator(field))

    log_det, value, force, D = run(c.field)
    close(log_det - value, 2 * jnp.linalg.slogdet(D)[1], 1e-10)
    step = 1e-3
    values = [run(c.moved(n * step))[1] for n in (-2, -1, 1, 2)]
    slope = (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * step)
    close(c.group.inner(force, c.direction), slope, 1e-8)


def test_conditional_densities_are_normalised():
    """Over draws of a Gaussian of density q, the mean of p(phi|U)/q(phi) is one."""
    fermion, draws = WilsonFermion(Geometry((2, 2)), U1(), 0.12), 4096
    field = cut(U1(), pool(U1(), 0)[0], (2, 2, 2))
    for monomial in monomials(fermion, (0.5,)):
        log_det = quick_jit(lambda field, monomial=monomial: monomial.log_det(field))(field)

        def log_ratio(key, monomial=monomial, log_det=log_det):
            phi = monomial.noise(key, field)
            log_q = -inner(phi, phi) - phi.size * np.log(np.pi)
            return Pseudofermion(monomial, phi, 1e-10, 100).log_density(field, log_det) - log_q

        log_ratios = quick_jit(jax.vmap(log_ratio))(jax.random.split(jax.random.key(2), draws))
        ratio = np.exp(np.asarray(log_ratios))
        assert effective_sample_size(log_ratios) > 0.2
        assert abs(ratio.mean() - 1) < 5 * ratio.std() / np.sqrt(draws)


def test_a_failed_solve_is_nan_as_a_plain_action():
    c = case("U1 even/odd")
    action = Pseudofermion(Monomial(c.fermion), c.eta, 1e-10, 2)
    value, force = quick_jit(lambda field: action.value_and_force(field))(c.field)
    assert np.isnan(value) and np.isnan(force).all()


@pytest.mark.parametrize("heavier", [None, 0.7])
def test_values_of_rough_solutions_are_wrong_in_second_order(heavier):
    """An X that is wrong by delta changes the value by -(1 or the difference of the masses) delta^dagger (M + mu) delta."""
    c, mu = case("U1 even/odd"), 0.1
    monomial = Monomial(c.fermion, mu, heavier)
    delta = 0.1 * jax.random.normal(jax.random.key(3), c.eta.shape, c.eta.dtype)

    @quick_jit
    def run(field):
        solution, _ = Pseudofermion(monomial, c.eta, **SOLVE).solve(field)
        right, wrong = (monomial.value(field, c.eta, x) for x in (solution, solution + delta))
        return right - wrong, inner(delta, monomial.operator(field).normal(delta)) + mu * inner(delta, delta)

    difference, expected = run(c.field)
    close(difference, (1 if heavier is None else heavier - mu) * expected, 1e-10)


# ---- hybrid Monte Carlo -------------------------------------------------------------------------------------------------

GAUGE, WILSON = WilsonGauge(SQUARE, U1(), 1.0), WilsonFermion(SQUARE, U1(), 0.2)
THREE = [Level((0,), 4), Level((1,), 1), Level((BOSONS,), 2)]
SCALAR, YUKAWA = FreeScalar(SQUARE, 0.9), WilsonYukawa(SQUARE, 0.18, 0.08)
KERNELS = {
    "U1": PseudofermionHMC(GAUGE, WILSON, tau=1.0, num_steps=4),
    "U1 Hasenbusch": PseudofermionHMC(GAUGE, WILSON, (0.2,), tau=1.0, levels=THREE, jitter=0.2),
    "Yukawa, four flavours": PseudofermionHMC(SCALAR, YUKAWA, tau=1.0, num_steps=4, flavours=4),
}


@functools.cache
def samples(scalar: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """4096 exact samples of the bosonic theory, what is measured of each, and log |det D|."""
    sampler = FreeField(SQUARE, SCALAR.m2) if scalar else TorusU1Sampler(SQUARE, float(GAUGE.beta))
    fields = quick_jit(jax.vmap(sampler.sample))(jax.random.split(jax.random.key(1), 4096))
    determinant = jax.jit(lambda field: Determinant(YUKAWA if scalar else WILSON, 1)(field))
    return np.asarray(fields), measure(np.asarray(fields)), -np.asarray(jax.lax.map(determinant, fields, batch_size=512))


def measure(fields: np.ndarray) -> np.ndarray:
    """(mean, mean square) of a scalar, which the Yukawa coupling makes asymmetric; (plaquette, its double) of links."""
    if fields.ndim == 3:
        return np.stack([fields.mean((1, 2)), (fields**2).mean((1, 2))], 1)
    angles = fields[:, 0] + np.roll(fields[:, 1], -1, 1) - np.roll(fields[:, 0], -1, 2) - fields[:, 1]
    return np.stack([np.cos(angles).mean((1, 2)), np.cos(2 * angles).mean((1, 2))], 1)


def test_the_measured_angle_is_the_plaquette():
    fields, measured, _ = samples(False)
    close(measured[:, 0], jnp.cos(jax.vmap(lambda field: plaquette(U1(), SQUARE, field, 0, 1))(fields)).mean((1, 2)))


@pytest.mark.parametrize("name", KERNELS)
def test_hmc_agrees_with_reweighted_exact_samples(name):
    """Chains begin in equilibrium: exact samples, resampled with their determinants. <exp(-dH)> = 1 then at every step."""
    kernel, chains, steps = KERNELS[name], 512, 2
    fields, measured, log_det = samples("Yukawa" in name)
    log_weight = kernel.flavours * log_det
    assert effective_sample_size(log_weight) > 0.1
    weight = normalised_weights(log_weight)
    expected = (weight[:, None] * measured).mean(0)
    plain_error = np.sqrt((weight[:, None] ** 2 * (measured - expected) ** 2).mean(0) / len(weight))
    assert (abs(measured.mean(0) - expected) > 3 * plain_error).any()  # the determinant is seen
    start = np.random.default_rng(3).choice(len(weight), chains, p=weight / weight.sum())

    @jax.jit
    def run(fields):
        states = jax.vmap(kernel.init, -1, -1)(jnp.moveaxis(fields, 0, -1))

        def one(states, key):
            return jax.vmap(kernel.step, in_axes=(0, -1), out_axes=-1)(jax.random.split(key, chains), states)

        return jax.lax.scan(one, states, jax.random.split(jax.random.key(4), steps))

    states, info = run(fields[start])
    assert np.all(info.finite) and not np.any(info.solver_failed) and np.all(info.solver_iterations > 1)
    assert 0.5 < np.mean(info.acceptance) < 0.9999
    boltzmann = np.exp(-np.asarray(info.delta_action)).mean(0)  # per chain
    assert abs(boltzmann.mean() - 1) < 5 * boltzmann.std() / np.sqrt(chains)
    final = np.moveaxis(np.asarray(states.field), -1, 0)
    assert np.mean(abs(final - fields[start]) > 0.1) > 0.5
    # of as many independent chains, and of the samples they are compared with
    new = measure(final)
    error = np.sqrt(plain_error**2 + new.var(0) / chains)
    assert np.all(abs(new.mean(0) - expected) < 5 * error)
    np.testing.assert_allclose(states.action, jax.jit(jax.vmap(kernel.action))(final), rtol=1e-9, atol=1e-9)


LARGER = WilsonGauge(Geometry((6, 8)), U1(), 1.0)
LIGHT = WilsonFermion(LARGER.geometry, U1(), 0.24)


@functools.cache
def molecular_dynamics(history: int):
    """A tight kernel on three levels, a field and a momentum, drawn pseudofermions, and the compiled trajectory."""
    kernel = PseudofermionHMC(LARGER, LIGHT, (0.2,), levels=THREE, force_tol=1e-12, action_tol=1e-12, history=history)
    field, momentum = jax.random.normal(jax.random.key(6), (2, *LARGER.field_shape))
    drawn, _ = eqx.filter_jit(kernel.heatbath)(jax.random.key(5), field)
    run = eqx.filter_jit(lambda q, p, eps: kernel.trajectory(drawn, q, p, eps))
    return SimpleNamespace(field=field, momentum=momentum, drawn=drawn, run=run)


def test_trajectories_are_reversible_and_of_second_order():
    md = molecular_dynamics(0)
    field, momentum, run = md.field, md.momentum, md.run
    end = run(field, momentum, jnp.asarray(0.2))
    back = run(end.field, -end.momentum, jnp.asarray(0.2))
    assert np.max(abs(end.field - field)) > 0.1
    np.testing.assert_allclose(back.field, field, atol=1e-9)
    np.testing.assert_allclose(-back.momentum, momentum, atol=1e-9)
    np.testing.assert_allclose(back.delta, -end.delta, atol=1e-9)

    def violation(runs):
        q, p, total = field, momentum, 0.0
        for _ in range(runs):
            q, p, _, delta, _ = run(q, p, jnp.asarray(0.2 / runs))
            total += delta
        return abs(total)

    assert violation(4) > 1e-8
    assert np.log2(violation(2) / violation(4)) == pytest.approx(2, abs=0.3)


def test_warm_starts_save_iterations_and_change_nothing():
    runs = [molecular_dynamics(history) for history in (0, 3)]
    cold, warm = (md.run(md.field, md.momentum, jnp.asarray(0.05)) for md in runs)
    assert warm.tally.converged and warm.tally.solves == cold.tally.solves
    assert warm.tally.iterations < 0.9 * cold.tally.iterations
    np.testing.assert_allclose(warm.field, cold.field, atol=1e-9)
    np.testing.assert_allclose(warm.delta, cold.delta, atol=1e-9)


def test_single_precision_links():
    md = molecular_dynamics(0)
    double = md.run(md.field, md.momentum, jnp.asarray(0.1))
    rough = PseudofermionHMC(LARGER, LIGHT, (0.2,), levels=THREE)

    def halve(x):
        return x.astype(jnp.complex64 if jnp.iscomplexobj(x) else jnp.float32)

    drawn = tuple(tuple(Pseudofermion(one.monomial, halve(one.phi), 1e-4, 200) for one in pair) for pair in md.drawn)
    end = eqx.filter_jit(rough.trajectory)(drawn, halve(md.field), halve(md.momentum), jnp.asarray(0.1, jnp.float32))
    assert end.field.dtype == end.momentum.dtype == jnp.float32 and end.delta.dtype == end.action.dtype == jnp.float64
    assert end.tally.converged
    np.testing.assert_allclose(end.field, double.field, atol=1e-4)
    np.testing.assert_allclose(end.delta, double.delta, atol=1e-3)
    # a whole step, by abstract evaluation
    state, info = eqx.filter_eval_shape(
        lambda key, field: rough.step(key, rough.init(field)), jax.random.key(0), halve(md.field)
    )
    assert state.field.dtype == jnp.float32 and state.action.dtype == info.solver_iterations.dtype == jnp.float64


def test_solves_that_do_not_converge_are_rejected_counted_and_reported(tmp_path):
    kernel = PseudofermionHMC(GAUGE, WILSON, num_steps=1, step_size=0.01, max_iterations=9)
    # links of one have few eigenvalues and hence few iterations, random ones do not
    fields = jnp.stack([jnp.zeros(GAUGE.field_shape), jnp.asarray(samples(False)[0][0])])
    summary = run_chain(kernel, fields, tmp_path / "chain.h5", jax.random.key(0), 4, measure_every=2)
    with EnsembleFile.open(tmp_path / "chain.h5") as file:
        data = {
            name: file.read(name)
            for name in ("solver_iterations", "solver_failures", "solver_residual", "acceptance", "non_finite", "action")
        }
    np.testing.assert_array_equal(data["solver_failures"], [[0, 2], [0, 2]])
    np.testing.assert_array_equal(data["non_finite"], data["solver_failures"])
    assert np.all(data["solver_residual"][:, 0] == 0) and np.all(data["solver_residual"][:, 1] > 1e-8)
    assert summary.non_finite == 4 and np.all(data["acceptance"][:, 1] == 0) and np.all(data["acceptance"][:, 0] > 0)
    assert np.all(data["action"][:, 1] == data["action"][0, 1]) and np.all(data["solver_iterations"] > 1)
    hopeless = eqx.tree_at(lambda k: k.step_size, kernel, jnp.asarray(0.02))
    with pytest.raises(LatflowError, match=r"did not converge, with relative residuals up to \d.*: allow more iterations"):
        run_chain(hopeless, fields[jnp.array([1, 1])], tmp_path / "hopeless.h5", jax.random.key(0), 4)


def test_step_sizes_tune_and_trajectory_lengths_return():
    kernel = PseudofermionHMC(GAUGE, WILSON, (0.2,), 1.0, levels=THREE, flavours=4, jitter=0.1, history=2)
    retimed = kernel.with_step_size(0.5).with_tau(1.0)
    assert retimed.num_steps == 2 and float(retimed.tau) == pytest.approx(1.0) and kernel.num_steps == 4
    assert jax.tree.structure(retimed.with_tau(2.0)) == jax.tree.structure(kernel.with_tau(1.0))
    short = PseudofermionHMC(GAUGE, WILSON, num_steps=2, step_size=0.02, levels=[Level((0, BOSONS), 2, "leapfrog")])
    states = jax.vmap(short.init)(jnp.asarray(samples(False)[0][:8]))
    tuned = tune_step_size(short, jax.random.key(7), states, 0.7, 20)
    assert float(tuned.step_size[-1]) > 0.05


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: PseudofermionHMC(GAUGE, YUKAWA), "couple to a field of"),
        (lambda: PseudofermionHMC(GAUGE, WILSON, flavours=3), "pairs of flavours"),
        (lambda: PseudofermionHMC(GAUGE, WILSON, (0.5, 0.1)), "must ascend"),
        (lambda: PseudofermionHMC(GAUGE, WILSON, (0.1,), regulator=0.2), "must ascend"),
        (lambda: PseudofermionHMC(GAUGE, WILSON, (0.1,), levels=[Level((0, BOSONS))]), "name each of"),
        (lambda: PseudofermionHMC(GAUGE, WILSON, tau=-1.0), "positive, finite tau"),
        (lambda: PseudofermionHMC(GAUGE, WILSON, num_steps=0), "whole number of steps"),
        (lambda: PseudofermionHMC(GAUGE, WILSON, force_tol=0.0), "positive, finite force_tol"),
        (lambda: PseudofermionHMC(GAUGE, WILSON, jitter=1.0), "jitter"),
        (lambda: PseudofermionHMC(GAUGE, WILSON, history=-1), "history >= 0"),
        (lambda: Level(()), "leave it out"),
        (lambda: Level((0,), 1, "rk4"), "choose one of"),
        (lambda: Monomial(WilsonFermion(Geometry((4, 3)), U1(), 0.2)), "even extents"),
        (lambda: OddSites(WilsonFermion(Geometry((4, 3)), U1(), 0.2)), "even extents"),
    ],
)
def test_impossible_parameters_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
