"""Actions: the contract of every class, then parametrisations and closed forms."""

from __future__ import annotations

from functools import partial

import contracts
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contracts import close

from latflow.actions import FreeScalar, Phi4, Sum, WilsonGauge, field_shape
from latflow.groups import SUN, U1, RealLine
from latflow.lattice import Geometry, shift


def wilson(group, beta):
    return lambda geometry: WilsonGauge(geometry, group, beta)


# name: (build from a geometry, shape); extents differ so that mixed-up directions show
ACTIONS = {
    "wilson-u1-2d": (wilson(U1(), 1.7), (3, 4)),
    "wilson-u1-3d": (wilson(U1(), -0.8), (2, 3, 4)),
    "wilson-u1-4d": (wilson(U1(), 0.9), (2, 3, 1, 4)),
    "wilson-su2-3d": (wilson(SUN(2), 2.2), (4, 2, 3)),
    "wilson-su3-2d": (wilson(SUN(3), 5.0), (3, 4)),
    "wilson-su3-4d": (wilson(SUN(3), 6.0), (2, 1, 3, 2)),
    "phi4-1d": (partial(Phi4, m2=0.3, lam=0.4), (5,)),
    "phi4-2d": (partial(Phi4, m2=-4.0, lam=6.008), (3, 4)),
    "phi4-4d": (partial(Phi4, m2=-1.0, lam=0.5), (2, 3, 1, 4)),
    "free-3d": (partial(FreeScalar, m2=0.7), (2, 5, 3)),
    "sum": (lambda geometry: wilson(U1(), 1.0)(geometry) + wilson(U1(), 0.3)(geometry), (3, 2)),
    "scaled": (lambda geometry: 0.5 * Phi4(geometry, -1.0, 0.7) + FreeScalar(geometry, 1.0) * 2, (3, 2)),
}


@pytest.mark.parametrize("name", ACTIONS)
def test_force(name):
    build, shape = ACTIONS[name]
    contracts.check_force(build(Geometry(shape)))


@pytest.mark.parametrize("name", ACTIONS)
def test_symmetries(name):
    build, shape = ACTIONS[name]
    contracts.check_symmetries(build(Geometry(shape)))


@pytest.mark.parametrize("name", ACTIONS)
def test_extensive(name):
    build, shape = ACTIONS[name]
    contracts.check_extensive(build, Geometry(shape))


@pytest.mark.parametrize("name", ["wilson-u1-3d", "wilson-su3-2d", "phi4-2d", "scaled"])
def test_batched(name):
    build, shape = ACTIONS[name]
    contracts.check_batched(build(Geometry(shape)))


@pytest.mark.parametrize("name", ["wilson-u1-2d", "wilson-su3-2d", "phi4-2d", "free-3d", "scaled"])
def test_single_precision(name):
    build, shape = ACTIONS[name]
    contracts.check_single_precision(build(Geometry(shape)))


@pytest.mark.parametrize("group", [U1(), SUN(2), SUN(3)], ids=str)
def test_wilson_action_of_the_vacuum(group):
    """All plaquettes are 1: S = -beta V Nd(Nd-1)/2 with no force."""
    geometry = Geometry((2, 3, 2))
    action = WilsonGauge(geometry, group, 1.3)
    value, force = action.value_and_force(group.identity((3, *geometry.shape)))
    close(value, -1.3 * 12 * 3)
    close(force, 0 * force)


def test_couplings_can_be_traced_and_differentiated():
    geometry = Geometry((3, 4))
    theta = U1().haar(jax.random.key(0), (2, 3, 4))

    @jax.jit
    def value(beta):
        return (2.0 * WilsonGauge(geometry, U1(), beta))(theta)

    reference = WilsonGauge(geometry, U1(), 1.0)(theta)
    close(value(0.7), 1.4 * reference)
    close(jax.grad(value)(0.7), 2 * reference)
    phi = jax.random.normal(jax.random.key(1), (3, 4))
    gradient = jax.jit(jax.grad(lambda m2, lam: Phi4(geometry, m2, lam)(phi), argnums=(0, 1)))(-1.0, 0.2)
    close(jnp.stack(gradient), jnp.stack([jnp.sum(phi**2), jnp.sum(phi**4)]))
    # an array coupling of higher precision does not promote the force of a single-precision field
    action = eqx.tree_at(lambda a: a.beta, WilsonGauge(geometry, U1(), 1.0), jnp.asarray(2.0))
    assert action.force(theta.astype(jnp.float32)).dtype == jnp.float32


@pytest.mark.parametrize(("kappa", "lam"), [(0.26, 0.0), (0.3, 0.02), (0.25, 0.7), (0.05, 1.5)])
def test_hopping_form(kappa, lam):
    """The two customary forms of phi^4 agree up to the stated rescaling and constant, and convert back."""
    geometry = Geometry((3, 4, 2))
    if kappa * 2 * geometry.Nd >= 1 and lam == 0:
        with pytest.raises(ValueError, match="mass must be positive"):
            Phi4.from_hopping(geometry, kappa, lam)
        return
    action, scale = Phi4.from_hopping(geometry, kappa, lam)
    phi = jax.random.normal(jax.random.key(5), geometry.shape)
    ahead = sum(shift(phi, mu, 3) for mu in range(3))
    hopping = jnp.sum(-2 * kappa * phi * ahead + phi**2 + lam * (phi**2 - 1) ** 2)
    close(action(scale * phi) + lam * geometry.volume, hopping)
    np.testing.assert_allclose(action.to_hopping(), (kappa, lam), rtol=1e-13)


def test_phi4_in_the_textbook_normalisation():
    """phi = varphi / sqrt(2) turns the action into sum 1/2 (d varphi)^2 + m0^2/2 varphi^2 + g0/4! varphi^4."""
    geometry, m2, g0 = Geometry((4, 3)), 0.3, 2.0
    varphi = jax.random.normal(jax.random.key(6), geometry.shape)
    slope = sum(jnp.sum((shift(varphi, mu, 2) - varphi) ** 2) for mu in range(2))
    textbook = slope / 2 + m2 / 2 * jnp.sum(varphi**2) + g0 / 24 * jnp.sum(varphi**4)
    close(Phi4(geometry, m2, g0 / 6)(varphi / jnp.sqrt(2.0)), textbook)


def test_free_scalar_is_diagonal_in_momentum_space():
    geometry, m2 = Geometry((4, 3, 5)), 0.4
    phi = np.asarray(jax.random.normal(jax.random.key(7), geometry.shape))
    momenta = np.meshgrid(*(2 * np.pi * np.fft.fftfreq(n) for n in geometry.shape), indexing="ij")
    spectrum = m2 + sum(4 * np.sin(k / 2) ** 2 for k in momenta)
    action = FreeScalar(geometry, m2)
    value, force = action.value_and_force(jnp.asarray(phi))
    close(value, (spectrum * np.abs(np.fft.fftn(phi)) ** 2).sum() / geometry.volume)
    close(force, 2 * np.fft.ifftn(spectrum * np.fft.fftn(phi)).real)
    close(Phi4(geometry, m2, 0.0)(jnp.asarray(phi)), value)


def test_field_shapes():
    assert field_shape(RealLine(), Geometry((4, 6))) == (4, 6)
    assert WilsonGauge(Geometry((4, 6)), U1(), 1.0).field_shape == (2, 4, 6)
    assert WilsonGauge(Geometry((4, 6, 2)), SUN(3), 1.0).field_shape == (3, 3, 3, 4, 6, 2)


def test_impossible_actions_are_refused():
    geometry = Geometry((3, 4))
    with pytest.raises(ValueError, match="different fields"):
        WilsonGauge(geometry, U1(), 1.0) + WilsonGauge(geometry, SUN(2), 1.0)
    with pytest.raises(ValueError, match="different fields"):
        Phi4(geometry, 1.0, 1.0) + Phi4(Geometry((4, 4)), 1.0, 1.0)
    with pytest.raises(ValueError, match="at least one term"):
        Sum(())
    with pytest.raises(ValueError, match="at least two dimensions"):
        WilsonGauge(Geometry((8,)), U1(), 1.0)
    with pytest.raises(ValueError, match="compact group"):
        WilsonGauge(geometry, RealLine(), 1.0)
    with pytest.raises(ValueError, match="lam >= 0"):
        Phi4(geometry, 1.0, -0.1)
    with pytest.raises(ValueError, match="mass must be positive"):
        Phi4(geometry, -1.0, 0.0)
    with pytest.raises(ValueError, match="positive mass"):
        FreeScalar(geometry, 0.0)
    with pytest.raises(ValueError, match="must be positive to convert"):
        Phi4.from_hopping(geometry, -0.1, 0.2)
