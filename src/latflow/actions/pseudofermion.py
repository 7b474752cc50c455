"""Pseudofermions: fermion determinants as Gaussian integrals over complex fields, Eqs. (10)-(12) and (35)-(38) of 2207.08945.

M = D D^dagger of the Dirac operator or of its even/odd complement, and mu_0 < mu_1 < ... < mu_Nh. Then

    det(M + mu_0) = det(M + mu_Nh) prod_i det(M + mu_i) / det(M + mu_{i+1})

is a product of det C^-1 with C = 1 + (mu_{i+1} - mu_i)(M + mu_i)^-1 for the ratios and C = (M + mu_Nh)^-1 for the last factor,
each the integral of exp(-phi^dagger C phi) / pi^N over N complex components.

Heatbath. H = D gamma5 is Hermitian with H^2 = M, so that phi = A eta with A^dagger C A = 1 is solved by functions of H: with
a^2 = mu_i and b^2 = mu_{i+1},

    A = (H - i a)(H - i b)^-1 = 1 + (b - a)(i H - b)(M + b^2)^-1,        A = H + i b for the last factor.

Value and force. At X = (M + mu)^-1 phi the quadratic form 2 Re phi^dagger X - X^dagger (M + mu) X is phi^dagger X and
stationary in X: an X that is wrong by delta changes it by -delta^dagger (M + mu) delta, and its derivative with respect to the
field at fixed X is that of the action, -X^dagger dM X.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Float, PRNGKeyArray

from latflow.actions.base import AbstractAction, Field, abstract_field, autodiff_value_and_force
from latflow.dirac import AbstractDirac, AbstractFermion, Dirac, Spinor
from latflow.dirac.site_terms import Unit
from latflow.groups import AbstractGroup
from latflow.lattice import Geometry
from latflow.precision import working_dtype
from latflow.solvers import SolveInfo, cg, inner

Mass = float | Float[Array, ""]


class Monomial(eqx.Module):
    """One factor det C^-1 of a determinant, C = (M + mu)^-1, or with `heavier` C = 1 + (heavier - mu)(M + mu)^-1, so that
    det C^-1 = det(M + mu) / det(M + heavier). Masses are those added to M = D D^dagger, in lattice units squared.

    With `even_odd` (the default) M is that of the even/odd complement: ValueError for odd extents.
    """

    fermion: AbstractFermion
    mu: Mass = 0.0
    heavier: Mass | None = None
    even_odd: bool = eqx.field(static=True, default=True)

    def __check_init__(self) -> None:
        if self.even_odd:
            self.fermion.geometry.require_even("even/odd preconditioning")

    def operator(self, field: Field) -> AbstractDirac:
        """The operator D of M = D D^dagger."""
        dirac = self.fermion.operator(field)
        return dirac.schur() if self.even_odd else dirac

    @property
    def rows(self) -> int:
        """Number of complex components of a spinor."""
        return eqx.filter_eval_shape(self.operator, abstract_field(self.fermion.group, self.fermion.geometry)).size

    def noise(self, key: PRNGKeyArray, field: Field) -> Spinor:
        """eta of density exp(-eta^dagger eta) / pi^N, the input of `heatbath`."""
        return self.operator(field).random(key)

    def heatbath(self, field: Field, eta: Spinor, *, tol: float, max_iterations: int) -> tuple[Spinor, SolveInfo | None]:
        """(phi with phi^dagger C phi = eta^dagger eta, its solve: none for the last monomial)."""
        operator = self.operator(field)
        if self.heavier is None:
            return operator.hermitian(eta) + 1j * _root(self.mu, eta) * eta, None
        a, b = _root(self.mu, eta), _root(self.heavier, eta)
        x, info = cg(shifted(operator, self.heavier), eta, tol=tol, max_iterations=max_iterations)
        return eta + (b - a) * (1j * operator.hermitian(x) - b * x), info

    def value(self, field: Field, phi: Spinor, solution: Spinor) -> Float[Array, ""]:
        """phi^dagger C phi from an approximate `solution` of (M + mu) X = phi: its error is quadratic in that of X."""
        # <X, M X> = |D^dagger X|^2 = |H X|^2
        image = self.operator(field).hermitian(solution)
        mu = jnp.asarray(self.mu, working_dtype())
        value = 2 * inner(phi, solution) - inner(image, image) - mu * inner(solution, solution)
        if self.heavier is None:
            return value
        return inner(phi, phi) + jnp.asarray(self.heavier - self.mu, working_dtype()) * value

    def log_det(self, field: Field) -> Float[Array, ""]:
        """log det C^-1 from the dense matrix: O(N^3) work, for small lattices."""
        matrix = self.operator(field).matrix().astype(jnp.result_type(working_dtype(), jnp.complex64))
        spectrum = jnp.linalg.svd(matrix, compute_uv=False) ** 2
        log_det = jnp.sum(jnp.log(spectrum + self.mu))
        return log_det if self.heavier is None else log_det - jnp.sum(jnp.log(spectrum + self.heavier))


def monomials(
    fermion: AbstractFermion, masses: Sequence[Mass] = (), *, regulator: Mass = 0.0, even_odd: bool = True
) -> tuple[Monomial, ...]:
    """The Nh + 1 factors of det(M + mu_0), Eq. (38): mu_0 = `regulator`, `masses` = (mu_1, ..., mu_Nh), lightest first.

    Raises ValueError for masses (other than traced ones) that do not ascend from a regulator >= 0, or odd extents.
    """
    mu = (regulator, *masses)
    known = [float(m) for m in mu if not isinstance(m, Tracer)]
    if not all(math.isfinite(m) and m >= 0 for m in known) or any(a >= b for a, b in itertools.pairwise(known)):
        raise ValueError(
            f"the masses of a Hasenbusch factorisation must ascend from the regulator >= 0, e.g. 0, 0.1, 1; got {known}"
        )
    return tuple(Monomial(fermion, m, h, even_odd) for m, h in zip(mu, (*mu[1:], None), strict=True))


class Solved(eqx.Module):
    """S and force of a pseudofermion action, the solution X = (M + mu)^-1 phi behind them, and how its solve went."""

    value: Float[Array, ""]
    force: Field
    solution: Spinor
    info: SolveInfo


class Pseudofermion(AbstractAction):
    """S = phi^dagger C phi of a fixed pseudofermion `phi` (a spinor of `monomial.operator`), as an action of the field.

    Solves stop at a relative residual `tol`; as a plain action the value and the force are nan where one has not come there
    after `max_iterations`. The value of a solve to `tol` is exact to `tol`^2 times the condition number, the force to `tol`.
    """

    monomial: Monomial
    phi: Spinor
    geometry: Geometry = eqx.field(static=True)
    group: AbstractGroup
    tol: float = eqx.field(static=True)
    max_iterations: int = eqx.field(static=True)

    def __init__(self, monomial: Monomial, phi: Spinor, tol: float = 1e-8, max_iterations: int = 1000):
        self.monomial = monomial
        self.phi = phi
        self.geometry = monomial.fermion.geometry
        self.group = monomial.fermion.group
        self.tol = float(tol)
        self.max_iterations = int(max_iterations)

    def __call__(self, field: Field) -> Float[Array, ""]:
        solution, info = self.solve(field)
        # a factor, so that the force of a failed solve is nan too
        return self.monomial.value(field, self.phi, solution) * jnp.where(info.converged, 1.0, jnp.nan)

    def value_and_force(self, field: Field) -> tuple[Float[Array, ""], Field]:
        return autodiff_value_and_force(self, field)

    def solve(self, field: Field, guess: Spinor | None = None) -> tuple[Spinor, SolveInfo]:
        """(X, info) with (M + mu) X = phi, from the `guess` or from zero; constant under differentiation."""
        mv, phi = self.shifted(field), jax.lax.stop_gradient(self.phi)
        return cg(mv, phi, tol=self.tol, max_iterations=self.max_iterations, x0=guess)

    def shifted(self, field: Field) -> Callable[[Spinor], Spinor]:
        """psi -> (M + mu) psi, constant under differentiation."""
        operator, mu = jax.lax.stop_gradient((self.monomial.operator(field), self.monomial.mu))
        return shifted(operator, mu)

    def solved(self, field: Field, guess: Spinor | None = None) -> Solved:
        """Value and force, with what a next solve may start from and what the caller should look at."""
        solution, info = self.solve(field, guess)
        value, force = self.group.gradient(lambda field: self.monomial.value(field, self.phi, solution), field)
        return Solved(value, force, solution, info)

    def log_density(self, field: Field, log_det: Float[Array, ""]) -> Float[Array, ""]:
        """log p(phi | field) = -S - N log pi - log det C^-1, normalised for d Re phi d Im phi; `log_det` is
        `monomial.log_det(field)`, shared by all phi of one field."""
        return -self(field) - self.phi.size * math.log(math.pi) - log_det


class OddSites(AbstractAction):
    """S = -2 log |det A_oo|, what -log det D D^dagger has besides -log det M of the even/odd complement (one flavour pair).

    A is the site term of the fermion: zero for plain Wilson fermions, local for clover and Yukawa ones. Raises ValueError for
    odd extents.
    """

    fermion: AbstractFermion
    geometry: Geometry = eqx.field(static=True)
    group: AbstractGroup

    def __init__(self, fermion: AbstractFermion):
        fermion.geometry.require_even("even/odd preconditioning")
        self.fermion = fermion
        self.geometry = fermion.geometry
        self.group = fermion.group

    def __call__(self, field: Field) -> Float[Array, ""]:
        return -2 * self.fermion.operator(field).schur().log_abs_det_rest()

    def value_and_force(self, field: Field) -> tuple[Float[Array, ""], Field]:
        return autodiff_value_and_force(self, field)

    def trivial(self, field: Field) -> bool:
        """Whether A = 1 for fields of the shape and type of `field`, so that this action is zero."""
        dirac: Dirac = eqx.filter_eval_shape(self.fermion.operator, field)
        return isinstance(dirac.site, Unit)


def shifted(operator: AbstractDirac, mu: Mass) -> Callable[[Spinor], Spinor]:
    """The function psi -> (M + mu) psi."""

    def mv(psi: Spinor) -> Spinor:
        return operator.normal(psi) + jnp.asarray(mu, psi.real.dtype) * psi

    return mv


def _root(mu: Mass, like: Spinor) -> Float[Array, ""]:
    return jnp.sqrt(jnp.asarray(mu, like.real.dtype))
