"""A prior for gauge theories at strong coupling: links drawn one after the other, each from its heatbath distribution."""

from __future__ import annotations

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float, Inexact, PRNGKeyArray

from latflow.exact.boltzmann import Surroundings, boltzmann_matrix, quaternion_part
from latflow.exact.one_link import LARGEST, draw_su3, has_one_link, log_one_link
from latflow.groups import SUN, U1, AbstractGroup, wrap
from latflow.kernels.von_mises import von_mises
from latflow.lattice import Geometry
from latflow.models.closed_loops import Steps, closed_loops, one_step, parallel_steps
from latflow.models.prior import AbstractPrior
from latflow.precision import double_sum, working_dtype

Links = Inexact[Array, "..."]
Sums = Complex[Array, "..."]


class SequentialHeatbath(AbstractPrior):
    """q(U) = prod_l exp(Re Tr U_l M_l) / z(M_l) on links of U(1), SU(2) or SU(3) in two or more dimensions, with
    z(M) = int dU exp(Re Tr U M) and M_l a sum of staples of links drawn before l.

    M_l holds the staples of all plaquettes that l closes, times beta/Nc, so that each plaquette enters once. With `area` = 1
    that is all, and -S - log q = sum_l log z(M_l), which varies with the pairs of plaquettes that have the same last link. From
    `area` = 2 on, the loops formed by these pairs are part of M as well, with the coupling that the strong-coupling expansion
    gives them (see `closed_loops`), and the leading variation is gone; larger areas do the same for what is left. Whatever M_l
    is, q is normalised and its draws are independent: `area` decides how close q comes to exp(-S), and the cost.

    Links have shape `(*colour, Nd, *lattice)`. `log_density` takes any configuration and can be differentiated. Under `vmap`
    the attempts of all SU(3) draws share one pool (see `exact.rejection`), so that a draw depends on the keys of all.

    Raises ValueError for other groups, for fewer than two dimensions, for an extent of 1, unless beta is finite and >= 0 and
    area is at least 1, and for SU(3) if a link may close loops whose couplings sum to more than the one-link integral allows.
    """

    geometry: Geometry = eqx.field(static=True)
    group: AbstractGroup = eqx.field(static=True)
    beta: float = eqx.field(static=True)
    area: int = eqx.field(static=True)
    dtype: Any = eqx.field(static=True)

    def __init__(self, geometry: Geometry, group: AbstractGroup, beta: float, area: int = 2, dtype=None):
        if not has_one_link(group):
            raise ValueError(f"links of U(1), SU(2) and SU(3) can be drawn one after the other, not of {group}; use Haar links")
        if geometry.Nd < 2:
            raise ValueError(f"gauge links need at least two dimensions, got the lattice {geometry.shape}")
        if not (math.isfinite(beta) and beta >= 0):
            raise ValueError(f"the sequential heatbath needs a finite beta >= 0, got {beta}")
        if area < 1:
            raise ValueError(f"the sequential heatbath needs an area of at least one plaquette, got {area}")
        default = working_dtype() if isinstance(group, U1) else jnp.result_type(working_dtype(), jnp.complex64)
        self.geometry, self.group, self.beta, self.area = geometry, group, float(beta), int(area)
        self.dtype = jax.dtypes.canonicalize_dtype(default if dtype is None else dtype)
        if isinstance(group, SUN) and group.Nc == 3 and self._largest > LARGEST:
            raise ValueError(
                f"the couplings of the loops closed by one link sum to {self._largest:.3g}, the SU(3) integral is summed"
                f" up to {LARGEST:g}: take a smaller beta or a smaller area"
            )

    def sample(self, key: PRNGKeyArray) -> Links:
        """One configuration, independent of all others."""
        steps, group, number = parallel_steps(*self._theory), self.group, self._number
        free_key, key = jax.random.split(key)
        matrices = (slice(None),) * len(group.colour_shape)
        both = jnp.zeros((*group.colour_shape, 2 * number), self.dtype)  # every link forward, then every link backward

        def put(both: Links, links: Array, new: Links) -> Links:
            both = both.at[(*matrices, links)].set(new, mode="drop")
            return both.at[(*matrices, links + number)].set(group.adjoint(new), mode="drop")

        both = put(both, jnp.asarray(steps.free), group.haar(free_key, steps.free.shape, self.dtype))

        def draw(both: Links, step: Any) -> tuple[Links, None]:
            key, links, *loops = step
            M = self._sums(both, links.shape[0], loops)
            return put(both, links, self._draw(key, M)), None

        padded = np.where(steps.links < 0, 2 * number, steps.links)
        keys = jax.random.split(key, len(steps.links))
        tables = (keys, jnp.asarray(padded), *(jax.tree.map(jnp.asarray, part) for part in self._tables(steps)))
        both = jax.lax.scan(draw, both, tables)[0]
        return both[..., :number].reshape(*group.colour_shape, self.geometry.Nd, *self.geometry.shape)

    def log_density(self, x: Links) -> Float[Array, ""]:
        """log q with respect to Haar measure, all links at once."""
        group, number, steps = self.group, self._number, one_step(*self._theory)
        forward = x.reshape(*group.colour_shape, number)
        both = jnp.concatenate([forward, group.adjoint(forward)], axis=-1)
        links = steps.links[0]
        M = self._sums(both, links.size, [jax.tree.map(lambda a: a[0], part) for part in self._tables(steps)])
        U = group.embed(jnp.take(forward, links, axis=-1, mode="clip"))
        product = U * (M if isinstance(group, U1) else jnp.swapaxes(M, 0, 1))
        return double_sum(product.real) - double_sum(log_one_link(group, M, self._largest))

    def _draw(self, key: PRNGKeyArray, M: Sums) -> Links:
        if isinstance(self.group, U1):
            return wrap(von_mises(key, jnp.abs(M)) - jnp.angle(M))
        if self.group.Nc == 2:
            return boltzmann_matrix(key, Surroundings(*quaternion_part(M)))[0]
        return draw_su3(key, M)[0]

    def _sums(self, both: Links, width: int, loops: Any) -> Sums:
        """M of the `width` links of one step."""
        group = self.group
        total = jnp.zeros_like(group.embed(both[..., :1]), shape=(*group.colour_shape, width))
        for staples, couplings, owners in loops:
            path = jnp.take(both, staples[:, 0], axis=-1, mode="clip")
            for k in range(1, staples.shape[1]):
                path = group.multiply(path, jnp.take(both, staples[:, k], axis=-1, mode="clip"))
            weighted = group.embed(path) * jnp.asarray(couplings, total.real.dtype).reshape(*[1] * (total.ndim - 1), -1)
            total = total.at[..., owners].add(weighted)
        return total

    def _tables(self, steps: Steps) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """(paths, couplings, owners) for every length; a path is of columns of all links forward and backward."""
        out = []
        for k, staples in steps.staples.items():
            columns = (staples >> 1) + self._number * (staples & 1)
            out.append((columns, steps.couplings[k], steps.owners[k]))
        return out

    @property
    def _number(self) -> int:
        return self.geometry.Nd * self.geometry.volume

    @property
    def _theory(self) -> tuple[Geometry, AbstractGroup, float, int]:
        return self.geometry, self.group, self.beta / self.group.Nc, self.area

    @property
    def _largest(self) -> float:
        """No M has singular values with a larger sum."""
        return self.group.Nc * max(math.fsum(loop.coupling for loop in one) for one in closed_loops(*self._theory))
