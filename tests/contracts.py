"""What every group and every action must satisfy; a new class joins by one row in the registry of its test module."""

from __future__ import annotations

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np

from latflow.actions import AbstractAction, autodiff_value_and_force
from latflow.groups import AbstractGroup, RealLine
from latflow.lattice import Geometry, component, shift


def close(a, b, tolerance: float = 1e-12) -> None:
    np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=tolerance, atol=tolerance)


@functools.cache
def compiled(group: AbstractGroup) -> SimpleNamespace:
    """The costly operations, compiled once and used on few shapes."""
    names = ("exp", "project", "reunitarise", "coordinates", "from_coordinates", "trace_gradient", "multiply")
    return SimpleNamespace(**{name: jax.jit(getattr(group, name)) for name in names})


POOL = 256


@functools.cache
def pool(group: AbstractGroup, seed: int):
    """(elements, small algebra elements) on `POOL` sites, random but not near the identity; fields are cut from them."""
    k1, k2 = jax.random.split(jax.random.key(seed))
    x, d = group.random_algebra(k1, (POOL,)), group.random_algebra(k2, (POOL,))
    return compiled(group).exp(x), 0.5 * d


def cut(group: AbstractGroup, sites, shape: tuple[int, ...]):
    """The first entries of a pool as a field `(*colour, *shape)`."""
    size = int(np.prod(shape))
    assert size <= POOL
    return sites[..., :size].reshape(*group.colour_shape, *shape)


def site_shape(action: AbstractAction) -> tuple[int, ...]:
    return action.field_shape[len(action.group.colour_shape) :]


def random_field(action: AbstractAction, seed: int):
    return cut(action.group, pool(action.group, seed)[0], site_shape(action))


@functools.cache
def compiled_action(action: AbstractAction) -> SimpleNamespace:
    return SimpleNamespace(
        value=jax.jit(lambda field: action(field)),
        value_and_force=jax.jit(lambda field: action.value_and_force(field)),
        autodiff=jax.jit(lambda field: autodiff_value_and_force(action, field)),
    )


def gauge_transform(group: AbstractGroup, links, omega, Nd: int):
    """U_mu(x) -> Omega(x) U_mu(x) Omega(x+mu)^dagger."""
    ahead = jnp.stack([shift(omega, mu, Nd) for mu in range(Nd)], axis=-Nd - 1)
    here = jnp.stack([omega] * Nd, axis=-Nd - 1)
    return group.multiply(group.multiply(here, links), group.adjoint(ahead))


def check_axioms(group: AbstractGroup) -> None:
    a, b, c = (cut(group, pool(group, seed)[0], (3, 2)) for seed in range(3))
    multiply = compiled(group).multiply
    close(multiply(multiply(a, b), c), multiply(a, multiply(b, c)))
    unit = group.identity((3, 2))
    assert unit.shape == a.shape == (*group.colour_shape, 3, 2)
    assert unit.dtype == a.dtype
    close(multiply(a, unit), a)
    close(multiply(a, group.adjoint(a)), unit)
    close(group.adjoint(multiply(a, b)), multiply(group.adjoint(b), group.adjoint(a)))
    close(group.re_trace(unit), np.full((3, 2), 0.0 if isinstance(group, RealLine) else group.Nc))


def check_exponential(group: AbstractGroup) -> None:
    (u, x), ops = pool(group, 0), compiled(group)
    close(ops.exp(0 * x), group.identity((POOL,)), 0)
    close(ops.exp(-x), group.adjoint(ops.exp(x)))
    close(ops.multiply(ops.exp(0.6 * x), ops.exp(1.8 * x)), ops.exp(2.4 * x))
    close(group.move(x, u), ops.multiply(ops.exp(x), u), 1e-14)
    assert compiled(group).reunitarise(u)[1] < 1e-13


def check_coordinates(group: AbstractGroup) -> None:
    x, y = 2 * pool(group, 0)[1], 2 * pool(group, 1)[1]
    coordinates = compiled(group).coordinates
    assert coordinates(x).shape == (group.dimension, POOL)
    close(compiled(group).from_coordinates(coordinates(x)), x)
    close(group.inner(x, y), jnp.sum(coordinates(x) * coordinates(y)))
    unit = jnp.eye(group.dimension)
    close(group.coordinates(group.from_coordinates(unit)), unit)
    # random elements are standard normal in coordinates
    covariance = np.asarray(coordinates(x) @ coordinates(x).T) / POOL
    assert np.abs(covariance - np.eye(group.dimension)).max() < 5 * np.sqrt(2 / POOL)


def check_gradient(group: AbstractGroup) -> None:
    """`gradient` and `trace_gradient` against central differences in the algebra."""
    (u, x), ops = pool(group, 0), compiled(group)
    weight = group.embed(pool(group, 1)[0])

    @jax.jit
    def function(field):  # neither a class function nor linear
        matrix = group.embed(field)
        return jnp.sum(jnp.sin(jnp.real(matrix * weight))) + jnp.sum(jnp.real(matrix) ** 3)

    value, gradient = jax.jit(lambda field: group.gradient(function, field))(u)
    close(value, function(u))
    step = 1e-4
    difference = [function(ops.multiply(ops.exp(s * step * x), u)) for s in (-2, -1, 1, 2)]
    slope = (difference[0] - 8 * difference[1] + 8 * difference[2] - difference[3]) / (12 * step)
    close(group.inner(gradient, x), slope, 1e-8)
    trace = jax.jit(lambda field: group.gradient(lambda v: jnp.sum(group.re_trace(v)), field)[1])
    close(ops.trace_gradient(group.embed(u)), trace(u))


def check_projection(group: AbstractGroup) -> None:
    u, g, ops = pool(group, 0)[0], pool(group, 1)[0], compiled(group)
    close(group.embed(ops.project(group.embed(u))), group.embed(u))
    restored, drift = ops.reunitarise(u)
    close(group.embed(restored), group.embed(u))
    assert drift < 1e-13
    if isinstance(group, RealLine):
        return
    # covariance under multiplication by group elements, from both sides
    w = group.embed(u) + 0.7 * group.embed(g)
    left = group.embed(g)
    turned = ops.multiply(ops.multiply(left, w), left) if group.colour_shape else left * w * left
    expected = ops.multiply(ops.multiply(g, ops.project(w)), g)
    close(group.embed(ops.project(turned)), group.embed(expected), 1e-10)


def check_dtypes(group: AbstractGroup) -> None:
    """Single precision stays single through every operation (by abstract evaluation, so nothing is compiled)."""
    for real in (jnp.float32, jnp.float64):
        element = jnp.result_type(real, jnp.complex64) if group.colour_shape else jnp.dtype(real)

        def operations(key, element=element):
            x = group.random_algebra(key, (2,), element)
            u = group.exp(x)
            fields = [x, u, group.identity((2,), element), group.adjoint(u), group.multiply(u, u), group.reunitarise(u)[0]]
            fields += [group.from_coordinates(group.coordinates(x)), group.project(group.embed(u))]
            fields += [group.trace_gradient(group.embed(u)), group.gradient(lambda v: jnp.sum(group.re_trace(v)), u)[1]]
            fields += [] if isinstance(group, RealLine) else [group.haar(key, (2,), element)]
            numbers = [group.coordinates(x), group.re_trace(u), group.reunitarise(u)[1]]
            return fields, numbers, group.inner(x, x)

        fields, numbers, total = jax.eval_shape(operations, jax.random.key(0))
        assert {field.dtype for field in fields} == {element}
        assert {number.dtype for number in numbers} == {jnp.dtype(real)}
        assert total.dtype == jnp.float64  # a sum over the lattice


def check_force(action: AbstractAction) -> None:
    """The force against central differences in the algebra and against autodiff; the value against the call."""
    group, ops, field = action.group, compiled_action(action), random_field(action, 0)
    value, force = ops.value_and_force(field)
    assert value.shape == () and force.shape == field.shape and force.dtype == field.dtype
    close(value, ops.value(field))
    close(force, ops.autodiff(field)[1], 1e-11)
    u, x = pool(group, 0)

    def moved(step):
        sites = compiled(group).multiply(compiled(group).exp(step * x), u)
        return ops.value(cut(group, sites, site_shape(action)))

    # an error of fourth order in the step, so that a wrong force cannot hide behind it
    step = 1e-3
    slope = (moved(-2 * step) - 8 * moved(-step) + 8 * moved(step) - moved(2 * step)) / (12 * step)
    close(group.inner(force, cut(group, x, site_shape(action))), slope, 1e-8)


def check_symmetries(action: AbstractAction) -> None:
    """Invariance under translations, and for links under gauge transformations, with a covariant force."""
    Nd, group, ops, field = action.geometry.Nd, action.group, compiled_action(action), random_field(action, 1)
    value, force = ops.value_and_force(field)
    for mu in range(Nd):
        close(ops.value(shift(field, mu, Nd)), value)
    if isinstance(group, RealLine):
        return
    omega = cut(group, pool(group, 2)[0], action.geometry.shape)
    turned_value, turned_force = ops.value_and_force(jax.jit(gauge_transform, static_argnums=(0, 3))(group, field, omega, Nd))
    close(turned_value, value)
    if not group.colour_shape:
        close(turned_force, force)
        return
    for mu in range(Nd):
        expected = group.multiply(group.multiply(omega, component(force, mu, Nd)), group.adjoint(omega))
        close(component(turned_force, mu, Nd), expected, 1e-11)


def check_extensive(build, geometry: Geometry) -> None:
    """A lattice tiled from copies of a smaller one has that many times the action."""
    small, large = build(geometry), build(Geometry(tuple(2 * n for n in geometry.shape)))
    field = random_field(small, 2)
    tiled = jnp.tile(field, (1,) * (field.ndim - geometry.Nd) + (2,) * geometry.Nd)
    close(compiled_action(large).value(tiled), 2**geometry.Nd * compiled_action(small).value(field))


def check_batched(action: AbstractAction) -> None:
    """Batches mapped along the first and along the last axis agree with a loop."""
    fields = [random_field(action, seed) for seed in range(3)]
    expected = [compiled_action(action).value_and_force(field) for field in fields]
    for axis in (0, -1):
        values, forces = jax.jit(jax.vmap(action.value_and_force, axis, (0, axis)))(jnp.stack(fields, axis))
        close(values, jnp.stack([value for value, _ in expected]))
        close(forces, jnp.stack([force for _, force in expected], axis))


def check_single_precision(action: AbstractAction) -> None:
    field, ops = random_field(action, 1), compiled_action(action)
    single = field.astype(jnp.complex64 if jnp.iscomplexobj(field) else jnp.float32)
    value, force = ops.value_and_force(single)
    assert value.dtype == ops.value(single).dtype == jnp.float64 and force.dtype == single.dtype
    close(value, ops.value(field), 1e-5)
    close(force, ops.value_and_force(field)[1], 2e-5)
