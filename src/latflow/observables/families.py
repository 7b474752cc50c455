"""Observables that share the costly part of their evaluation: everything along one gradient flow, loops of smeared links.

A family is a function of one configuration that returns {name: value}, so that the flow is integrated, or the links are
smeared, once for all of its members.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from latflow.groups import AbstractGroup
from latflow.lattice import Geometry
from latflow.loops import wilson_loop
from latflow.observables.base import Field, Value
from latflow.observables.gauge import gauge, mean_wilson_loop
from latflow.observables.gradient_flow import energy_clover, energy_plaquette, gradient_flow, topological_charge_clover
from latflow.observables.smearing import Smearing


class AbstractFamily(abc.ABC):
    """Observables evaluated together."""

    @abc.abstractmethod
    def evaluate(self, group: AbstractGroup, geometry: Geometry, field: Field) -> Mapping[str, Value]:
        """{name: scalar or vector} of one configuration, in the precision of the field; pure."""

    @abc.abstractmethod
    def refusal(self, group: AbstractGroup, geometry: Geometry) -> str | None:
        """Why this family does not exist for such fields, None if it does."""


@dataclasses.dataclass(frozen=True)
class GradientFlow(AbstractFamily):
    """What is measured along one gradient flow, each a vector (times,):

    * `flow_energy_plaquette`, `flow_energy_clover`: t^2 E(t);
    * for SU(N) in four dimensions `flow_charge`, the clover charge Q(t), and `flow_charge2`, Q(t)^2.

    `times`, `step` and `tolerance` are in lattice units and as for `gradient_flow`. With a tolerance that cannot be met the
    values are nan. Raises ValueError for times that do not increase from above zero.
    """

    times: tuple[float, ...]
    step: float = 0.02
    tolerance: float | None = None

    def __post_init__(self) -> None:
        if not self.times or not np.all(np.diff(self.times, prepend=0.0) > 0):
            raise ValueError(f"flow times must be positive and increase, got {list(self.times)}")

    def evaluate(self, group: AbstractGroup, geometry: Geometry, field: Field) -> Mapping[str, Float[Array, " times"]]:
        def along(links: Field) -> dict[str, Float[Array, ""]]:
            found = {
                "flow_energy_plaquette": energy_plaquette(group, geometry, links),
                "flow_energy_clover": energy_clover(group, geometry, links),
            }
            if has_flow_charge(group, geometry):
                found["flow_charge"] = topological_charge_clover(group, geometry, links)
            return found

        values = gradient_flow(group, geometry, field, self.times, along, step=self.step, tolerance=self.tolerance).values
        for name in ("flow_energy_plaquette", "flow_energy_clover"):
            values[name] = jnp.square(jnp.asarray(self.times, values[name].dtype)) * values[name]
        if "flow_charge" in values:
            values["flow_charge2"] = jnp.square(values["flow_charge"])
        return values

    def refusal(self, group: AbstractGroup, geometry: Geometry) -> str | None:
        return None if gauge(group, geometry) else "the gradient flow is one of gauge fields in two or more dimensions"


@dataclasses.dataclass(frozen=True)
class SmearedLoops(AbstractFamily):
    """R x T Wilson loops of smeared links, Re Tr W / Nc averaged over sites and planes.

    If all links are smeared, `smeared_wilson_loop_RxT` is also averaged over both ways to lie in a plane, as `wilson_loop_RxT`
    is. With smearing in space alone only loops in planes with time are of use: `smeared_temporal_loop_RxT`, R links in space
    and T in time, for every R x T and T x R. Loops that do not fit into the lattice are left out.
    """

    smearing: Smearing
    loops: tuple[tuple[int, int], ...]

    def evaluate(self, group: AbstractGroup, geometry: Geometry, field: Field) -> Mapping[str, Float[Array, ""]]:
        links = self.smearing(group, geometry, field)
        if not self.smearing.spatial:
            fit = [(R, T) for R, T in self.loops if max(R, T) <= min(geometry.shape)]
            return {f"smeared_wilson_loop_{R}x{T}": mean_wilson_loop(group, geometry, links, R, T) for R, T in fit}
        ordered = dict.fromkeys(pair for R, T in self.loops for pair in ((R, T), (T, R)))
        time, space = geometry.shape[0], min(geometry.shape[1:])
        fit = [(R, T) for R, T in ordered if space >= R and time >= T]
        return {f"smeared_temporal_loop_{R}x{T}": _mean_temporal_loop(group, geometry, links, R, T) for R, T in fit}

    def refusal(self, group: AbstractGroup, geometry: Geometry) -> str | None:
        if not gauge(group, geometry):
            return "smearing is for gauge fields in two or more dimensions"
        if self.smearing.spatial and geometry.Nd < 3:
            return "smearing in space alone needs two directions of space, in two dimensions there is one"
        return None


def has_flow_charge(group: AbstractGroup, geometry: Geometry) -> bool:
    """Whether a charge is measured along the flow: SU(N) in four dimensions."""
    return gauge(group, geometry) and bool(group.colour_shape) and geometry.Nd == 4


def _mean_temporal_loop(group: AbstractGroup, geometry: Geometry, links: Field, R: int, T: int) -> Float[Array, ""]:
    loops = [jnp.mean(group.re_trace(wilson_loop(group, geometry, links, R, T, mu, 0))) for mu in range(1, geometry.Nd)]
    return sum(loops[1:], loops[0]) / (len(loops) * group.Nc)
