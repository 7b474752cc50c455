"""Actions: real functions S of a field, with weight exp(-S), that add and scale."""

from __future__ import annotations

import abc
import functools
import operator

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact

from latflow.groups import AbstractGroup, RealLine
from latflow.lattice import Geometry
from latflow.precision import working_dtype

Field = Inexact[Array, "..."]
Coupling = float | int | Float[Array, ""]


class AbstractAction(eqx.Module):
    """S(field) of one configuration (batches come from `jax.vmap`).

    `geometry` and `group` describe the field: the real line for scalars `(*lattice)`, U(1) or SU(N) for links
    `(*colour, Nd, *lattice)`.
    """

    geometry: eqx.AbstractVar[Geometry]
    group: eqx.AbstractVar[AbstractGroup]

    @abc.abstractmethod
    def __call__(self, field: Field) -> Float[Array, ""]:
        """S, a real scalar, summed in `precision.working_dtype()` whatever the precision of the field."""

    @abc.abstractmethod
    def value_and_force(self, field: Field) -> tuple[Float[Array, ""], Field]:
        """(S, F) with dS(exp(i eps X) U)/d eps = <F, X>: the momentum update is P <- P - eps F.

        An action without a closed form of its force returns `autodiff_value_and_force(self, field)`.
        """

    def force(self, field: Field) -> Field:
        return self.value_and_force(field)[1]

    @property
    def field_shape(self) -> tuple[int, ...]:
        """Shape of one configuration."""
        return field_shape(self.group, self.geometry)

    def __add__(self, other: AbstractAction) -> Sum:
        return Sum((self, other))

    def __mul__(self, factor: Coupling) -> Scaled:
        return Scaled(self, factor)

    __rmul__ = __mul__


def autodiff_value_and_force(action: AbstractAction, field: Field) -> tuple[Float[Array, ""], Field]:
    """(S, F) of any action by reverse-mode differentiation, projected on the algebra."""
    return action.group.gradient(action, field)


def coupling(value: Coupling, field: Field) -> Float[Array, ""]:
    """A coupling in the real precision of `field`, so that a float64 coupling does not promote a float32 field."""
    return jnp.asarray(value, jnp.finfo(field.dtype).dtype)


def field_shape(group: AbstractGroup, geometry: Geometry) -> tuple[int, ...]:
    """Shape of one configuration: a number per site on the real line, otherwise a group element per link."""
    if isinstance(group, RealLine):
        return geometry.shape
    return (*group.colour_shape, geometry.Nd, *geometry.shape)


def abstract_field(group: AbstractGroup, geometry: Geometry) -> jax.ShapeDtypeStruct:
    """Shape and type of one configuration in double precision, for `jax.eval_shape`."""
    dtype = jnp.result_type(working_dtype(), jnp.complex64) if group.colour_shape else working_dtype()
    return jax.ShapeDtypeStruct(field_shape(group, geometry), dtype)


class Sum(AbstractAction):
    """S_1 + S_2 + ... of actions on the same field. Raises ValueError if geometries or groups differ."""

    terms: tuple[AbstractAction, ...]
    geometry: Geometry = eqx.field(static=True)
    group: AbstractGroup

    def __init__(self, terms: tuple[AbstractAction, ...]):
        if not terms:
            raise ValueError("a sum of actions needs at least one term")
        first = terms[0]
        for term in terms[1:]:
            if term.geometry != first.geometry or term.group != first.group:
                raise ValueError(
                    f"cannot add actions of different fields: {first.geometry.shape} {first.group} and "
                    f"{term.geometry.shape} {term.group}"
                )
        self.terms = terms
        self.geometry = first.geometry
        self.group = first.group

    def __call__(self, field: Field) -> Float[Array, ""]:
        return functools.reduce(operator.add, [term(field) for term in self.terms])

    def value_and_force(self, field: Field) -> tuple[Float[Array, ""], Field]:
        values, forces = zip(*[term.value_and_force(field) for term in self.terms], strict=True)
        return functools.reduce(operator.add, values), functools.reduce(operator.add, forces)


class Scaled(AbstractAction):
    """factor * S; the factor may be a traced scalar."""

    term: AbstractAction
    factor: Coupling
    geometry: Geometry = eqx.field(static=True)
    group: AbstractGroup

    def __init__(self, term: AbstractAction, factor: Coupling):
        self.term = term
        self.factor = factor
        self.geometry = term.geometry
        self.group = term.group

    def __call__(self, field: Field) -> Float[Array, ""]:
        value = self.term(field)
        return coupling(self.factor, value) * value

    def value_and_force(self, field: Field) -> tuple[Float[Array, ""], Field]:
        value, force = self.term.value_and_force(field)
        return coupling(self.factor, value) * value, coupling(self.factor, force) * force
