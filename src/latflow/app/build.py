"""From configuration to objects. A new kind of theory, prior, flow or baseline is one class in `config` and one row here."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from latflow.actions import AbstractAction, Determinant, Monomial, Phi4, WilsonGauge, monomials
from latflow.actions.determinant import matrix_size
from latflow.app.config import Config
from latflow.app.config import baseline as cb
from latflow.app.config import fermions as cd
from latflow.app.config import flow as cf
from latflow.app.config import prior as cp
from latflow.app.config import pseudofermions as cq
from latflow.app.config import theory as ct
from latflow.dirac import AbstractFermion, StaggeredYukawa, WilsonFermion, WilsonYukawa
from latflow.errors import LatflowError
from latflow.exact import FreeField, TorusSUNSampler, TorusU1Sampler, exact_values
from latflow.flows import (
    AbstractBijection,
    AbstractConditional,
    ContinuousFlow,
    Identity,
    IdentityConditional,
    IncompleteFactor,
    Product,
    PseudofermionFlow,
    ResidualSweep,
    Scan,
    SUNLoopTerms,
    U1LoopTerms,
    scalar_coupling_flow,
    sun_coupling_flow,
    u1_coupling_flow,
)
from latflow.groups import SUN, U1, RealLine
from latflow.kernels import BOSONS, HMC, AbstractKernel, Level, PseudofermionHMC, heatbath_sweep
from latflow.lattice import Geometry
from latflow.loops.features import features_of
from latflow.models import (
    AbstractPrior,
    ExactPrior,
    Filter,
    FlowModel,
    FreeFieldPrior,
    HaarPrior,
    JointModel,
    JointTarget,
    Model,
    NormalPrior,
    ResampledPrior,
    SequentialHeatbath,
    StoredPrior,
)
from latflow.nets import PlaquetteContext

_AFFORDABLE = 512  # rows of a matrix whose determinant is computed for comparison without being asked for

REAL = {"single": jnp.float32, "double": jnp.float64}
COMPLEX = {"single": jnp.complex64, "double": jnp.complex128}


@dataclasses.dataclass(frozen=True)
class Setting:
    """What builders know: the configuration, the lattice, the dtype of fields and of network parameters, and the
    configurations (n, *field) of a stored prior, or the tuned coupling and filter of an exact one."""

    config: Config
    geometry: Geometry
    field_dtype: Any
    real_dtype: Any
    stored: Any = None


def _phi4(theory: Any, at: Setting) -> AbstractAction:
    if theory.kappa is not None:
        return Phi4.from_hopping(at.geometry, theory.kappa, theory.lam)[0]
    return Phi4(at.geometry, theory.m2, theory.lam)


THEORIES: dict[type, Callable[[Any, Setting], AbstractAction]] = {
    ct.U1Theory: lambda theory, at: WilsonGauge(at.geometry, U1(), theory.beta),
    ct.SUNTheory: lambda theory, at: WilsonGauge(at.geometry, SUN(theory.Nc), theory.beta),
    ct.Phi4Theory: _phi4,
}


FERMIONS: dict[type, Callable[[Any, AbstractAction], AbstractFermion]] = {
    cd.WilsonFermions: lambda f, boson: WilsonFermion(boson.geometry, boson.group, f.kappa, f.angles, f.csw),
    cd.WilsonYukawaFermions: lambda f, boson: WilsonYukawa(
        boson.geometry, 1 / (2 * boson.geometry.Nd + 2 * f.mass), f.g, f.angles
    ),
    cd.StaggeredYukawaFermions: lambda f, boson: StaggeredYukawa(boson.geometry, f.mass, f.g, f.angles),
}


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


PRIORS: dict[type, Callable[[Any, Setting, AbstractAction], AbstractPrior]] = {
    cp.HaarPrior: lambda prior, at, action: HaarPrior(at.geometry, action.group, at.field_dtype),
    cp.NormalPrior: lambda prior, at, action: NormalPrior(at.geometry, prior.scale, at.field_dtype),
    cp.FreePrior: lambda prior, at, action: FreeFieldPrior(at.geometry, prior.m2, at.field_dtype),
    cp.ExactPrior: lambda prior, at, action: _exact_prior(prior, at, action),
    cp.SequentialHeatbathPrior: _sequential_heatbath,
    cp.EnsemblePrior: lambda prior, at, action: StoredPrior(at.stored, at_coupling(action, prior.beta)),
    cp.FilesPrior: lambda prior, at, action: StoredPrior(at.stored, at_coupling(action, prior.beta)),
}


def at_coupling(action: AbstractAction, beta: float) -> WilsonGauge:
    """The Wilson action on the fields of `action` at another coupling."""
    return WilsonGauge(action.geometry, action.group, beta)


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


def _hmc(b: cb.HMCBaseline, config: Config) -> AbstractKernel:
    fermion = build_fermion(config)
    if fermion is None or b.fermions == "determinant":
        return HMC(build_action(config), b.tau, b.num_steps, b.integrator, jitter=b.jitter)
    monomials = tuple(range(len(b.hasenbusch) + 1))
    if b.gauge_steps:
        levels = [Level(monomials, b.num_steps, b.integrator), Level((BOSONS,), b.gauge_steps, b.integrator)]
    else:
        levels = [Level((*monomials, BOSONS), b.num_steps, b.integrator)]
    return PseudofermionHMC(
        build_boson(config),
        fermion,
        b.hasenbusch,
        b.tau,
        levels=levels,
        jitter=b.jitter,
        flavours=config.fermions.flavours,  # type: ignore[union-attr]
        max_iterations=b.max_iterations,
    )


BASELINES: dict[type, Callable[[Any, Config], AbstractKernel]] = {
    cb.HMCBaseline: _hmc,
    cb.HeatbathBaseline: lambda b, config: heatbath_sweep(build_action(config), b.overrelaxation),
}


def setting(config: Config, stored: Any = None) -> Setting:
    """What the builders need to know."""
    complex_links = isinstance(config.theory, ct.SUNTheory)
    field_dtype = (COMPLEX if complex_links else REAL)[config.precision]
    return Setting(config, Geometry(config.theory.lattice), field_dtype, REAL[config.precision], stored)


def build_boson(config: Config) -> AbstractAction:
    """The action of [theory] without fermions."""
    return THEORIES[type(config.theory)](config.theory, setting(config))


def build_fermion(config: Config) -> AbstractFermion | None:
    """What [fermions] describes, None for "none"."""
    if isinstance(config.fermions, cd.NoFermions):
        return None
    return FERMIONS[type(config.fermions)](config.fermions, build_boson(config))


def build_action(config: Config) -> AbstractAction:
    """The action of [theory], with the exact determinant of [fermions]. Raises LatflowError (`TooLarge`) where that would not
    fit into memory."""
    boson, fermion = build_boson(config), build_fermion(config)
    return boson if fermion is None else boson + Determinant(fermion, config.fermions.flavours)  # type: ignore[union-attr]


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


def _joint(config: Config, marginal: FlowModel, at: Setting) -> Model:
    chosen, target = config.pseudofermions, build_target(config)
    if isinstance(chosen, cq.NoPseudofermions) or target is None:
        return marginal
    key, trunk = jax.random.fold_in(jax.random.key(config.seed), 1), None
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
        return _joint(config, marginal, at)
    except ValueError as error:
        raise LatflowError(f"the {config.pseudofermions.kind} pseudofermions cannot be built: {error}") from error


def exact_samples(config: Config, action: AbstractAction) -> AbstractPrior | None:
    """Exact samples of the theory itself, where it is solved; None elsewhere."""
    solved = config.theory.has_exact_samples and isinstance(config.fermions, cd.NoFermions)
    return _exact_samples(action, setting(config)) if solved else None


def build_baseline(config: Config) -> AbstractKernel:
    """The kernel of [baseline], not tuned yet. Raises KeyError for "none", which has none."""
    return BASELINES[type(config.baseline)](config.baseline, config)


def start_field(config: Config, action: AbstractAction, start: str, key: PRNGKeyArray) -> Any:
    """Where a chain starts: "hot" is Haar links or Gaussian sites, "cold" the identity or zero."""
    at = setting(config)
    if start == "cold":
        points = action.field_shape[len(action.group.colour_shape) :]
        return action.group.identity(points, at.field_dtype)
    if isinstance(action.group, RealLine):
        return NormalPrior(at.geometry, 1.0, at.field_dtype).sample(key)
    return HaarPrior(at.geometry, action.group, at.field_dtype).sample(key)


def known_values(action: AbstractAction, names: Iterable[str] = ()) -> dict[str, Any]:
    """{name: exact expectation value} of what is known in closed form, see `exact.exact_values`; nothing with fermions."""
    if isinstance(action, Phi4):
        return exact_values(action.group, action.geometry, names, m2=float(action.m2), lam=float(action.lam))
    if isinstance(action, WilsonGauge):
        return exact_values(action.group, action.geometry, names, beta=float(action.beta))
    return {}
