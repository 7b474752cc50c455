"""Which components of a spinor a pseudofermion layer moves, Eqs. (27)-(32) of 2207.08945."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Complex, Int

from latflow.dirac import Spinor, gamma
from latflow.lattice import Geometry
from latflow.nets.parallel_transport import mix

Index = Int[Array, ""]


class AbstractPartition(abc.ABC):
    """A static, hashable family of projectors, chosen among by an index that may be traced.

    A PTCN reads `inputs` features and returns `outputs`; A is a matrix of `block` rows, `block` dividing `outputs`.
    """

    geometry: Geometry
    even_odd: bool

    @property
    @abc.abstractmethod
    def count(self) -> int:
        """Number of projectors."""

    @property
    @abc.abstractmethod
    def inputs(self) -> int:
        """Frozen features."""

    @property
    @abc.abstractmethod
    def outputs(self) -> int:
        """Active features."""

    @property
    @abc.abstractmethod
    def block(self) -> int:
        """Rows of A."""

    @abc.abstractmethod
    def frozen(self, phi: Spinor, index: Index) -> Spinor:
        """phi_f as features `(inputs, Nc, *lattice)`."""

    @abc.abstractmethod
    def active(self, phi: Spinor, index: Index) -> Spinor:
        """phi_a as features `(outputs, Nc, *lattice)`; anything on sites that are not `sites`."""

    @abc.abstractmethod
    def insert(self, values: Spinor, index: Index) -> Spinor:
        """The spinor whose active features are `values` on the active sites, zero everywhere else."""

    @abc.abstractmethod
    def sites(self, index: Index) -> Bool[Array, "..."]:
        """Boolean array of the lattice shape: where there are active components."""


@dataclasses.dataclass(frozen=True)
class SpatialPartition(AbstractPartition):
    """All components on some sites, Eq. (29): one parity and then the other. On even/odd targets the even sites with x_mu even,
    then those with x_mu odd, for one direction mu after the other; in two dimensions both directions give the same sites, and
    one is left out. Raises ValueError for odd extents."""

    geometry: Geometry
    even_odd: bool

    def __post_init__(self) -> None:
        self.geometry.require_even("a spatial partition of pseudofermions")

    def masks(self) -> np.ndarray:
        """Boolean `(count, *lattice)`."""
        parity, x = self.geometry.parity(), self.geometry.coordinates()
        if not self.even_odd:
            return np.stack([parity == 0, parity == 1])
        directions = [0] if self.geometry.Nd == 2 else range(self.geometry.Nd)
        return np.stack([(parity == 0) & (x[mu] % 2 == r) for mu in directions for r in (0, 1)])

    @property
    def count(self) -> int:
        return len(self.masks())

    @property
    def inputs(self) -> int:
        return gamma.num_spins(self.geometry.Nd)

    outputs = block = inputs

    def frozen(self, phi: Spinor, index: Index) -> Spinor:
        return jnp.where(self.sites(index)[None, None], 0, phi)

    def active(self, phi: Spinor, index: Index) -> Spinor:
        return phi

    def insert(self, values: Spinor, index: Index) -> Spinor:
        return jnp.where(self.sites(index)[None, None], values, 0)

    def sites(self, index: Index) -> Bool[Array, "..."]:
        return jnp.asarray(self.masks())[index]


@dataclasses.dataclass(frozen=True)
class SpinPartition(AbstractPartition):
    """Half of the spin components on all sites: (1 +- gamma_mu)/2 with mu = 0, 1, 2, 3, 5 in turn in four dimensions,
    (1 +- sigma_z)/2 in two (Eq. (31)). Features are coefficients in an orthonormal basis of either half, A is a number."""

    geometry: Geometry
    even_odd: bool

    def bases(self) -> tuple[np.ndarray, np.ndarray]:
        """Complex `(count, Ns, Ns/2)`: orthonormal columns that span the active half, and those of the frozen one."""
        Nd = self.geometry.Nd
        half = gamma.num_spins(Nd) // 2
        one, zero = np.eye(half), np.zeros((half, half))
        # the eigenvectors of gamma_mu with eigenvalue s are (1, s B^dagger) / sqrt 2
        pairs = [] if Nd == 2 else [[np.concatenate([one, s * B.conj().T]) / 2**0.5 for s in (1, -1)] for B in gamma.blocks(Nd)]
        pairs.append([np.concatenate([one, zero]), np.concatenate([zero, one])])
        plus, minus = (np.stack(half) for half in zip(*pairs, strict=True))
        both = np.stack([plus, minus], 1), np.stack([minus, plus], 1)
        active, frozen = (b.reshape(-1, *b.shape[2:]).astype(complex) for b in both)
        return active, frozen

    @property
    def count(self) -> int:
        return len(self.bases()[0])

    @property
    def inputs(self) -> int:
        return gamma.num_spins(self.geometry.Nd) // 2

    outputs = inputs

    @property
    def block(self) -> int:
        return 1

    def frozen(self, phi: Spinor, index: Index) -> Spinor:
        return _spin(jnp.asarray(self.bases()[1].conj().swapaxes(1, 2), phi.dtype)[index], phi)

    def active(self, phi: Spinor, index: Index) -> Spinor:
        return _spin(jnp.asarray(self.bases()[0].conj().swapaxes(1, 2), phi.dtype)[index], phi)

    def insert(self, values: Spinor, index: Index) -> Spinor:
        out = _spin(jnp.asarray(self.bases()[0], values.dtype)[index], values)
        return jnp.where(self.sites(index)[None, None], out, 0) if self.even_odd else out

    def sites(self, index: Index) -> Bool[Array, "..."]:
        parity = self.geometry.parity()
        return jnp.asarray(parity == 0 if self.even_odd else parity >= 0)


# Which kinds of layers follow each other and how many of each; every kind counts through its own projectors.
PATTERNS: dict[str, tuple[tuple[Callable[[Geometry, bool], AbstractPartition], int], ...]] = {
    "spatial": ((SpatialPartition, 1),),
    "spin": ((SpinPartition, 1),),
    "alternating": ((SpatialPartition, 1), (SpinPartition, 1)),
    "rotating": ((SpatialPartition, 1), (SpinPartition, 5)),
}


def _spin(matrix: Complex[Array, "n k"], phi: Spinor) -> Spinor:
    return mix(matrix.reshape(*matrix.shape, *[1] * (phi.ndim - 2)), phi)
