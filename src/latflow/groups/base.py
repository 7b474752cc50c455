"""The interface through which everything else multiplies, moves and measures group-valued fields.

An element field carries its colour axes FIRST: SU(N) is `complex (Nc, Nc, ...)`, U(1) and the real line carry none and are
real arrays. An algebra element is the Hermitian generator-valued field X of exp(i X): traceless Hermitian (Nc, Nc, ...) for
SU(N), a real array for U(1) and the real line. Generators obey tr T_a T_b = delta_ab / 2, the inner product is
<X, Y> = 2 Re tr X Y summed over everything (X Y for U(1) and the real line), so that with X = x_a T_a it is sum x_a y_a.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx
from jaxtyping import Array, Float, Inexact, PRNGKeyArray

Element = Inexact[Array, "..."]
Algebra = Inexact[Array, "..."]
Matrix = Inexact[Array, "..."]


class AbstractGroup(eqx.Module):
    """A Lie group acting on itself from the left. Subclasses are stateless, hashable descriptions."""

    Nc: eqx.AbstractVar[int]

    @property
    @abc.abstractmethod
    def colour_shape(self) -> tuple[int, ...]:
        """Leading axes of an element field: () or (Nc, Nc)."""

    @property
    @abc.abstractmethod
    def dimension(self) -> int:
        """Number of generators."""

    @abc.abstractmethod
    def identity(self, shape: tuple[int, ...], dtype=None) -> Element:
        """Identity element on every point of `shape` (colour axes are added in front)."""

    @abc.abstractmethod
    def multiply(self, a: Element, b: Element) -> Element:
        """Pointwise product a b."""

    @abc.abstractmethod
    def adjoint(self, a: Element) -> Element:
        """Pointwise inverse a^dagger."""

    @abc.abstractmethod
    def embed(self, a: Element) -> Matrix:
        """The element as an element of a linear space, in which sums make sense: complex matrices for SU(N), exp(i theta) for
        U(1), the number itself on the real line."""

    @abc.abstractmethod
    def project(self, w: Matrix) -> Element:
        """The group element of a general w: its polar factor, rotated to determinant one in the case of SU(N); the identity
        map on embedded elements, covariant under multiplication by group elements."""

    @abc.abstractmethod
    def trace_gradient(self, w: Matrix) -> Algebra:
        """G with d/d eps Re Tr[exp(i eps X) w] at 0 = <G, X> for every X; w = U A gives the staple force."""

    @abc.abstractmethod
    def re_trace(self, a: Element) -> Float[Array, "..."]:
        """Re Tr a, without colour axes."""

    @abc.abstractmethod
    def haar(self, key: PRNGKeyArray, shape: tuple[int, ...], dtype=None) -> Element:
        """Draws from the normalised invariant measure."""

    @abc.abstractmethod
    def random_algebra(self, key: PRNGKeyArray, shape: tuple[int, ...], dtype=None) -> Algebra:
        """Unit-variance Gaussian algebra elements: density exp(-<X, X>/2). `dtype` is that of the element field."""

    @abc.abstractmethod
    def inner(self, x: Algebra, y: Algebra) -> Float[Array, ""]:
        """<X, Y> summed over all points."""

    @abc.abstractmethod
    def exp(self, x: Algebra) -> Element:
        """exp(i X)."""

    @abc.abstractmethod
    def gradient(self, function: Callable[[Element], Any], field: Element, has_aux: bool = False) -> tuple[Any, Algebra]:
        """(f(U), G) with d/d eps f(exp(i eps X) U) at 0 = <G, X> for every X; ((f(U), more), G) for a function that returns
        more."""

    @abc.abstractmethod
    def bracket(self, x: Algebra, y: Algebra) -> Algebra:
        """i [X, Y], the algebra element ad_{iX} Y."""

    @abc.abstractmethod
    def coordinates(self, x: Algebra) -> Float[Array, "..."]:
        """Coefficients x_a = 2 Re tr T_a X on a new leading axis of length `dimension`."""

    @abc.abstractmethod
    def from_coordinates(self, x: Float[Array, "..."]) -> Algebra:
        """Inverse of `coordinates`."""

    @abc.abstractmethod
    def reunitarise(self, a: Element) -> tuple[Element, Float[Array, ""]]:
        """Nearest group elements, and the largest deviation from unitarity and unit determinant that was removed (0 for
        angles and real numbers, which cannot leave their group)."""

    def move(self, x: Algebra, a: Element) -> Element:
        """exp(i X) a: the exponential update of molecular dynamics and of gradient flow."""
        return self.multiply(self.exp(x), a)
