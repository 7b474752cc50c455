"""Links drawn one after the other: the one-link integral and draws, the order of the links, the density as a whole."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contracts import gauge_transform
from scipy import special, stats

from latflow.actions import WilsonGauge
from latflow.app import builders
from latflow.app.config import validate
from latflow.errors import LatflowError
from latflow.exact import TorusSUN, TorusU1
from latflow.exact.one_link import LARGEST, draw_su3, log_one_link
from latflow.exact.sun_2d import character_series
from latflow.groups import SUN, U1, AbstractGroup
from latflow.kernels import heatbath_sweep
from latflow.lattice import Geometry
from latflow.loops import plaquette
from latflow.models import SequentialHeatbath
from latflow.models.closed_loops import closed_loops, link_ranks, one_step, parallel_steps, plaquette_words
from latflow.statistics.weights import effective_sample_size, log_z, normalised_weights

C128 = jnp.complex128
CUBE, HYPERCUBE = Geometry((3, 2, 2)), Geometry((2, 2, 2, 2))


@functools.cache
def haar(Nc: int, n: int = 400000):
    return SUN(Nc).haar(jax.random.key(2), (n,), C128)


def re_trace_product(u, M):
    return np.asarray(jnp.einsum("abn,ba->n", u, M).real)


def complex_normal(seed: int, shape: tuple[int, ...]):
    return jax.random.normal(jax.random.key(seed), shape, C128)


@pytest.mark.parametrize("beta", [0.1, 1.0, 6.0, 20.0])
@pytest.mark.parametrize("Nc", [2, 3])
def test_integral_of_one_plaquette(Nc, beta):
    M = beta / Nc * SUN(Nc).identity((1,), C128)
    expected = character_series(Nc, beta, 1).log_trivial
    np.testing.assert_allclose(log_one_link(SUN(Nc), M, beta)[0], expected, atol=1e-12)


@pytest.mark.parametrize("phase", [0.7, np.pi / 3, np.pi])
@pytest.mark.parametrize("size", [0.4, 2.5])
def test_su3_integral_at_complex_multiples_of_one(size, phase):
    """Against the trapezoidal rule over eigenangles with Weyl's measure; the determinant of M is negative at pi/3."""
    angles = 2 * np.pi * np.arange(128) / 128
    a, b = np.meshgrid(angles, angles)
    e = np.exp(1j * np.stack([a, b, -a - b]))
    measure = np.prod([np.abs(e[i] - e[j]) ** 2 for i, j in ((0, 1), (1, 2), (2, 0))], axis=0) / 6
    m = size * np.exp(1j * phase)
    expected = np.log(np.mean(measure * np.exp((m * e.sum(0)).real)))
    M = jnp.asarray(m) * SUN(3).identity((1,), C128)
    np.testing.assert_allclose(log_one_link(SUN(3), M, 3 * size)[0], expected, atol=1e-11)


@pytest.mark.parametrize("Nc", [2, 3])
def test_integral_of_any_matrix(Nc):
    """Against Haar averages, and unchanged by M -> V M W."""
    group, scales = SUN(Nc), (0.0, 0.3, 0.7, 1.1)
    M = jnp.stack([s * complex_normal(7, (Nc, Nc)) for s in scales], axis=-1)
    value = log_one_link(group, M, 12.0)
    V, W = haar(Nc)[:, :, :4], haar(Nc)[:, :, 4:8]
    np.testing.assert_allclose(log_one_link(group, group.multiply(group.multiply(V, M), W), 12.0), value, atol=1e-12)
    for i in range(len(scales)):
        weight = np.exp(re_trace_product(haar(Nc), M[:, :, i]))
        assert abs(weight.mean() - np.exp(value[i])) <= 5 * weight.std() / np.sqrt(weight.size) + 1e-12


def test_u1_integral():
    M = complex_normal(3, (5,))
    theta = 2 * np.pi * np.arange(64) / 64
    expected = np.log(np.mean(np.exp(np.real(np.exp(1j * theta)[:, None] * np.asarray(M))), axis=0))
    np.testing.assert_allclose(log_one_link(U1(), M), expected, atol=1e-13)


@pytest.mark.parametrize("scale", [0.0, 0.4, 1.3])
def test_draws_of_one_link(scale):
    M, group = scale * complex_normal(5, (3, 3)), SUN(3)
    u, attempts = jax.jit(draw_su3)(jax.random.key(1), jnp.repeat(M[:, :, None], 40000, axis=2))
    assert group.reunitarise(u)[1] < 1e-12 and float(jnp.mean(attempts)) < 3
    reference = haar(3)
    log_weight = re_trace_product(reference, M)
    weight = normalised_weights(log_weight) / log_weight.size
    assert 1 / np.sum(weight**2) > 2000
    observables = (
        lambda u: re_trace_product(u, M + 1e-9),
        lambda u: u[0, 0].real,
        lambda u: u[1, 0].imag,
        lambda u: u[0, 2].real,
        lambda u: u[1, 0].real * u[2, 2].imag,
        lambda u: jnp.abs(u[0, 1]) ** 2,
    )
    for f in observables:
        x, y = np.asarray(f(u)), np.asarray(f(reference))
        mean = np.sum(weight * y)
        assert abs(x.mean() - mean) < 5 * np.sqrt(x.var() / x.size + np.sum(weight**2 * (y - mean) ** 2))


def test_the_order_of_links():
    """Every plaquette is closed by one link; staples consist of earlier links; few pairs have the same last link."""
    for shape, pairs in (((4, 4), 1), ((4, 4, 4, 4), 1120), ((3, 2, 4), None)):
        geometry = Geometry(shape)
        rank = link_ranks(geometry).ravel()
        assert sorted(rank) == list(range(rank.size))
        loops = closed_loops(geometry, SUN(3), 0.3, 3)
        single = [sum(loop.area == 1 for loop in one) for one in loops]
        assert sum(single) == len(plaquette_words(geometry)) == geometry.volume * len(geometry.planes)
        # the fewest links that close nothing: a spanning tree and one line around each direction
        assert single.count(0) == geometry.volume - 1 + geometry.Nd
        if pairs is not None:
            assert sum(n * (n - 1) // 2 for n in single) == pairs
        for link, one in enumerate(loops):
            assert all(rank[step >> 1] < rank[link] for loop in one for step in loop.staple)


def test_steps_draw_every_link_when_its_staples_are_known():
    theory = Geometry((4, 3, 3)), U1(), 0.5, 3
    loops, steps, at_once = closed_loops(*theory), parallel_steps(*theory), one_step(*theory)
    known = set(steps.free)
    for i, row in enumerate(steps.links):
        found = [link for link in row if link >= 0]
        closed = {link: [] for link in found}
        for k, staples in steps.staples.items():
            for staple, coupling, owner in zip(staples[i], steps.couplings[k][i], steps.owners[k][i], strict=True):
                if coupling:
                    assert all(step >> 1 in known for step in staple)
                    closed[row[owner]].append((tuple(staple), coupling))
        for link in found:
            assert sorted(closed[link]) == sorted((loop.staple, loop.coupling) for loop in loops[link])
        known |= set(found)
    assert len(known) == len(loops) == len(at_once.free) + at_once.links.size


def test_density_link_by_link():
    """U(1) with plaquettes only, by a loop over plaquettes in plain numpy."""
    beta, geometry = 0.8, CUBE
    theta = np.asarray(U1().haar(jax.random.key(3), (3, *geometry.shape), jnp.float64))
    rank, sums = link_ranks(geometry), np.zeros(theta.shape, complex)
    for mu, nu in geometry.planes:
        for x in np.ndindex(*geometry.shape):
            ahead = [tuple((x[k] + (k == m)) % n for k, n in enumerate(geometry.shape)) for m in range(3)]
            corners = [((mu, *x), 1), ((nu, *ahead[mu]), 1), ((mu, *ahead[nu]), -1), ((nu, *x), -1)]
            angle = sum(sign * theta[link] for link, sign in corners)
            last, sign = max(corners, key=lambda corner: rank[corner[0]])
            sums[last] += beta * np.exp(1j * (sign * angle - theta[last]))
    expected = np.sum(np.real(np.exp(1j * theta) * sums) - np.log(special.i0(np.abs(sums))))
    prior = SequentialHeatbath(geometry, U1(), beta, 1)
    np.testing.assert_allclose(prior.log_density(jnp.asarray(theta)), expected, atol=1e-11)
    # each plaquette enters once
    total = np.sum(np.real(np.exp(1j * theta) * sums))
    np.testing.assert_allclose(total, -WilsonGauge(geometry, U1(), beta)(jnp.asarray(theta)), atol=1e-11)


def drawn(group: AbstractGroup, geometry: Geometry, beta: float, area: int, n: int, dtype=None):
    prior, action = SequentialHeatbath(geometry, group, beta, area, dtype), WilsonGauge(geometry, group, beta)

    @jax.jit
    def draw(key):
        links, log_q = prior.draw(key, n)
        return links, log_q, -jax.vmap(action, in_axes=-1)(links) - log_q

    return draw(jax.random.key(1))


@pytest.mark.parametrize(("group", "beta"), [(U1(), 1.5), (SUN(2), 2.5), (SUN(3), 4.0)])
def test_two_dimensions(group, beta):
    geometry = Geometry((3, 3))
    exact = TorusU1(geometry, beta) if isinstance(group, U1) else TorusSUN(geometry, group, beta)
    links, _, log_weight = drawn(group, geometry, beta, 2, 4096)
    assert effective_sample_size(log_weight) > 0.5
    value, error = log_z(log_weight)
    assert abs(value - exact.log_z()) < 5 * error + 1e-9
    P = jax.vmap(lambda u: group.re_trace(plaquette(group, geometry, u, 0, 1)) / group.Nc, -1)(links)
    of_each = np.asarray(P).reshape(4096, -1).mean(1)
    weight = normalised_weights(log_weight) / of_each.size
    mean = np.sum(weight * of_each)
    assert abs(mean - exact.plaquette()) < 5 * np.sqrt(np.sum(weight**2 * (of_each - mean) ** 2))


def test_distribution_of_the_first_plaquettes():
    """A link that closes one plaquette makes it a von Mises angle."""
    geometry, beta = Geometry((4, 3)), 1.7
    links = drawn(U1(), geometry, beta, 1, 4000, jnp.float64)[0]
    P = np.asarray(jax.vmap(lambda u: plaquette(U1(), geometry, u, 0, 1), -1)(links))
    for x in ((0, 0), (1, 1)):
        angle = (P[:, *x] + np.pi) % (2 * np.pi) - np.pi
        assert stats.kstest(angle, stats.vonmises(beta).cdf).pvalue > 1e-5


@pytest.mark.parametrize(("group", "beta", "area"), [(U1(), 0.3, 1), (U1(), 0.35, 3), (SUN(2), 0.5, 3)])
def test_density_is_normalised(group, beta, area):
    """E_q[1/q] = 1 over draws, E[q] = 1 over Haar measure: draws and density belong together, and to nothing else."""
    n = 8192
    prior = SequentialHeatbath(CUBE, group, beta, area)
    fields = group.haar(jax.random.key(9), (3, *CUBE.shape, n), prior.dtype)
    of_haar = np.asarray(jax.jit(jax.vmap(prior.log_density, -1))(fields))
    of_draws = -np.asarray(drawn(group, CUBE, beta, area, n)[1])
    for log_weight in (of_haar, of_draws):
        assert effective_sample_size(log_weight) * n > 500
        value, error = log_z(log_weight)
        assert abs(value) < 5 * error


def test_larger_loops_take_the_variation_away():
    """log Z is the same for every area, and the variance falls."""
    found = [drawn(SUN(2), CUBE, 1.0, area, 2048)[2] for area in (1, 2, 3)]
    spread = [float(np.var(log_weight)) for log_weight in found]
    assert spread[1] < spread[0] / 3 and spread[2] < spread[1]
    values = [log_z(log_weight) for log_weight in found]
    for value, error in values[:2]:
        assert abs(value - values[2][0]) < 5 * np.hypot(error, values[2][1])


def test_four_dimensions_against_a_chain():
    """The plaquette of SU(3) in single precision, reweighted, against heatbath in 64 chains."""
    group, beta, n = SUN(3), 2.0, 1024
    action = WilsonGauge(HYPERCUBE, group, beta)
    links, log_q, log_weight = drawn(group, HYPERCUBE, beta, 2, n, jnp.complex64)
    assert links.shape == (3, 3, 4, 2, 2, 2, 2, n) and links.dtype == jnp.complex64 and log_q.dtype == jnp.float64
    assert effective_sample_size(log_weight) > 0.5
    scale = -1 / (beta * 6 * HYPERCUBE.volume)
    of_each = scale * -(np.asarray(log_weight) + np.asarray(log_q))
    weight = normalised_weights(log_weight) / n
    mean = np.sum(weight * of_each)
    error = np.sqrt(np.sum(weight**2 * (of_each - mean) ** 2))

    kernel = heatbath_sweep(action, 0)

    @jax.jit
    def chain(key):
        state = kernel.init(group.identity((4, *HYPERCUBE.shape), jnp.complex64))
        actions = jax.lax.scan(lambda s, k: (kernel.step(k, s)[0], s.action), state, jax.random.split(key, 80))[1]
        return actions[30:].mean()

    means = scale * np.asarray(jax.vmap(chain)(jax.random.split(jax.random.key(5), 64)))
    chain_error = means.std(ddof=1) / 8
    assert max(error, chain_error) < 2e-3
    assert abs(mean - means.mean()) < 5 * np.hypot(error, chain_error)


@pytest.mark.parametrize("group", [U1(), SUN(2), SUN(3)])
def test_density_is_gauge_invariant_and_differentiable(group):
    geometry = CUBE
    prior = SequentialHeatbath(geometry, group, 1.2, 3)
    draw = jax.jit(lambda key: prior.sample_and_log_density(key))
    links, log_q = draw(jax.random.key(4))
    density = jax.jit(prior.log_density)
    np.testing.assert_allclose(density(links), log_q, atol=1e-10)
    omega = group.haar(jax.random.key(5), geometry.shape, links.dtype)
    np.testing.assert_allclose(density(gauge_transform(group, links, omega, 3)), log_q, atol=1e-10)
    x = group.random_algebra(jax.random.key(6), (3, *geometry.shape), links.dtype)
    value, gradient = jax.jit(lambda u: group.gradient(prior.log_density, u))(links)
    step = 1e-4
    up, down = (density(group.move(s * step * x, links)) for s in (1, -1))
    np.testing.assert_allclose(group.inner(gradient, x), (up - down) / (2 * step), rtol=1e-6)
    np.testing.assert_allclose(value, log_q, atol=1e-10)


def test_no_coupling_is_haar():
    prior = SequentialHeatbath(CUBE, SUN(2), 0.0)
    links, log_q = jax.jit(lambda key: prior.sample_and_log_density(key))(jax.random.key(0))
    assert float(log_q) == 0 and SUN(2).reunitarise(links)[1] < 1e-12


def test_what_is_refused():
    for arguments, reason in (
        ((CUBE, SUN(4), 1.0), "U\\(1\\), SU\\(2\\) and SU\\(3\\)"),
        ((Geometry((4,)), U1(), 1.0), "two dimensions"),
        ((CUBE, U1(), -0.1), "beta >= 0"),
        ((CUBE, U1(), np.inf), "beta >= 0"),
        ((CUBE, U1(), 1.0, 0), "at least one plaquette"),
        ((Geometry((1, 4)), SUN(3), 1.0), "extents 2 or more"),
        ((HYPERCUBE, SUN(3), 6.0), "smaller beta"),
    ):
        with pytest.raises(ValueError, match=reason):
            SequentialHeatbath(*arguments)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="smaller coupling"):
        log_one_link(SUN(3), SUN(3).identity((1,), C128), LARGEST + 1)
    with pytest.raises(ValueError, match="not for"):
        log_one_link(SUN(4), SUN(4).identity((1,), C128))


def test_configuration():
    raw = {"name": "a", "theory": {"kind": "sun", "Nc": 3, "lattice": [2, 2, 2, 2], "beta": 1.0}}
    raw["prior"] = {"kind": "sequential-heatbath"}
    prior = builders.build_model(validate(raw)).prior
    assert isinstance(prior, SequentialHeatbath)
    assert (prior.beta, prior.area, prior.dtype, prior.trainable) == (1.0, 2, jnp.complex64, False)
    config = validate(raw, ["prior.beta=1.5", "prior.area=1"])
    assert config.prior.density == {"kind": "sequential-heatbath", "beta": 1.5, "area": 1}
    with pytest.raises(LatflowError, match="smaller beta"):
        builders.build_model(validate(raw, ["prior.beta=9"]))
    with pytest.raises(LatflowError, match="not of SU\\(4\\)"):
        validate(raw, ["theory.Nc=4"])
