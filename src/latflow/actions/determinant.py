"""The exact fermion determinant as an action."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from latflow.actions.base import AbstractAction, Field, abstract_field, autodiff_value_and_force
from latflow.dirac import AbstractFermion
from latflow.errors import LatflowError
from latflow.groups import AbstractGroup
from latflow.lattice import Geometry
from latflow.precision import double_sum, working_dtype

# Dense matrices of one chunk of a batch, with their factors and derivatives.
_CHUNK_BYTES = 1 << 28
_COPIES = 6
# A single matrix above this is refused.
_MOST_BYTES = 1 << 32


class TooLarge(LatflowError):
    """The dense matrix of a determinant would not fit into memory."""


class Determinant(AbstractAction):
    """S = -`flavours` log |det D| of degenerate fermions; -log det D D^dagger for two (Eq. (9) of 2207.08945).

    det D = det A_oo det D_sc by even/odd preconditioning where all extents are even (Eq. (34)), otherwise det D. The dense
    matrix is factorised by LU in double precision whatever the precision of the field, O(V^3); its gradient follows from the
    inverse. A mapped call works through its batch in chunks of bounded memory, and of the gradient only a field is kept.

    det D is real (gamma5-Hermiticity), but for an odd number of flavours its sign is not part of S: `sign` is to be measured,
    and expectation values are those of O sign / <sign>. An exceptional configuration, det D = 0, has S = inf.

    Raises ValueError for less than one flavour and `TooLarge` for a matrix beyond 4 GiB.
    """

    fermion: AbstractFermion
    flavours: int = eqx.field(static=True, default=2)
    geometry: Geometry = eqx.field(static=True, init=False)
    group: AbstractGroup = eqx.field(init=False)

    def __post_init__(self) -> None:
        if isinstance(self.flavours, bool) or self.flavours != int(self.flavours) or self.flavours < 1:
            raise ValueError(f"a determinant needs a positive whole number of flavours, got {self.flavours!r}")
        self.geometry = self.fermion.geometry
        self.group = self.fermion.group
        require_dense(self.fermion)

    def __call__(self, field: Field) -> Float[Array, ""]:
        return -self.flavours * self.log_abs_det(field)

    def value_and_force(self, field: Field) -> tuple[Float[Array, ""], Field]:
        return autodiff_value_and_force(self, field)

    def log_abs_det(self, field: Field) -> Float[Array, ""]:
        """log |det D|."""
        inputs, rest = eqx.partition((self.fermion, field), eqx.is_inexact_array)
        return _with_gradient(lambda inputs: _log_abs_det(*eqx.combine(inputs, rest)), _chunk(self.fermion))(inputs)

    def sign(self, field: Field) -> Float[Array, ""]:
        """The sign of det D, +1 or -1."""
        return self.fermion.operator(_double(field)).preconditioned().determinant_sign()


def matrix_size(fermion: AbstractFermion) -> int:
    """Rows of the dense matrix that a determinant of this fermion factorises."""
    field = abstract_field(fermion.group, fermion.geometry)
    return eqx.filter_eval_shape(lambda field: fermion.operator(field).preconditioned(), field).size


def require_dense(fermion: AbstractFermion) -> None:
    """Raise `TooLarge` where the dense matrix would exceed what is reasonable."""
    size = matrix_size(fermion)
    if (needed := 16 * size**2) > _MOST_BYTES:
        raise TooLarge(
            f"the determinant on the lattice {fermion.geometry.shape} takes a matrix of {size} rows: {needed / 2**30:.1f} GiB, "
            f"and about {_COPIES} times that with its derivative",
            "use pseudofermions, whose cost is linear in the volume, or a smaller lattice",
        )


def _double(field: Field) -> Field:
    return field.astype(jnp.result_type(working_dtype(), field.dtype))


def _log_abs_det(fermion: AbstractFermion, field: Field) -> Float[Array, ""]:
    factor = fermion.operator(_double(field)).preconditioned()
    return _log_abs_det_of(factor.matrix()) + factor.log_abs_det_rest()


@jax.custom_vjp
def _log_abs_det_of(matrix: Array) -> Float[Array, ""]:
    return _factorised(matrix)[0]


def _factorised(matrix: Array) -> tuple[Float[Array, ""], Any]:
    factors = jax.scipy.linalg.lu_factor(matrix)
    return double_sum(jnp.log(jnp.abs(jnp.diagonal(factors[0])))), factors


def _pull_back(factors: Any, cotangent: Float[Array, ""]) -> tuple[Array]:
    # d log|det M| = Re Tr(M^-1 dM), and JAX pairs complex numbers as Re(cotangent * tangent)
    inverse = jax.scipy.linalg.lu_solve(factors, jnp.eye(factors[0].shape[0], dtype=factors[0].dtype))
    return (cotangent * inverse.T,)


_log_abs_det_of.defvjp(_factorised, _pull_back)


def _chunk(fermion: AbstractFermion) -> int:
    return max(1, _CHUNK_BYTES // (16 * _COPIES * matrix_size(fermion) ** 2))


def _with_gradient(function: Callable[[Any], Float[Array, ""]], chunk: int) -> Callable[[Any], Float[Array, ""]]:
    """`function` with a gradient that is computed together with the value, mapped in chunks of at most `chunk`.

    What is kept for the backward pass is of the size of the inputs, and no dense matrix outlives its chunk.
    """

    @jax.custom_vjp
    def wrapped(inputs: Any) -> Float[Array, ""]:
        return in_chunks(function, chunk)(inputs)

    def pull_back(gradient: Any, cotangent: Float[Array, ""]) -> tuple[Any]:
        return (jax.tree.map(lambda g: cotangent.astype(g.real.dtype) * g, gradient),)

    wrapped.defvjp(in_chunks(jax.value_and_grad(function), chunk), pull_back)
    return wrapped


def in_chunks(function: Callable[[Any], Any], chunk: int) -> Callable[[Any], Any]:
    """`function` of one configuration, which `jax.vmap` maps over its batch in chunks of at most `chunk`."""

    @jax.custom_batching.custom_vmap
    def one(inputs: Any) -> Any:
        return function(inputs)

    @one.def_vmap
    def _(axis_size: int, in_batched: Any, inputs: Any) -> tuple[Any, Any]:
        (batched,) = in_batched
        mapped, fixed = eqx.partition(inputs, batched)
        out = jax.lax.map(lambda part: function(eqx.combine(part, fixed)), mapped, batch_size=min(chunk, axis_size))
        return out, jax.tree.map(lambda _: True, out)

    return one
