"""SU(N) for any N >= 2, colour axes first."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float, PRNGKeyArray

from latflow.groups.base import AbstractGroup
from latflow.groups.exponential import exp_hermitian, matrix_product
from latflow.groups.polar import adjugate_and_determinant, orthonormal_rows, polar
from latflow.precision import double_sum

Matrices = Complex[Array, "Nc Nc ..."]


class SUN(AbstractGroup):
    """SU(Nc): fields of complex matrices `(Nc, Nc, ...)`, in complex64 or complex128 throughout.

    Raises ValueError for Nc < 2. A `dtype` argument is that of the element field; a real one means the complex type of the
    same precision, None the default precision.
    """

    Nc: int = eqx.field(static=True)

    def __check_init__(self) -> None:
        if self.Nc < 2:
            raise ValueError(f"SU(N) needs at least two colours, got Nc = {self.Nc}; for one, use U1")

    @property
    def colour_shape(self) -> tuple[int, ...]:
        return (self.Nc, self.Nc)

    @property
    def dimension(self) -> int:
        return self.Nc**2 - 1

    def generators(self) -> np.ndarray:
        """T_a as complex128 `(Nc^2-1, Nc, Nc)`: half the generalised Gell-Mann matrices, tr T_a T_b = delta_ab / 2."""
        return _generators(self.Nc)

    def identity(self, shape: tuple[int, ...], dtype=None) -> Matrices:
        unit = jnp.eye(self.Nc, dtype=_complex(dtype)).reshape(self.Nc, self.Nc, *[1] * len(shape))
        return jnp.broadcast_to(unit, (self.Nc, self.Nc, *shape))

    def multiply(self, a: Matrices, b: Matrices) -> Matrices:
        return matrix_product(a, b)

    def adjoint(self, a: Matrices) -> Matrices:
        return jnp.conj(jnp.swapaxes(a, 0, 1))

    def embed(self, a: Matrices) -> Matrices:
        return a

    def project(self, w: Matrices) -> Matrices:
        """V det(V)^(-1/Nc) with V = w (w^dagger w)^(-1/2) and the principal root, Eq. (13) of 2404.10819.

        This is the nearest element of U(N), rotated into SU(N); it is the nearest element of SU(N) where det V = 1, in
        particular for Nc = 2 and any real combination of SU(2) matrices, and to first order around SU(N). Gauge covariant and
        differentiable; not defined (nan) for singular w.
        """
        return self._remove_determinant(polar(w))

    def trace_gradient(self, w: Matrices) -> Matrices:
        x = 0.25j * (w - self.adjoint(w))
        return x - self.identity((1,) * (w.ndim - 2), w.dtype) * (_trace(x) / self.Nc)[None, None]

    def re_trace(self, a: Matrices) -> Float[Array, "..."]:
        return jnp.real(_trace(a))

    def haar(self, key: PRNGKeyArray, shape: tuple[int, ...], dtype=None) -> Matrices:
        # The law of a Ginibre matrix is invariant under multiplication by unitary matrices from the right, hence so is that
        # of its orthonormalised rows; the factor removed with the determinant does not see multiplication by SU(N).
        ginibre = jax.random.normal(key, (self.Nc, self.Nc, *shape), _complex(dtype))
        return self._remove_determinant(orthonormal_rows(ginibre))

    def random_algebra(self, key: PRNGKeyArray, shape: tuple[int, ...], dtype=None) -> Matrices:
        real = jnp.finfo(_complex(dtype)).dtype
        return self.from_coordinates(jax.random.normal(key, (self.dimension, *shape), real))

    def inner(self, x: Matrices, y: Matrices) -> Float[Array, ""]:
        return 2 * double_sum(x.real * y.real + x.imag * y.imag)

    def exp(self, x: Matrices) -> Matrices:
        return exp_hermitian(x)

    def gradient(self, function: Callable[[Array], Any], field: Matrices, has_aux: bool = False) -> tuple[Any, Matrices]:
        # JAX returns g with df = Re sum g_ij dU_ij = Re Tr(g^T dU), and dU = i eps X U
        value, g = jax.value_and_grad(function, has_aux=has_aux)(field)
        return value, self.trace_gradient(self.multiply(field, jnp.swapaxes(g, 0, 1)))

    def bracket(self, x: Matrices, y: Matrices) -> Matrices:
        product = 1j * self.multiply(x, y)
        return product + self.adjoint(product)

    def coordinates(self, x: Matrices) -> Float[Array, "dimension ..."]:
        t = self.generators()
        real, imaginary = jnp.asarray(np.real(t), x.real.dtype), jnp.asarray(np.imag(t), x.real.dtype)
        return 2 * (_contract(real, x.real) + _contract(imaginary, x.imag))

    def from_coordinates(self, x: Float[Array, "dimension ..."]) -> Matrices:
        t = np.moveaxis(self.generators(), 0, -1)
        real, imaginary = jnp.asarray(np.real(t), x.dtype), jnp.asarray(np.imag(t), x.dtype)
        return jax.lax.complex(_contract(real, x, 1), _contract(imaginary, x, 1))

    def reunitarise(self, a: Matrices) -> tuple[Matrices, Float[Array, ""]]:
        """(`project` of a, the largest entry of |a^dagger a - 1| and of |det a - 1|)."""
        excess = self.multiply(self.adjoint(a), a) - self.identity((1,) * (a.ndim - 2), a.dtype)
        determinant = adjugate_and_determinant(a)[1]
        drift = jnp.maximum(jnp.max(jnp.abs(excess), initial=0), jnp.max(jnp.abs(determinant - 1), initial=0))
        return self.project(a), drift

    def _remove_determinant(self, v: Matrices) -> Matrices:
        angle = jnp.angle(adjugate_and_determinant(v)[1]) / self.Nc
        return v * jax.lax.complex(jnp.cos(angle), -jnp.sin(angle))[None, None]


def _complex(dtype):
    return jnp.result_type(jnp.zeros((), complex if dtype is None else dtype), jnp.complex64)


def _trace(a: Matrices) -> Complex[Array, "..."]:
    unit = jnp.eye(a.shape[0], dtype=a.dtype).reshape(*a.shape[:2], *[1] * (a.ndim - 2))
    return (a * unit).sum(1).sum(0)


def _contract(matrix: Array, field: Array, axes: int = 2) -> Array:
    # full precision also where the default for float32 products is less
    return jnp.tensordot(matrix, field, axes, precision=jax.lax.Precision.HIGHEST)


@functools.cache
def _generators(Nc: int) -> np.ndarray:
    out = []
    for i in range(Nc):
        for j in range(i):
            symmetric, antisymmetric = np.zeros((2, Nc, Nc), complex)
            symmetric[i, j] = symmetric[j, i] = 0.5
            antisymmetric[j, i], antisymmetric[i, j] = -0.5j, 0.5j
            out += [symmetric, antisymmetric]
        if i:
            out.append(np.diag([1.0] * i + [-i] + [0.0] * (Nc - 1 - i)).astype(complex) / np.sqrt(2 * i * (i + 1)))
    generators = np.array(out)
    generators.flags.writeable = False
    return generators
