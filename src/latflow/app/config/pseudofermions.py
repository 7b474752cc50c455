"""[pseudofermions]: the determinant estimated with pseudofermions that a conditional flow draws, in place of the exact one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, Strict

from latflow.app.config.base import NonNegative, NonNegativeFloat, Positive, PositiveFloat, Section
from latflow.app.config.fermions import are_dynamical

Masses = Annotated[tuple[float, ...], Strict(False)]


class NoPseudofermions(Section):
    """The determinant is computed exactly."""

    kind: Literal["none"]
    trains: ClassVar[bool] = False


class _Pseudofermions(Section):
    """Monomials and draws.

    `even_odd` preconditions; `hasenbusch` are the masses mu_1 < mu_2 < ... of the factorisation, lattice units squared, each of
    which adds a monomial. `draws` pseudofermions are made of every monomial for every configuration ("auto": as many as give
    the most effective samples per second in a pilot run), `arrangement` says how they relate. `train_draws` and `regulator`, a
    mass that bounds the action from above, are for training alone. Solves, in double precision, stop at the relative residual
    `tol`. `marginal` also computes the exact determinant of every proposal, to compare with (if not given, where its matrix has
    at most 512 rows)."""

    trains: ClassVar[bool] = False

    even_odd: bool = True
    hasenbusch: Masses = ()
    draws: Positive | Literal["auto"] = 1
    arrangement: Literal["independent", "orthogonal", "antithetic"] = "independent"
    train_draws: Positive = 1
    regulator: NonNegativeFloat = 1e-5
    tol: Annotated[float, Field(gt=0, lt=1)] = 1e-6
    max_iterations: Positive = 2000
    marginal: bool | None = None

    def problems(self, sections: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        if not all(0 < a < b for a, b in pairwise((*self.hasenbusch, float("inf")))):
            yield "hasenbusch", f"the masses must be positive and ascend, e.g. [0.01, 0.1], got {list(self.hasenbusch)}"
        elif self.hasenbusch and self.hasenbusch[0] <= self.regulator:
            yield "regulator", f"must be below the lightest mass, {self.hasenbusch[0]:g}, got {self.regulator:g}"
        fermions, theory, flow = sections.get("fermions"), sections.get("theory"), sections.get("flow")
        if not are_dynamical(fermions):
            yield "kind", 'there are no fermions whose determinant could be estimated: add [fermions], or use kind = "none"'
        elif fermions is not None and fermions.flavours != 2:
            yield "kind", f"one pseudofermion per monomial is for two flavours, not {fermions.flavours}"
        if self.even_odd and theory is not None and any(n % 2 for n in theory.lattice):
            yield "even_odd", f"needs even extents, not {list(theory.lattice)}"
        if flow is not None and flow.kind == "none":
            yield "kind", 'flow.kind = "none" proposes nothing; leave [pseudofermions] out or take the "identity" flow'


class Plain(_Pseudofermions):
    """Gaussian pseudofermions, without a flow."""

    kind: Literal["gaussian"]


Reach = NonNegative | Annotated[tuple[NonNegative, ...], Field(min_length=1), Strict(False)] | Literal["complete"]
Order = Literal["nested", "pairs", "natural"]


class Factorised(_Pseudofermions):
    """An incomplete block LU factorisation of the Dirac operator that keeps what is within `reach` of lattice distance, whose
    determinant is known: nothing to train. "complete" keeps everything, at the cost of the exact determinant.

    The sites are eliminated in the `order` "nested" (a hierarchy of coarser and coarser lattices, the finest first, each in
    2^Nd - 1 classes of sites; `reach` may then be a list, one for every class, the last for all further ones), "pairs" (even
    time slices first) or "natural" (slice after slice)."""

    kind: Literal["factorised"]
    reach: Reach = (4, 8, 10, 12, 16)
    order: Order = "nested"


class Network(_Pseudofermions):
    """Pseudofermion layers with parallel-transport convolutional networks (2207.08945, Sec. III C): `layers` of them, each of
    `n_pt` convolutions (6, without even/odd preconditioning 3, if not given) with `features` in between, whose coefficients
    come from periodic convolutions with `hidden` channels.

    `partition`: which components a layer updates: "spatial" (sites), "spin", both in turn ("alternating") or, in four
    dimensions, all of 2208.03832 ("rotating"). `coordinates` adds the constant inputs x_i mod 4. With a `reach` the layers are
    applied to the draws first and the incomplete factorisation of that reach afterwards."""

    trains = True
    kind: Literal["network"]
    layers: Positive = 8
    n_pt: Positive | None = None
    features: Positive = 2
    hidden: Annotated[tuple[Positive, ...], Strict(False)] = (16,)
    kernel_size: Positive = 3
    partition: Literal["spatial", "spin", "alternating", "rotating"] = "spatial"
    coordinates: bool = True
    gain: PositiveFloat = 0.5
    bias_std: NonNegativeFloat = 0.0
    remat: bool = False
    reach: Reach | Literal["none"] = "none"
    order: Order = "nested"

    def problems(self, sections: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        yield from super().problems(sections)
        theory = sections.get("theory")
        if theory is not None and theory.kind == "phi4":
            yield "kind", 'a scalar field transports nothing; use "gaussian" or "factorised"'
        multiple = {"alternating": 2, "rotating": 6}.get(self.partition, 1)
        if self.layers % multiple:
            yield (
                "layers",
                f'must be a multiple of {multiple}, the partitions that "{self.partition}" takes in turn, got {self.layers}',
            )
        if self.partition == "rotating" and theory is not None and len(theory.lattice) != 4:
            yield "partition", '"rotating" is for four dimensions; use "alternating"'
        if not self.hidden:
            yield "hidden", "at least one layer of channels is needed, e.g. [16]"
        if self.kernel_size % 2 == 0:
            yield "kernel_size", f"must be odd, got {self.kernel_size}"
        if self.even_odd and self.n_pt is not None and self.n_pt < 2:
            yield "n_pt", f"even sites see each other in two steps: 2 at least with even_odd, got {self.n_pt}"


Pseudofermions = Annotated[NoPseudofermions | Plain | Factorised | Network, Field(discriminator="kind")]
