"""What every [flow] table has in common."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field

from latflow.app.config.base import Integers, NonNegative, Section


class FlowSection(Section):
    """Flow tables name the theories they fit and probe the lattice they are given."""

    fits: ClassVar[tuple[str, ...]]
    advice: ClassVar[str] = ""

    def problems(self, sections: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        theory = sections.get("theory")
        if theory is None:
            return
        if theory.kind not in self.fits:
            reason = f"the {self.kind} flow does not fit {theory.kind}; it is for {' and '.join(self.fits)}"  # type: ignore[attr-defined]
            yield "kind", reason + (f": {self.advice}" if self.advice else "")
        else:
            yield from self.lattice_problems(tuple(theory.lattice))

    def lattice_problems(self, lattice: tuple[int, ...]) -> Iterator[tuple[str, str]]:
        """(key, reason) for a lattice that the masks of this flow cannot cover."""
        yield from ()


def _odd(size: int) -> int:
    if size < 1 or size % 2 == 0:
        raise ValueError(f"a centred periodic convolution needs an odd, positive kernel size, got {size}")
    return size


KernelSize = Annotated[int, AfterValidator(_odd)]


class LinkCoupling(FlowSection):
    """What coupling layers of links have in common: which links are active when, and the networks."""

    blocks: NonNegative = 4
    mask: Literal["stripes", "diagonal", "coarse-to-fine"] = "stripes"
    width: Annotated[int, Field(ge=2)] = 4
    conv: Integers = (16,)
    hidden: Integers = (32,)
    kernel_size: KernelSize = 3
    remat: bool = False

    def lattice_problems(self, lattice: tuple[int, ...]) -> Iterator[tuple[str, str]]:
        if len(lattice) < 2 or min(lattice) < 2:
            return  # reported by the theory
        from latflow.lattice import Geometry, coarse_to_fine, diagonal, stripes

        if self.blocks == 0 and self.mask != "coarse-to-fine":
            yield "blocks", 'must be positive, unless mask = "coarse-to-fine" makes layers of its own'
        geometry = Geometry(lattice)
        if self.mask == "stripes" and geometry.Nd != 2:
            yield "mask", f'stripes are masks of two dimensions, not of {geometry.Nd}; use "diagonal"'
            return
        try:
            if self.mask == "coarse-to-fine":
                coarse_to_fine(geometry)
            local = diagonal if self.mask == "diagonal" or geometry.Nd != 2 else stripes
            for mu in range(geometry.Nd if self.blocks else 0):
                local(geometry, mu, self.width)
        except ValueError as error:
            yield "mask", str(error)
