"""Parallel transport convolutions against Dirac matrices and explicit walks, and the context that feeds them."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contracts import close, cut, gauge_transform, pool
from fermion_cases import field_of, links_of, quick_jit, rectangle, reference, walk

from latflow.dirac import WilsonFermion, gamma
from latflow.groups import SUN, U1, RealLine
from latflow.lattice import Geometry, shift
from latflow.nets import ParallelTransport, PeriodicConv, PlaquetteContext, ptc, ptcn
from latflow.nets.conv import gathered_conv, neighbourhood

FERMIONS = {
    "u1": WilsonFermion(Geometry((4, 2)), U1(), 0.23),
    "u1 odd twisted": WilsonFermion(Geometry((3, 4)), U1(), 0.21, boundary=(0.7, -1.9)),
    "su3": WilsonFermion(Geometry((2, 4)), SUN(3), 0.2),
    "su2-4d": WilsonFermion(Geometry((2, 2, 2, 4)), SUN(2), 0.12),
}


def random_complex(seed, shape):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.normal(size=shape) + 1j * rng.normal(size=shape))


def transport_of(fermion, field):
    return ParallelTransport(fermion.group, fermion.geometry, field, fermion.boundary)


@pytest.mark.parametrize("name", FERMIONS)
def test_constant_coefficients_give_the_wilson_operator(name):
    """M = 1, -kappa (1 -+ gamma_mu): links, neighbours and boundary against the matrix written site by site."""
    fermion = FERMIONS[name]
    geometry, field = fermion.geometry, field_of(fermion)
    g = gamma.matrices(geometry.Nd)
    one = np.eye(len(g[0]))
    blocks = [one] + [-fermion.kappa * (one - s * g_mu) for g_mu in g for s in (1, -1)]
    M = jnp.asarray(np.stack(blocks, 1)).reshape(*np.stack(blocks, 1).shape, *[1] * geometry.Nd)
    psi = random_complex(3, (len(one), fermion.group.Nc, *geometry.shape))
    found = quick_jit(lambda field, psi: ptc(transport_of(fermion, field), M, psi))(field, psi)
    close(np.ravel(found), reference(fermion, np.asarray(field)) @ np.ravel(psi))


@pytest.mark.parametrize("name", ["su3", "u1 odd twisted"])
def test_a_convolution_contracts_the_stencil(name):
    """Eq. (26), with numbers of features that differ, and two of them one after the other; linear over complex numbers."""
    fermion, field = FERMIONS[name], field_of(FERMIONS[name])
    Nc, lattice = fermion.group.Nc, fermion.geometry.shape
    M, N = random_complex(0, (2, 5, 3, *lattice)), random_complex(1, (1, 5, 2, *lattice))
    phi, psi = random_complex(2, (3, Nc, *lattice)), random_complex(4, (3, Nc, *lattice))

    @quick_jit
    def run(field, phi):
        transport = transport_of(fermion, field)
        return transport(phi), ptc(transport, M, phi), ptcn(transport, [M, N], phi)

    stencil, once, twice = run(field, phi)
    assert stencil.shape == (5, 3, Nc, *lattice)
    close(once, np.einsum("hsk...,skc...->hc...", M, stencil))
    close(twice, np.einsum("hsk...,skc...->hc...", N, run(field, jnp.concatenate([once, once[:1]]))[0][:, :2]))
    for combined, a, b in zip(run(field, (2 - 1j) * phi + 0.3j * psi), run(field, phi), run(field, psi), strict=True):
        close(combined, (2 - 1j) * a + 0.3j * b)


@pytest.mark.parametrize("name", FERMIONS)
def test_gauge_equivariance(name):
    """L[U^Omega, Omega phi] = Omega L[U, phi]."""
    fermion, field = FERMIONS[name], field_of(FERMIONS[name])
    group, geometry = fermion.group, fermion.geometry
    omega = cut(group, pool(group, 2)[0], geometry.shape)
    matrix = links_of(group, omega)
    phi = random_complex(5, (2, group.Nc, *geometry.shape))
    run = quick_jit(lambda field, phi: transport_of(fermion, field)(phi))
    turned = jnp.asarray(np.einsum("ab...,kb...->ka...", matrix, phi))
    found = run(quick_jit(gauge_transform, static_argnums=(0, 3))(group, field, omega, geometry.Nd), turned)
    close(found, np.einsum("ab...,skb...->ska...", matrix, run(field, phi)))


def test_gathered_features_give_the_convolution():
    conv = PeriodicConv(2, 5, (3, 1, 5), key=jax.random.key(0), dtype=jnp.float64)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 4, 2, 6)))
    gathered = neighbourhood(x, conv.kernel_size)
    assert conv.bias is not None
    close(gathered_conv(conv.weight, conv.bias, gathered), conv(x))
    close(gathered_conv(conv.weight[1:3], conv.bias[1:3], gathered), conv(x)[1:3])


# ---- context ------------------------------------------------------------------------------------------------------------


@functools.cache
def context_of(name, coordinates):
    fermion = FERMIONS[name]
    options = {"coordinates": coordinates, "bias_std": 0.05, "dtype": jnp.float64}
    return PlaquetteContext(fermion.group, fermion.geometry, (4, 3), key=jax.random.key(1), **options)


@pytest.mark.parametrize("name", FERMIONS)
def test_inputs_are_sums_of_plaquettes_and_coordinates(name):
    fermion, field = FERMIONS[name], field_of(FERMIONS[name])
    geometry, U = fermion.geometry, links_of(fermion.group, field)
    found = context_of(name, True).inputs(field)
    assert found.shape == (2 + geometry.Nd, *geometry.shape)
    for x in np.ndindex(*geometry.shape):
        trace = sum(np.trace(walk(U, x, rectangle(mu, nu))[0]) for mu, nu in geometry.planes) / len(U)
        close(found[(slice(None), *x)], [trace.real, trace.imag, *(np.array(x) % 4 / 1.5 - 1)])
    assert context_of(name, False).inputs(field).shape == (2, *geometry.shape)


@pytest.mark.parametrize("name", ["u1", "su3"])
def test_context_is_invariant_and_moves_with_the_field(name):
    fermion, field, context = FERMIONS[name], field_of(FERMIONS[name]), context_of(name, False)
    group, geometry = fermion.group, fermion.geometry
    omega = cut(group, pool(group, 2)[0], geometry.shape)
    run = quick_jit(lambda field: context(field))
    features = run(field)
    assert features.shape == (context.channels, *geometry.shape) == (3, *geometry.shape)
    close(run(gauge_transform(group, field, omega, geometry.Nd)), features)
    close(run(shift(shift(field, 0, 2), 1, 2)), shift(shift(features, 0, 2), 1, 2))
    assert np.abs(np.asarray(features)).max() > 1e-3


def test_coordinates_repeat_every_four_sites():
    group, geometry = U1(), Geometry((8, 4))
    context = PlaquetteContext(group, geometry, (3,), key=jax.random.key(0), dtype=jnp.float64)
    field = cut(group, pool(group, 0)[0], (2, 8, 4))
    run = quick_jit(lambda field: context(field))
    close(run(shift(field, 0, 2, 4)), shift(run(field), 0, 2, 4))
    assert np.abs(run(shift(field, 0, 2, 2)) - shift(run(field), 0, 2, 2)).max() > 1e-3


def test_precision_follows_the_field():
    """By abstract evaluation, also for parameters of the other precision."""
    for group, geometry, (single, double) in (
        (U1(), Geometry((4, 4)), (jnp.float32, jnp.float64)),
        (SUN(2), Geometry((4, 4)), (jnp.complex64, jnp.complex128)),
    ):
        for parameters in (jnp.float32, jnp.float64):
            context = PlaquetteContext(group, geometry, (3,), key=jax.random.key(0), dtype=parameters)
            for dtype, real, spinor in ((single, jnp.float32, jnp.complex64), (double, jnp.float64, jnp.complex128)):
                field = jax.ShapeDtypeStruct((*group.colour_shape, 2, 4, 4), dtype)
                assert jax.eval_shape(context, field).dtype == real
                phi = jax.ShapeDtypeStruct((2, group.Nc, 4, 4), spinor)

                def neighbours(field, phi, group=group, geometry=geometry):
                    return ParallelTransport(group, geometry, field)(phi)

                assert jax.eval_shape(neighbours, field, phi).dtype == spinor


def test_errors():
    geometry, key = Geometry((4, 4)), jax.random.key(0)
    with pytest.raises(ValueError, match="scalar"):
        ParallelTransport(RealLine(), geometry, jnp.zeros((4, 4)))
    with pytest.raises(ValueError, match="angle"):
        ParallelTransport(U1(), geometry, jnp.zeros((2, 4, 4)), (0.0,))
    with pytest.raises(ValueError, match="plaquettes"):
        PlaquetteContext(RealLine(), geometry, key=key)
    with pytest.raises(ValueError, match="plaquettes"):
        PlaquetteContext(U1(), Geometry((4,)), key=key)
    with pytest.raises(ValueError, match="hidden"):
        PlaquetteContext(U1(), geometry, (), key=key)
