"""[theory] and [fermions]: actions."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import jax.numpy as jnp

from latflow.actions import AbstractAction, Determinant, Phi4, WilsonGauge
from latflow.app.config import Config
from latflow.app.config import fermions as cd
from latflow.app.config import theory as ct
from latflow.dirac import AbstractFermion, StaggeredYukawa, WilsonFermion, WilsonYukawa
from latflow.exact import exact_values
from latflow.groups import SUN, U1
from latflow.lattice import Geometry

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
    return with_determinant(config, build_boson(config))


def with_determinant(config: Config, boson: AbstractAction) -> AbstractAction:
    """`boson` with the exact determinant of [fermions], if there are any."""
    fermion = build_fermion(config)
    return boson if fermion is None else boson + Determinant(fermion, config.fermions.flavours)  # type: ignore[union-attr]


def at_coupling(action: AbstractAction, beta: float) -> WilsonGauge:
    """The Wilson action on the fields of `action` at another coupling."""
    return WilsonGauge(action.geometry, action.group, beta)


def known_values(action: AbstractAction, names: Iterable[str] = ()) -> dict[str, Any]:
    """{name: exact expectation value} of what is known in closed form, see `exact.exact_values`; nothing with fermions."""
    if isinstance(action, Phi4):
        return exact_values(action.group, action.geometry, names, m2=float(action.m2), lam=float(action.lam))
    if isinstance(action, WilsonGauge):
        return exact_values(action.group, action.geometry, names, beta=float(action.beta))
    return {}
