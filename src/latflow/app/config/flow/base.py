"""What every [flow] table has in common."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator

from latflow.app.config.base import Section


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
