"""[prior] and [flow], with [pseudofermions] on top: models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import PRNGKeyArray

from latflow.actions import AbstractAction, Phi4
from latflow.app.builders.pseudofermions import with_pseudofermions
from latflow.app.builders.theory import Setting, at_coupling, build_boson, setting, with_determinant
from latflow.app.config import Config
from latflow.app.config import fermions as cd
from latflow.app.config import flow as cf
from latflow.app.config import prior as cp
from latflow.app.config import theory as ct
from latflow.errors import LatflowError
from latflow.exact import FreeField, TorusSUNSampler, TorusU1Sampler
from latflow.flows import (
    AbstractBijection,
    ContinuousFlow,
    Identity,
    ResidualSweep,
    Scan,
    SUNLoopTerms,
    U1LoopTerms,
    scalar_coupling_flow,
    sun_coupling_flow,
    u1_coupling_flow,
)
from latflow.groups import SUN, RealLine
from latflow.loops.features import features_of
from latflow.models import (
    AbstractPrior,
    ExactPrior,
    Filter,
    FlowModel,
    FreeFieldPrior,
    HaarPrior,
    Model,
    NormalPrior,
    ResampledPrior,
    SequentialHeatbath,
    StoredPrior,
)


def _exact_samples(action: AbstractAction, at: Setting, beta: float | None = None) -> AbstractPrior:
    """The theory of `action`, at another coupling if `beta` is given, as a prior."""
    if isinstance(action, Phi4):
        return ExactPrior(FreeField(at.geometry, float(action.m2), at.field_dtype))
    coupling = float(action.beta) if beta is None else beta  # type: ignore[attr-defined]
    if isinstance(action.group, SUN):
        return ExactPrior(TorusSUNSampler(at.geometry, action.group, coupling, at.field_dtype))
    return ExactPrior(TorusU1Sampler(at.geometry, coupling, at.field_dtype))


def exact_prior(config: Config, beta: float, filter: Filter | None = None) -> AbstractPrior:
    """The exact sampler at a coupling, resampled with a learned filter if there is one."""
    at, boson = setting(config), build_boson(config)
    prior = _exact_samples(boson, at, beta)
    return prior if filter is None else ResampledPrior(prior, features_of(boson.group, boson.geometry), filter)


def _exact_prior(prior: Any, at: Setting, action: AbstractAction) -> AbstractPrior:
    if prior.is_tuned:
        return exact_prior(at.config, at.stored.beta, at.stored.filter)
    return _exact_samples(action, at, prior.beta)


def _sequential_heatbath(prior: Any, at: Setting, action: AbstractAction) -> AbstractPrior:
    beta = float(action.beta) if prior.beta is None else prior.beta  # type: ignore[attr-defined]
    try:
        return SequentialHeatbath(at.geometry, action.group, beta, prior.area, at.field_dtype)
    except ValueError as error:
        raise LatflowError(f"the {prior.kind} prior cannot be built: {error}") from error


def _action_of_files(prior: Any, at: Setting, action: AbstractAction) -> AbstractAction:
    boson = at_coupling(action, prior.beta)
    return with_determinant(at.config, boson) if prior.dynamical else boson


PRIORS: dict[type, Callable[[Any, Setting, AbstractAction], AbstractPrior]] = {
    cp.HaarPrior: lambda prior, at, action: HaarPrior(at.geometry, action.group, at.field_dtype),
    cp.NormalPrior: lambda prior, at, action: NormalPrior(at.geometry, prior.scale, at.field_dtype),
    cp.FreePrior: lambda prior, at, action: FreeFieldPrior(at.geometry, prior.m2, at.field_dtype),
    cp.ExactPrior: lambda prior, at, action: _exact_prior(prior, at, action),
    cp.SequentialHeatbathPrior: _sequential_heatbath,
    cp.EnsemblePrior: lambda prior, at, action: StoredPrior(at.stored, at_coupling(action, prior.beta)),
    cp.FilesPrior: lambda prior, at, action: StoredPrior(at.stored, _action_of_files(prior, at, action)),
}


def _u1_coupling(flow: cf.U1CouplingFlow, at: Setting, key: PRNGKeyArray) -> AbstractBijection:
    return u1_coupling_flow(
        at.geometry,
        key=key,
        mask=flow.mask,
        blocks=flow.blocks,
        width=flow.width,
        loop=flow.loop,
        bins=flow.bins,
        conv=flow.conv,
        hidden=flow.hidden,
        kernel_size=flow.kernel_size,
        rematerialise=flow.remat,
        dtype=at.real_dtype,
    )


def _sun_coupling(flow: cf.SUNCouplingFlow, at: Setting, key: PRNGKeyArray) -> AbstractBijection:
    return sun_coupling_flow(
        at.geometry,
        SUN(at.config.theory.Nc),  # type: ignore[union-attr]
        key=key,
        mask=flow.mask,
        layers=flow.layers,
        blocks=flow.blocks,
        depth=flow.depth,
        width=flow.width,
        bins=flow.bins,
        conv=flow.conv,
        hidden=flow.hidden,
        kernel_size=flow.kernel_size,
        rounds=flow.rounds,
        limit=flow.limit,
        rematerialise=flow.remat,
        dtype=at.real_dtype,
    )


def _scalar_coupling(flow: cf.ScalarCouplingFlow, at: Setting, key: PRNGKeyArray) -> AbstractBijection:
    return scalar_coupling_flow(
        at.geometry,
        key=key,
        blocks=flow.blocks,
        transform=flow.transform,
        hidden=flow.hidden,
        kernel_size=flow.kernel_size,
        z2=flow.z2,
        bins=flow.bins,
        bound=flow.bound,
        rematerialise=flow.remat,
        dtype=at.real_dtype,
    )


def _loop_terms(flow: cf.ContinuousFlow, at: Setting) -> U1LoopTerms | SUNLoopTerms:
    if isinstance(theory := at.config.theory, ct.SUNTheory):
        return SUNLoopTerms(at.geometry, SUN(theory.Nc), flow.loops)
    return U1LoopTerms(at.geometry)


def _residual_sweeps(flow: cf.ResidualSweepsFlow, at: Setting, key: PRNGKeyArray) -> AbstractBijection:
    group = SUN(at.config.theory.Nc)  # type: ignore[union-attr]
    options: dict[str, Any] = {"rounds": flow.rounds, "width": flow.width, "limit": flow.limit, "eta": flow.eta}
    return Scan([ResidualSweep(at.geometry, group, dtype=at.real_dtype, **options) for _ in range(flow.sweeps)], True)


FLOWS: dict[type, Callable[[Any, Setting, PRNGKeyArray], AbstractBijection]] = {
    cf.IdentityFlow: lambda flow, at, key: Identity(),
    cf.U1CouplingFlow: _u1_coupling,
    cf.SUNCouplingFlow: _sun_coupling,
    cf.ContinuousFlow: lambda flow, at, key: ContinuousFlow(
        _loop_terms(flow, at), steps=flow.steps, modes=flow.modes, dtype=at.real_dtype
    ),
    cf.ResidualSweepsFlow: _residual_sweeps,
    cf.ScalarCouplingFlow: _scalar_coupling,
}


def build_model(config: Config, stored: Any = None) -> Model:
    """The untrained flow on its prior, with the conditional flows of [pseudofermions]; parameters depend on the seed. `stored`
    is what a prior needs that was prepared: the configurations (n, *field) of an ensemble, the coupling and filter of a tuned
    one. Raises LatflowError for a flow that does not fit."""
    at = setting(config, stored)
    prior = PRIORS[type(config.prior)](config.prior, at, build_boson(config))
    key = jax.random.fold_in(jax.random.key(config.seed), 0)
    try:
        marginal = FlowModel(prior, FLOWS[type(config.flow)](config.flow, at, key))
    except ValueError as error:
        raise LatflowError(f"the {config.flow.kind} flow cannot be built: {error}") from error
    try:
        return with_pseudofermions(config, marginal, at)
    except ValueError as error:
        raise LatflowError(f"the {config.pseudofermions.kind} pseudofermions cannot be built: {error}") from error


def exact_samples(config: Config, action: AbstractAction) -> AbstractPrior | None:
    """Exact samples of the theory itself, where it is solved; None elsewhere."""
    solved = config.theory.has_exact_samples and isinstance(config.fermions, cd.NoFermions)
    return _exact_samples(action, setting(config)) if solved else None


def start_field(config: Config, action: AbstractAction, start: str, key: PRNGKeyArray) -> Any:
    """Where a chain starts: "hot" is Haar links or Gaussian sites, "cold" the identity or zero."""
    at = setting(config)
    if start == "cold":
        points = action.field_shape[len(action.group.colour_shape) :]
        return action.group.identity(points, at.field_dtype)
    if isinstance(action.group, RealLine):
        return NormalPrior(at.geometry, 1.0, at.field_dtype).sample(key)
    return HaarPrior(at.geometry, action.group, at.field_dtype).sample(key)
