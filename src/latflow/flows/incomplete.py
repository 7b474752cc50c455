"""Pseudofermion maps from incomplete decompositions of the Dirac operator.

M = D D^dagger, and gamma5 D gamma5 = D^dagger, so that with F(mu) = D + i sqrt(mu) gamma5, a twisted mass (R. Frezzotti et al.,
hep-lat/0101001),

    F(mu) F(mu)^dagger = M + mu.

phi = F(mu) chi therefore samples the last monomial of a Hasenbusch factorisation exactly, and phi = F(a) F(b)^-1 chi the ratio
of masses a < b, of covariance (M + a)(M + b)^-1: F(mu) gamma5 = H + i sqrt(mu) with the Hermitian H = D gamma5. Only their
determinants are costly. Here F is replaced by L U ~ F of an incomplete block decomposition (`latflow.flows.elimination`), whose
determinant is that of the diagonal of U.
"""

from __future__ import annotations

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Complex, Float

from latflow.actions import Monomial
from latflow.dirac import AbstractDirac, Spinor
from latflow.dirac.assembly import Coupling
from latflow.dirac.operators import AbstractFactor
from latflow.flows.elimination import Blocks, Pivots, elimination
from latflow.flows.elimination_plan import Order, Plan, Reach, plan
from latflow.flows.linear import AbstractConditional, AbstractLinearMap, Features, Field
from latflow.lattice import Halves
from latflow.precision import double_sum, working_dtype


class Triangles(AbstractLinearMap):
    """phi = L U chi, with `rows` (V, w + 1, n, n) in the slots of the `plan`: U on and above the diagonal, L below."""

    rows: Blocks
    inverse_pivots: Pivots
    plan: Plan = eqx.field(static=True)
    spinor_shape: tuple[int, ...] = eqx.field(static=True)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.spinor_shape

    @property
    def dtype(self) -> Any:
        return self.rows.dtype

    def mv(self, chi: Spinor) -> Spinor:
        return self._vectorwise(elimination(self.plan).multiply, chi)

    def inverse(self, phi: Spinor) -> Spinor:
        return self._vectorwise(elimination(self.plan).solve, phi)

    @property
    def log_abs_det(self) -> Float[Array, ""]:
        """nan if a diagonal block of U is singular or not finite."""
        a = self.rows[:, 0].astype(jnp.result_type(working_dtype(), jnp.complex64))
        n = a.shape[-1]
        if n == 1:
            logs = jnp.log(jnp.abs(a[:, 0, 0]))
        elif n == 2:
            logs = jnp.log(jnp.abs(a[:, 0, 0] * a[:, 1, 1] - a[:, 0, 1] * a[:, 1, 0]))
        else:
            logs = jnp.linalg.slogdet(a)[1]
        total = double_sum(logs)
        return jnp.where(jnp.isfinite(total), total, jnp.nan)

    def _vectorwise(self, function: Any, psi: Spinor) -> Spinor:
        n = self.rows.shape[-1]
        out = function(self.rows, self.inverse_pivots, psi.reshape(n, -1).T.astype(self.dtype))
        return out.T.reshape(self.shape)


class Quotient(AbstractLinearMap):
    """phi = F_a F_b^-1 chi."""

    numerator: Triangles
    denominator: Triangles

    @property
    def shape(self) -> tuple[int, ...]:
        return self.numerator.shape

    @property
    def dtype(self) -> Any:
        return self.numerator.dtype

    def mv(self, chi: Spinor) -> Spinor:
        return self.numerator.mv(self.denominator.inverse(chi))

    def inverse(self, phi: Spinor) -> Spinor:
        return self.denominator.mv(self.numerator.inverse(phi))

    @property
    def log_abs_det(self) -> Float[Array, ""]:
        return self.numerator.log_abs_det - self.denominator.log_abs_det


class IncompleteFactor(AbstractConditional):
    """D~ = L U of F(mu) for the last monomial of a factorisation, D~ = L_a U_a (L_b U_b)^-1 of F(a) and F(b) for a ratio; no
    trainable parameters.

    Blocks between sites at a Manhattan distance (on the torus) up to `reach` are kept, where `reach` None keeps all of them: D~
    is exact then, at O(V^3) cost. Otherwise the cost grows as V, and as the square of the number of sites within reach. The
    distance counts steps of the lattice also for even/odd targets, between whose sites it is even. A reach below that of the
    operator itself (2 for an even/odd complement, 1 without) also drops couplings of the operator; 0 keeps its diagonal blocks.
    D~ transforms under gauge transformations as D does, because n x n blocks, n = Ns Nc, are kept or dropped as a whole.

    The order of elimination, and a reach that grows along it, decide how good D~ is (`latflow.flows.elimination_plan.plan` has
    both). What is eliminated last stands for the long distances: it has few sites and needs a long reach. In the Schwinger
    model (kappa = 0.265, 16 x 16, beta = 2.245, one monomial with mu = 0) the mean of 1 / E[w^2], w the weight of a draw, is

        "natural", 8    "pairs", 8    "nested", 8    "nested", (4, 6, 8, 16)    "nested", (4, 8, 10, 12, 16)
        0.03            0.05          0.14           0.48                       0.95

    at 1400, 1400, 1400, 460 and 1060 products of blocks per even site; on 32 x 32 (beta = 2.2) it is 0.74 for "nested",
    (4, 8, 10, 12, 16, 20, 24), at 1340. Fermions that are heavier, or more dimensions, gain less from it.

    Spinors have the precision of the field. `mv`, `inverse` and `log_abs_det` (a float64 sum) are those of the same computed L,
    U: single precision, in which L U differs a little more from F, makes no density wrong, and `inverse(mv(chi))` is chi to
    rounding. There is no pivoting beyond the blocks; where a diagonal block is singular, `log_abs_det` is nan.

    Differentiable in reverse mode with respect to the field. Raises ValueError for a negative reach, for no
    reach, or an unknown order.
    """

    monomial: Monomial
    reach: Reach = eqx.field(static=True)
    order: Order = eqx.field(static=True, default="nested")

    def __check_init__(self) -> None:
        self._plan()

    def bind(self, field: Field, features: Features = None) -> Triangles | Quotient:
        """`Triangles` for the last monomial, for a ratio the `Quotient` of two."""
        operator = self.monomial.operator(field)
        if not isinstance(operator, AbstractFactor):
            raise TypeError(f"blocks of {type(operator).__name__} are not known")
        masses = [mass for mass in (self.monomial.mu, self.monomial.heavier) if mass is not None]
        kept, chirality = self._plan(), gamma5_blocks(operator)
        rows = assemble(kept, operator.couplings())
        twists = [1j * jnp.sqrt(jnp.asarray(mass, chirality.real.dtype)) * jnp.moveaxis(chirality, -1, 0) for mass in masses]
        decompositions = jax.vmap(elimination(kept).decompose)(jnp.stack([rows.at[:, 0].add(twist) for twist in twists]))
        factors = [Triangles(a, inverse, kept, operator.shape) for a, inverse in zip(*decompositions, strict=True)]
        return factors[0] if len(factors) == 1 else Quotient(*factors)

    def _plan(self) -> Plan:
        geometry = self.monomial.fermion.geometry
        return plan(Halves(geometry) if self.monomial.even_odd else geometry, self.reach, self.order)


def assemble(plan: Plan, couplings: list[Coupling]) -> Blocks:
    """The rows of the couplings that are kept."""
    slots: list[Any] = [None] * (plan.width + 1)
    for step, blocks in couplings:
        s = plan.slot(step)
        if s is not None:
            slots[s] = blocks if slots[s] is None else slots[s] + blocks
    zero = jnp.zeros_like(slots[0])
    rows = jnp.transpose(jnp.stack([zero if block is None else block for block in slots]), (3, 0, 1, 2))
    return jnp.where(jnp.asarray(plan.time >= 0)[..., None, None], rows, 0)


def gamma5_blocks(operator: AbstractDirac) -> Complex[Array, "n n sites"]:
    """gamma5 as matrices of the index (spin, colour)."""
    n = operator.shape[0] * operator.shape[1]
    unit = jnp.eye(n, dtype=operator.dtype).reshape(*operator.shape[:2], *[1] * len(operator.shape[2:]), n)
    spinors = jnp.broadcast_to(unit, (*operator.shape, n))
    columns = jax.vmap(operator.gamma5, -1, -1)(spinors).reshape(n, math.prod(operator.shape[2:]), n)
    return jnp.swapaxes(columns, 1, 2)
