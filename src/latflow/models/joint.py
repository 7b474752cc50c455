"""Joint models of gauge fields and pseudofermions, q(U, phi_0, phi_1, ...) = q(U) prod_i q(phi_i | U), Eqs. (18)-(22), (39)
of 2207.08945.

The target exp(-S_b(U) - sum_i phi_i^dagger C_i phi_i) has the marginal exp(-S_b) prod_i det C_i^-1. For phi = D~ chi,

    w_i = exp(-phi^dagger C_i phi) / (pi^N q(phi | U)) = |det D~|^2 exp(chi^dagger chi - phi^dagger C_i phi)

is an unbiased estimate of det C_i^-1, and so is its mean over several draws for the same U (Eqs. (41)-(43)). The product over
the monomials of these means, each from draws of its own (Eq. (46)), times exp(-S_b) / q(U) is the weight of the configuration:
an unbiased estimate of the marginal weight, hence exact in reweighting and in the pseudo-marginal Metropolis algorithm.

In the eigenbasis of A = D~^dagger C D~ a weight is prod_k lambda_k exp((1 - lambda_k) |chi_k|^2) up to det C^-1, so that
E[w^2] / E[w]^2 = prod_k lambda_k^2 / (2 lambda_k - 1), which is finite if and only if every eigenvalue exceeds 1/2.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Complex, Float, Inexact, Int, PRNGKeyArray

from latflow.actions import AbstractAction, Monomial, OddSites, autodiff_value_and_force
from latflow.actions.pseudofermion import shifted
from latflow.dirac import Spinor
from latflow.flows.base import AbstractBijection
from latflow.flows.linear import AbstractConditional, AbstractLinearMap
from latflow.groups import AbstractGroup
from latflow.lattice import Geometry
from latflow.models.density import FlowModel
from latflow.models.noise import Draws, gaussian_draws
from latflow.models.prior import AbstractPrior
from latflow.nets import PlaquetteContext
from latflow.precision import working_dtype
from latflow.solvers import SolveInfo, cg, inner

Field = Inexact[Array, "..."]
Stage = Literal["joint", "marginal", "conditional"]


class JointTarget(AbstractAction):
    """exp(-S_b(U) - sum_i phi_i^dagger C_i phi_i): what a `JointModel` is weighed against.

    S_b is `boson` and, for even/odd monomials of fermions with a site term, -2 log |det| of the odd sites. `draws` of `kind`
    (see `gaussian_draws`) are made of each monomial. Solves stop at a relative residual `tol`, of which the action feels the
    square, and one that has not come there after `max_iterations` makes its weight nan. As an action of the gauge field alone
    it is the marginal, S_b - sum_i log det C_i^-1, from dense matrices: for small lattices. Raises ValueError without
    monomials.
    """

    boson: AbstractAction
    monomials: tuple[Monomial, ...]
    draws: int = eqx.field(static=True, default=1)
    kind: Draws = eqx.field(static=True, default="independent")
    tol: float = eqx.field(static=True, default=1e-6)
    max_iterations: int = eqx.field(static=True, default=2000)
    geometry: Geometry = eqx.field(static=True, init=False)
    group: AbstractGroup = eqx.field(init=False)

    def __post_init__(self) -> None:
        if not self.monomials:
            raise ValueError("a joint target needs at least one monomial")
        self.geometry = self.boson.geometry
        self.group = self.boson.group

    def __call__(self, field: Field) -> Float[Array, ""]:
        return self.without_pseudofermions(field) - sum(monomial.log_det(field) for monomial in self.monomials)

    def without_pseudofermions(self, field: Field) -> Float[Array, ""]:
        """S_b."""
        if not self.monomials[0].even_odd:
            return self.boson(field)
        odd = OddSites(self.monomials[0].fermion)
        return self.boson(field) if odd.trivial(field) else self.boson(field) + odd(field)

    def value_and_force(self, field: Field) -> tuple[Float[Array, ""], Field]:
        return autodiff_value_and_force(self, field)


class JointModel(eqx.Module):
    """A marginal flow for the gauge field and a conditional one for the pseudofermion of each monomial.

    `trunk` makes the features that all conditionals share, None where they use none. `stage` says what training moves: all
    of it, or one part while the other stays as it is. What is said of `FlowModel` holds for the marginal: `draw` and `log_q_of`
    are those of the gauge field.
    """

    marginal: FlowModel
    trunk: PlaquetteContext | None
    conditionals: tuple[AbstractConditional, ...]
    stage: Stage = eqx.field(static=True, default="joint")

    @property
    def prior(self) -> AbstractPrior:
        return self.marginal.prior

    @property
    def bijection(self) -> AbstractBijection:
        return self.marginal.bijection

    def partition(self) -> tuple[JointModel, JointModel]:
        """(parameters that this stage moves, rest)."""
        parameters = jax.tree.map(lambda _: False, self)
        if self.stage != "conditional":
            moving, _ = self.marginal.partition()
            moving = jax.tree.map(lambda leaf: leaf is not None, moving, is_leaf=lambda leaf: leaf is None)
            parameters = eqx.tree_at(lambda m: m.marginal, parameters, moving)
        if self.stage != "marginal":
            for part in (lambda m: m.trunk, lambda m: m.conditionals):
                parameters = eqx.tree_at(
                    part, parameters, jax.tree.map(eqx.is_inexact_array, part(self)), is_leaf=lambda leaf: leaf is None
                )
        return eqx.partition(self, parameters)

    def draw(self, key: PRNGKeyArray, size: int, start: Int[Array, ""] | None = None) -> tuple[Field, Float[Array, " batch"]]:
        """`size` gauge fields, batch axis LAST, and log q(U)."""
        return self.marginal.draw(key, size, start=start)

    def log_q_of(self, y: Field) -> Float[Array, " batch"]:
        """log q(U) of a batch of gauge fields, batch axis LAST."""
        return self.marginal.log_q_of(y)

    def maps(self, field: Field) -> tuple[AbstractLinearMap, ...]:
        """D~ of each monomial for one configuration."""
        features = None if self.trunk is None else self.trunk(field)
        return tuple(conditional.bind(field, features) for conditional in self.conditionals)


Model = FlowModel | JointModel


class Weighed(NamedTuple):
    """For one configuration: log w_i of each monomial and draw; conjugate gradient iterations of each; which converged."""

    log_weight: Float[Array, "monomials draws"]
    iterations: Int[Array, "monomials draws"]
    converged: Bool[Array, "monomials draws"]


def weigh(model: JointModel, target: JointTarget, key: PRNGKeyArray, field: Field) -> Weighed:
    """Draw the pseudofermions of one configuration and weigh them (float64), nan where a solve failed. Batches by `jax.vmap`.

    Raises ValueError if the model is for another number of monomials.
    """
    require_fitting(model, target)
    rows = []
    for i, (monomial, bound) in enumerate(zip(target.monomials, model.maps(field), strict=True)):
        chi = gaussian_draws(jax.random.fold_in(key, i), target.draws, bound.shape, bound.dtype, target.kind)
        log_det = 2 * bound.log_abs_det

        def weighed(chi: Spinor, monomial=monomial, bound=bound, log_det=log_det) -> tuple[Array, Array, Array]:
            action, info = solved_action(target, monomial, field, bound.mv(chi))
            log_weight = inner(chi, chi) + log_det - action
            return jnp.where(info.converged, log_weight, jnp.nan), info.iterations, info.converged

        rows.append(jax.lax.map(weighed, chi))
    return Weighed(*(jnp.stack(column) for column in zip(*rows, strict=True)))


def solved_action(target: JointTarget, monomial: Monomial, field: Field, phi: Spinor) -> tuple[Float[Array, ""], SolveInfo]:
    """(phi^dagger C phi, its solve), differentiable with respect to the field and to phi; the solve itself is not followed.

    In double precision whatever that of the field: with small eigenvalues conjugate gradients stall above 1e-5 in single, and
    failed solves among the heaviest configurations would bias.
    """
    field, phi = (x.astype(jnp.result_type(working_dtype(), x.dtype)) for x in (field, phi))
    fixed = jax.lax.stop_gradient((monomial.operator(field), monomial.mu, phi))
    solution, info = cg(shifted(*fixed[:2]), fixed[2], tol=target.tol, max_iterations=target.max_iterations)
    return monomial.value(field, phi, jax.lax.stop_gradient(solution)), info


def log_estimate(log_weight: Float[Array, "monomials draws"]) -> Float[Array, ""]:
    """The log of the product over monomials of the mean over draws, Eq. (46): an estimate of sum_i log det C_i^-1."""
    draws = log_weight.shape[1]
    return jnp.sum(jax.nn.logsumexp(log_weight, axis=1) - jnp.log(jnp.asarray(draws, working_dtype())))


def require_fitting(model: JointModel, target: JointTarget) -> None:
    """Raise ValueError unless there is one conditional per monomial."""
    if len(model.conditionals) != len(target.monomials):
        raise ValueError(
            f"the model has {len(model.conditionals)} conditional flows but the action {len(target.monomials)} monomials"
        )


def preconditioned(bound: AbstractLinearMap, monomial: Monomial, field: Field) -> Complex[Array, "size size"]:
    """A = D~^dagger C D~ as a dense matrix in double precision, for diagnostics on small lattices: O(size^3)."""
    dtype = jnp.result_type(working_dtype(), jnp.complex64)
    D, dirac = bound.matrix().astype(dtype), monomial.operator(field).matrix().astype(dtype)
    unit = jnp.eye(bound.size, dtype=dtype)
    M = dirac @ dirac.conj().T
    inverse_of_D = jnp.linalg.solve(M + jnp.asarray(monomial.mu, dtype) * unit, D)
    A = D.conj().T @ inverse_of_D
    if monomial.heavier is None:
        return A
    return D.conj().T @ D + jnp.asarray(monomial.heavier - monomial.mu, dtype) * A


class Spectrum(NamedTuple):
    """Of A = D~^dagger C D~: extreme eigenvalues, condition number, and log (E[w^2] / E[w]^2) of one draw, infinite where an
    eigenvalue is at most 1/2."""

    smallest: Float[Array, ""]
    largest: Float[Array, ""]
    condition: Float[Array, ""]
    log_second_moment: Float[Array, ""]


def spectrum_of(bound: AbstractLinearMap, monomial: Monomial, field: Field) -> Spectrum:
    """The spectrum of the preconditioned operator, by dense linear algebra."""
    A = preconditioned(bound, monomial, field)
    eigenvalues = jnp.linalg.eigvalsh((A + A.conj().T) / 2)
    smallest, largest = eigenvalues[0], eigenvalues[-1]
    safe = jnp.maximum(2 * eigenvalues - 1, jnp.finfo(eigenvalues.dtype).tiny)
    moment = jnp.where(smallest > 0.5, jnp.sum(2 * jnp.log(jnp.abs(eigenvalues)) - jnp.log(safe)), jnp.inf)
    return Spectrum(smallest, largest, largest / smallest, moment)
