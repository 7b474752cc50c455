"""[pseudofermions]: conditional flows, and what they are weighed against."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import PRNGKeyArray

from latflow.actions import Monomial, monomials
from latflow.actions.determinant import matrix_size
from latflow.app.builders.theory import Setting, build_boson, build_fermion
from latflow.app.config import Config
from latflow.app.config import pseudofermions as cq
from latflow.dirac import AbstractFermion
from latflow.flows import (
    AbstractConditional,
    IdentityConditional,
    IncompleteFactor,
    Product,
    PseudofermionFlow,
)
from latflow.models import (
    FlowModel,
    JointModel,
    JointTarget,
    Model,
)
from latflow.nets import PlaquetteContext

STREAM = 6  # of the run's seed; those of the stages are in `stages.context`
_AFFORDABLE = 512  # rows of a matrix whose determinant is computed for comparison without being asked for


def build_target(config: Config, training: bool = False) -> JointTarget | None:
    """What a joint model is weighed against, or trained towards; None without [pseudofermions]."""
    chosen, fermion = config.pseudofermions, build_fermion(config)
    if isinstance(chosen, cq.NoPseudofermions) or fermion is None:
        return None
    regulator = chosen.regulator if training else 0.0
    draws = chosen.train_draws if training else 1 if chosen.draws == "auto" else chosen.draws
    factors = monomials(fermion, chosen.hasenbusch, regulator=regulator, even_odd=chosen.even_odd)
    return JointTarget(build_boson(config), factors, draws, chosen.arrangement, chosen.tol, chosen.max_iterations)


def has_exact_determinant(config: Config) -> bool:
    """Whether the exact determinant is computed beside the estimated one."""
    chosen, fermion = config.pseudofermions, build_fermion(config)
    if isinstance(chosen, cq.NoPseudofermions) or fermion is None:
        return False
    return matrix_size(fermion) <= _AFFORDABLE if chosen.marginal is None else chosen.marginal


def _network(chosen: Any, at: Setting, fermion: AbstractFermion, monomial: Monomial, channels: int, key: PRNGKeyArray) -> Any:
    layers = PseudofermionFlow(
        fermion.group,
        at.geometry,
        channels,
        chosen.layers,
        key=key,
        partition=chosen.partition,
        even_odd=chosen.even_odd,
        n_pt=chosen.n_pt,
        H=chosen.features,
        kernel_size=chosen.kernel_size,
        boundary=fermion.boundary,  # type: ignore[attr-defined]
        gain=chosen.gain,
        bias_std=chosen.bias_std,
        rematerialise=chosen.remat,
        dtype=at.real_dtype,
    )
    return layers if chosen.reach == "none" else Product((_factor(chosen, monomial), layers))


def _factor(chosen: Any, monomial: Monomial) -> IncompleteFactor:
    return IncompleteFactor(monomial, None if chosen.reach == "complete" else chosen.reach, chosen.order)


# (section, setting, fermion, monomial, channels of the trunk, key) -> the conditional of that monomial
CONDITIONALS: dict[type, Callable[..., AbstractConditional]] = {
    cq.Plain: lambda chosen, at, fermion, monomial, channels, key: IdentityConditional(fermion, chosen.even_odd),
    cq.Factorised: lambda chosen, at, fermion, monomial, channels, key: _factor(chosen, monomial),
    cq.Network: _network,
}


def with_pseudofermions(config: Config, marginal: FlowModel, at: Setting) -> Model:
    chosen, target = config.pseudofermions, build_target(config)
    if isinstance(chosen, cq.NoPseudofermions) or target is None:
        return marginal
    key, trunk = jax.random.fold_in(jax.random.key(config.seed), STREAM), None
    if isinstance(chosen, cq.Network):
        options: dict[str, Any] = {"coordinates": chosen.coordinates, "kernel_size": chosen.kernel_size}
        options |= {"gain": chosen.gain, "bias_std": chosen.bias_std, "dtype": at.real_dtype}
        trunk = PlaquetteContext(target.group, at.geometry, chosen.hidden, key=jax.random.fold_in(key, 0), **options)
    build, channels = CONDITIONALS[type(chosen)], 0 if trunk is None else trunk.channels
    conditionals = tuple(
        build(chosen, at, monomial.fermion, monomial, channels, jax.random.fold_in(key, i + 1))
        for i, monomial in enumerate(target.monomials)
    )
    trainable = bool(jax.tree.leaves(marginal.partition()[0]))
    stage = config.train.stage if trainable else "conditional"
    return JointModel(marginal, trunk, conditionals, stage)
