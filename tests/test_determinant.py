"""The exact determinant as an action: the contract of actions, dense matrices written site by site, memory, extreme cases."""

from __future__ import annotations

import functools
import resource
from types import SimpleNamespace

import contracts
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contracts import close, random_field
from fermion_cases import field_of, log_abs_det_and_sign, quick_jit, reference, uniform_flux

from latflow.actions import Determinant, StochasticDeterminant, TooLarge, determinant
from latflow.dirac import StaggeredYukawa, WilsonFermion, WilsonYukawa
from latflow.groups import SUN, U1
from latflow.lattice import Geometry

# extents differ so that mixed-up directions show
ACTIONS = {
    "u1-2d": Determinant(WilsonFermion(Geometry((2, 4)), U1(), 0.2), 2),
    "u1-2d odd": Determinant(WilsonFermion(Geometry((3, 4)), U1(), 0.2), 1),
    "su2-2d": Determinant(WilsonFermion(Geometry((4, 2)), SUN(2), 0.18), 1),
    "u1-4d clover": Determinant(WilsonFermion(Geometry((2, 2, 2, 2)), U1(), 0.1, csw=1.5), 2),
    "wilson-yukawa": Determinant(WilsonYukawa(Geometry((4, 2)), 0.2, 0.4), 1),
    "staggered-yukawa": Determinant(StaggeredYukawa(Geometry((2, 4)), 0.5, 0.3), 2),
}


@functools.cache
def compiled_action(action):
    """As in `contracts`, without optimisation. The force is that of autodiff by definition; differences are its check."""
    value_and_force = quick_jit(lambda field: action.value_and_force(field))
    return SimpleNamespace(
        value=quick_jit(lambda field: action(field)), value_and_force=value_and_force, autodiff=value_and_force
    )


@pytest.fixture(autouse=True)
def quickly(monkeypatch):
    monkeypatch.setattr(contracts, "compiled_action", compiled_action)


@pytest.mark.parametrize("name", ACTIONS)
def test_value(name):
    action = ACTIONS[name]
    field = random_field(action, 0)
    log, _ = log_abs_det_and_sign(reference(action.fermion, np.asarray(field)))
    close(compiled_action(action).value_and_force(field)[0], -action.flavours * log, 1e-11)


@pytest.mark.parametrize("name", ACTIONS)
def test_force(name):
    contracts.check_force(ACTIONS[name])


@pytest.mark.parametrize("name", ACTIONS)
def test_symmetries(name):
    """Translations in time move the sign of the boundary, which is a gauge transformation; staggered ones, the signs eta."""
    contracts.check_symmetries(ACTIONS[name])


@pytest.mark.parametrize("name", ["wilson-yukawa"])
def test_batched(name):
    contracts.check_batched(ACTIONS[name])


@pytest.mark.parametrize("name", ["su2-2d", "staggered-yukawa"])
def test_single_precision(name):
    contracts.check_single_precision(ACTIONS[name])


@pytest.mark.parametrize("kind", ["links", "odd extents", "scalar"])
def test_sign(kind):
    """A charge of 1 with a mass beyond that of its zero mode, and Yukawa couplings in place of the mass: both signs occur."""
    if kind == "scalar":
        fermion = StaggeredYukawa(Geometry((4, 2)), 0.1, 0.8)
        fields = [field_of(fermion, seed) for seed in range(6)]
    else:
        shape = (4, 4) if kind == "links" else (3, 5)
        fermion = WilsonFermion(Geometry(shape), U1(), 1 / (4 - 1.2))
        fields = [jnp.asarray(uniform_flux(shape, Q)) for Q in (0, 1, -1, 2)]
    sign = quick_jit(jax.vmap(Determinant(fermion, 1).sign))
    expected = [log_abs_det_and_sign(reference(fermion, np.asarray(field)))[1] for field in fields]
    assert set(expected) == {1.0, -1.0}
    if kind != "scalar":
        assert expected == [1.0, -1.0, -1.0, 1.0]
    close(sign(jnp.stack(fields)), expected, 0)


def test_derivatives_by_parameters():
    """With respect to kappa and c_sw, g and the mass, by central differences of fourth order of the matrix by numpy."""
    geometry, step = Geometry((4, 2)), 1e-3
    links = random_field(Determinant(WilsonFermion(geometry, SUN(2), 0.1)), 0)
    phi = random_field(Determinant(StaggeredYukawa(geometry, 0.1, 0.1)), 0)
    cases = [
        (lambda kappa, csw: WilsonFermion(geometry, SUN(2), kappa, csw=csw), links, (0.17, 1.2)),
        (lambda mass, g: StaggeredYukawa(geometry, mass, g), phi, (0.5, 0.3)),
    ]
    for build, field, point in cases:

        def value(a, b, build=build, field=field):
            return Determinant(build(a, b), 2)(field)

        found = quick_jit(jax.grad(value, (0, 1)))(*map(jnp.asarray, point))
        for k in range(2):
            values = []
            for n in (-2, -1, 1, 2):
                moved = [x + n * step * (i == k) for i, x in enumerate(point)]
                values.append(-2 * log_abs_det_and_sign(reference(build(*moved), np.asarray(field)))[0])
            close(found[k], (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * step), 1e-8)


@pytest.mark.parametrize("name", ["u1-2d odd"])
def test_batches_are_worked_off_in_chunks(name, monkeypatch):
    """Five configurations in chunks of two are those of one call each, and the memory is that of a chunk, not of the batch."""
    action = ACTIONS[name]
    fields = jnp.stack([random_field(action, seed) for seed in range(5)], -1)
    expected = [compiled_action(action).value_and_force(fields[..., k]) for k in range(5)]
    size = determinant.matrix_size(action.fermion)
    batch = jax.ShapeDtypeStruct((*action.field_shape, 64), fields.dtype)

    def mapped():  # a new function each time, or it would be taken from the cache with the old size of a chunk
        return quick_jit(jax.vmap(lambda field: action.value_and_force(field), -1, (0, -1)))

    def memory() -> int:
        analysis = mapped().lower(batch).compile().memory_analysis()
        assert analysis is not None
        return analysis.temp_size_in_bytes

    whole = memory()
    monkeypatch.setattr(determinant, "_CHUNK_BYTES", 2 * 16 * 6 * size**2 + 1)
    assert determinant._chunk(action.fermion) == 2
    values, forces = mapped()(fields)
    close(values, jnp.stack([value for value, _ in expected]))
    close(forces, jnp.stack([force for _, force in expected], -1))
    assert memory() < whole / 4


def test_a_batch_of_parameters():
    """The mapped argument may be a coupling, while the field is that of all."""
    field = random_field(ACTIONS["u1-2d"], 0)

    def value(kappa):
        return Determinant(WilsonFermion(Geometry((2, 4)), U1(), kappa), 2)(field)

    kappas = jnp.asarray([0.1, 0.15, 0.2])
    values, slopes = quick_jit(jax.vmap(jax.value_and_grad(value)))(kappas)
    close(values[2], compiled_action(ACTIONS["u1-2d"]).value(field))
    assert len(set(np.asarray(slopes))) == 3


def test_matrices_beyond_memory_are_refused():
    """At once, with an estimate and a remedy, and without allocating anything of that size."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(TooLarge, match=r"8, 8, 8, 8.*24576 rows: 9\.0 GiB.*use pseudofermions") as caught:
        Determinant(WilsonFermion(Geometry((8, 8, 8, 8)), SUN(3), 0.12), 2)
    assert "pseudofermions" in caught.value.remedy
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 20  # KiB


@pytest.mark.parametrize("flavours", [0, -1, True, 1.5])
def test_flavours_are_counted_from_one(flavours):
    with pytest.raises((ValueError, TypeError), match="flavours"):
        Determinant(WilsonFermion(Geometry((4, 4)), U1(), 0.1), flavours)


@pytest.mark.parametrize("dtype", [jnp.float64, jnp.float32])
@pytest.mark.parametrize("shape", [(4, 4), (3, 3)])
def test_exceptional_configurations_have_an_infinite_action(shape, dtype):
    """Free periodic massless fermions: two zero modes, of which rounding leaves at most 1e-13 each."""
    action = Determinant(WilsonFermion(Geometry(shape), U1(), 0.25, boundary=(0.0, 0.0)), 1)
    value = jax.jit(lambda field: action(field))(jnp.zeros((2, *shape), dtype))
    assert not np.isnan(value) and value > 40


def test_a_matrix_without_rank_has_an_infinite_action():
    """Exactly: a Yukawa term that cancels the mass, and no momentum on a single site with periodic boundaries."""
    action = Determinant(WilsonYukawa(Geometry((1, 1)), 0.25, 1.0, boundary=(0.0, 0.0)), 2)
    assert jax.jit(lambda field: action(field))(jnp.zeros((1, 1))) == np.inf


def test_stochastic_determinant_with_all_unit_probes_is_exact():
    """Value and force of the estimate, summed over a complete set of probes, are those of the dense determinant."""
    geometry = Geometry((2, 4))
    for fermion, field in (
        (WilsonFermion(geometry, U1(), 0.2), U1().haar(jax.random.key(3), (2, 2, 4), float)),
        (WilsonYukawa(geometry, 0.2, 0.3), jax.random.normal(jax.random.key(4), (2, 4))),
    ):
        schur = fermion.operator(field).schur()
        probes = jnp.eye(schur.size, dtype=complex).reshape(schur.size, *schur.shape) * schur.size**0.5
        estimate = StochasticDeterminant(fermion, probes, num_steps=schur.size, tol=1e-12)
        value, force = jax.jit(lambda x, a=estimate: a.value_and_force(x))(field)
        exact, exact_force = jax.jit(lambda x, a=Determinant(fermion): a.value_and_force(x))(field)
        close(value, exact, 1e-9)
        close(force, exact_force, 1e-8)


def test_stochastic_determinant_with_a_regulator():
    """log det (M + mu) of the even/odd complement, by its dense matrix; the odd sites have none of it."""
    geometry, mu = Geometry((2, 4)), 0.3
    fermion, field = WilsonFermion(geometry, U1(), 0.2), U1().haar(jax.random.key(3), (2, 2, 4), float)
    schur = fermion.operator(field).schur()
    probes = jnp.eye(schur.size, dtype=complex).reshape(schur.size, *schur.shape) * schur.size**0.5
    estimate = StochasticDeterminant(fermion, probes, mu, num_steps=schur.size, tol=1e-12)

    def exact(x):
        operator = fermion.operator(x).schur()
        M = operator.matrix() @ operator.matrix().conj().T
        return -jnp.linalg.slogdet(M + mu * jnp.eye(operator.size))[1] - 2 * operator.log_abs_det_rest()

    value, force = jax.jit(lambda x: estimate.value_and_force(x))(field)
    close(value, exact(field), 1e-9)
    close(force, jax.grad(exact)(field), 1e-8)
