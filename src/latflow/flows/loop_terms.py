"""Sums of Wilson loops that are eigenfunctions of the Laplacian: what a continuous flow takes its gradient of.

A U(1) loop with angle Phi = sum_l n_l theta_l obeys sum_l d^2/dtheta_l^2 cos Phi = -(sum_l n_l^2) cos Phi. Two plaquettes that
share a link combine to a rectangle or a chair (the link cancels, 6 links of charge 1) or to their twisted versions (the link is
counted twice, 6 + 4); three plaquettes at one link follow the same rule. These are the loops of the first orders of a
trivialising map (M. Luescher, 0907.5491, Sec. 4) and of those by which Wilson actions renormalise.
"""

from __future__ import annotations

import dataclasses
import itertools

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float

from latflow.groups import SUN, U1
from latflow.groups.exponential import trace_product
from latflow.lattice import Geometry, component, shift
from latflow.loops import plaquette, staples
from latflow.precision import double_sum

_PLANAR = {"plaquette": 4, "double": 16, "triple": 36, "rectangle": 6, "twisted_rectangle": 10, "two_to_one": 16}
_BENT = {"chair": 6, "twisted_chair": 10, "three": 10}  # these need two planes through a link


@dataclasses.dataclass(frozen=True)
class U1LoopTerms:
    """Sums over the whole lattice of cos(loop), in the order of `names`.

    With a_k the 2(Nd-1) plaquettes through a link, all oriented along it: `rectangle` and `chair` sum cos(a_k - a_l) over pairs
    in one plane and in two, `twisted_*` of cos(a_k + a_l), `three` of cos(a_k + a_l - a_m), `two_to_one` of
    cos(2 a_k - a_m), indices distinct; `double` and `triple` are cos 2P and cos 3P.

    Raises ValueError for extents below 3, where links of a loop coincide and the eigenvalues change.
    """

    geometry: Geometry

    def __post_init__(self) -> None:
        _require_long(self.geometry)

    @property
    def group(self) -> U1:
        return U1()

    @property
    def names(self) -> tuple[str, ...]:
        return (*self._charges(),)

    def _charges(self) -> dict[str, int]:
        return _PLANAR | (_BENT if self.geometry.Nd > 2 else {})

    @property
    def eigenvalues(self) -> np.ndarray:
        """lambda with Laplacian = -lambda times the term."""
        return np.array([*self._charges().values()], float)

    @property
    def scales(self) -> np.ndarray:
        """Units of the coefficients: all but the plaquette, which is of leading order, move the links about equally."""
        n = 2 * (self.geometry.Nd - 1)
        per_link = {"rectangle": n / 2, "chair": n * (n - 2) / 2, "three": n * (n - 1) * (n - 2) / 2, "two_to_one": n * (n - 1)}
        count = [max(per_link.get(name.removeprefix("twisted_"), 1.0), 1.0) for name in self.names]
        higher = np.where(np.array(self.names) == "plaquette", 1.0, 0.2)
        return higher * 4 / (self.eigenvalues * np.sqrt(count))

    def __call__(self, theta: Float[Array, "Nd ..."]) -> Float[Array, " terms"]:
        group, geometry, Nd = U1(), self.geometry, self.geometry.Nd
        loops = {}
        for mu, nu in geometry.planes:
            loops[mu, nu] = group.embed(plaquette(group, geometry, theta, mu, nu))
            loops[nu, mu] = jnp.conj(loops[mu, nu])
        p = jnp.stack([loops[plane] for plane in geometry.planes])
        squares = p * p
        out = dict.fromkeys(self.names, jnp.zeros((), theta.dtype))
        out |= {"plaquette": _real_sum(p), "double": _real_sum(squares), "triple": _real_sum(squares * p)}
        n = 2 * (Nd - 1)
        for mu in range(Nd):
            others = [nu for nu in range(Nd) if nu != mu]
            up = jnp.stack([loops[mu, nu] for nu in others])
            down = jnp.stack([shift(loops[nu, mu], nu, Nd, -1) for nu in others])
            pairs = up + down
            s, s2 = pairs.sum(0), (up * up + down * down).sum(0)
            found = {
                "rectangle": _real_sum(up * jnp.conj(down)),
                "twisted_rectangle": _real_sum(up * down),
                "two_to_one": _real_sum(s2 * jnp.conj(s) - s),
            }
            if Nd > 2:
                found["chair"] = (_real_sum(s * jnp.conj(s)) - _real_sum(pairs * jnp.conj(pairs))) / 2
                found["three"] = _real_sum((s * s - s2) * jnp.conj(s) - 2 * (n - 1) * s) / 2
                found["twisted_chair"] = (_real_sum(s * s) - _real_sum(pairs * pairs)) / 2
            out |= {name: out[name] + value for name, value in found.items()}
        return jnp.stack([out[name] for name in self.names])


@dataclasses.dataclass(frozen=True)
class SUNLoopTerms:
    """Sums over the whole lattice of real loops of SU(N), in the order of `names`.

    The Laplacian is sum_{l,a} of second derivatives along T_a, and with C = sum_a T_a T_a = (N^2-1)/(2N) every link that
    occurs once in a trace contributes -C. Where a link occurs twice, sum_a T_a X T_a = (Tr X - X/N)/2 mixes traces and
    products of traces; the combinations that diagonalise it carry the link in the adjoint (C' = N), symmetric or antisymmetric
    (C' = (N^2-1)/N - 1/N +- 1) representation. Below S, S' are different staples of one link U:

    * `plaquette`: Re Tr P, 4 C; `rectangle`, `chair`: Re Tr S S'^dagger, staples in one plane and in two, 6 C; `bent`: the
      hexagon around the corner of a cube, +mu +nu +rho -mu -nu -rho, 6 C;
    * `adjoint`: |Tr P|^2 - 1, 4 N; `symmetric`: Re (Tr^2 P + Tr P^2)/2, 4 C' (N > 2; for two colours it is the adjoint one);
    * `planar_adjoint`, `bent_adjoint`: Re [Tr US (Tr US')* - Tr S S'^dagger / N], N + 6 C;
    * `planar_symmetric`, `bent_symmetric`, `planar_antisymmetric`, `bent_antisymmetric`: Re [Tr US Tr US' +- Tr US US'],
      C' + 6 C.

    `chosen` restricts them (None: all of them). Raises ValueError for extents below 3, where links of a loop coincide and the
    eigenvalues change, and for unknown names.
    """

    geometry: Geometry
    group: SUN
    chosen: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        _require_long(self.geometry)
        if unknown := [name for name in self.chosen or () if name not in self._casimirs()]:
            raise ValueError(f"there are no loops {unknown} here; known are {', '.join(self._casimirs())}")
        if self.chosen == ():
            raise ValueError("a continuous flow needs at least one kind of loop")

    def _casimirs(self) -> dict[str, float]:
        N = self.group.Nc
        C = (N * N - 1) / (2 * N)
        symmetric, antisymmetric = 2 * C - 1 / N + 1, 2 * C - 1 / N - 1
        out = {"plaquette": 4 * C, "adjoint": 4.0 * N}
        out |= {"symmetric": 4 * symmetric} if N > 2 else {}
        planes = ("planar", "bent") if self.geometry.Nd > 2 else ("planar",)
        out |= {"rectangle": 6 * C} | ({"chair": 6 * C, "bent": 6 * C} if self.geometry.Nd > 2 else {})
        for kind, casimir in (("adjoint", float(N)), ("symmetric", symmetric), ("antisymmetric", antisymmetric)):
            out |= {f"{plane}_{kind}": casimir + 6 * C for plane in planes}
        return out

    @property
    def names(self) -> tuple[str, ...]:
        return (*self._casimirs(),) if self.chosen is None else self.chosen

    @property
    def eigenvalues(self) -> np.ndarray:
        """lambda with Laplacian = -lambda times the term."""
        return np.array([self._casimirs()[name] for name in self.names])

    @property
    def scales(self) -> np.ndarray:
        """Units of the coefficients: all but the plaquette, which is of leading order, move the links about equally."""
        n = 2 * (self.geometry.Nd - 1)
        count = [1.0 if name in ("plaquette", "adjoint", "symmetric") else n * n / 2 for name in self.names]
        higher = np.where(np.array(self.names) == "plaquette", 1.0, 0.2)
        return higher * 4 / (self.eigenvalues * np.sqrt(count))

    def __call__(self, links: Complex[Array, "Nc Nc Nd ..."]) -> Float[Array, " terms"]:
        group, Nd, N = self.group, self.geometry.Nd, self.group.Nc
        out: dict[str, Array] = {}

        def add(name: str, value: Array) -> None:
            if name in self.names:
                out[name] = out[name] + _real_sum(value) if name in out else _real_sum(value)

        for mu in range(Nd):
            u = component(links, mu, Nd)
            found = list(staples(group, self.geometry, links, mu))
            pairs = [(found[2 * k], found[2 * k + 1]) for k in range(Nd - 1)]
            total = sum(found[1:], found[0])
            traces = [trace_product(u, s) for s in found]
            for k, nu in enumerate(nu for nu in range(Nd) if nu != mu):
                if nu > mu:  # each plaquette once
                    P, t = group.multiply(u, found[2 * k]), traces[2 * k]
                    add("plaquette", t)
                    add("adjoint", t * jnp.conj(t) - 1)
                    if "symmetric" in self.names:
                        add("symmetric", (t * t + trace_product(P, P)) / 2)
            product, t_sum = trace_product(total, group.adjoint(total)), sum(traces[1:], traces[0])
            t_product, t_square = t_sum * jnp.conj(t_sum), t_sum * t_sum
            twice = self._twice(u, total)
            for k, (up, down) in enumerate(pairs):
                a, b = traces[2 * k], traces[2 * k + 1]
                flat = trace_product(up, group.adjoint(down))
                add("rectangle", flat)
                add("planar_adjoint", a * jnp.conj(b) - flat / N)
                both = self._mixed(u, up, down)
                add("planar_symmetric", a * b + both)
                add("planar_antisymmetric", a * b - both)
                # what is left of the sums over all pairs of staples are those in two planes
                pair = up + down
                product = product - trace_product(pair, group.adjoint(pair))
                t_product, t_square = t_product - (a + b) * jnp.conj(a + b), t_square - (a + b) ** 2
                twice = twice - self._twice(u, pair)
            add("chair", product / 2)
            add("bent_adjoint", (t_product - product / N) / 2)
            add("bent_symmetric", (t_square + twice) / 2)
            add("bent_antisymmetric", (t_square - twice) / 2)
        if "bent" in self.names:
            out["bent"] = self._hexagons(links)
        return jnp.stack([out[name] for name in self.names])

    def _mixed(self, u: Array, s: Array, t: Array) -> Array:
        """Tr US UT, zero where no term needs it."""
        if not any(name.startswith("planar_") and "symmetric" in name for name in self.names):
            return jnp.zeros_like(u[0, 0])
        return trace_product(self.group.multiply(u, s), self.group.multiply(u, t))

    def _twice(self, u: Array, s: Array) -> Array:
        """Tr US US, zero where no term needs it."""
        if not any(name.startswith("bent_") and "symmetric" in name for name in self.names):
            return jnp.zeros_like(u[0, 0])
        w = self.group.multiply(u, s)
        return trace_product(w, w)

    def _hexagons(self, links: Array) -> Array:
        """The four hexagons of every cube, each around one of its diagonals."""
        group, Nd = self.group, self.geometry.Nd
        u = [component(links, mu, Nd) for mu in range(Nd)]
        corner = {  # two steps, mu then nu
            (mu, nu): group.multiply(u[mu], shift(u[nu], mu, Nd)) for mu in range(Nd) for nu in range(Nd) if mu != nu
        }

        def path(mu: int, nu: int, rho: int) -> Array:
            return group.multiply(corner[mu, nu], shift(shift(u[rho], mu, Nd), nu, Nd))

        total = jnp.zeros((), links.real.dtype)
        for mu, nu, rho in itertools.combinations(range(Nd), 3):
            for a, b, c in ((mu, nu, rho), (nu, mu, rho), (mu, rho, nu)):
                total = total + _real_sum(trace_product(path(a, b, c), group.adjoint(path(c, b, a))))
            # from x + mu: along nu, back mu, along rho, and the same with nu and rho exchanged
            sides = [
                group.multiply(
                    group.multiply(shift(u[a], mu, Nd), group.adjoint(shift(u[mu], a, Nd))),
                    shift(u[b], a, Nd),
                )
                for a, b in ((nu, rho), (rho, nu))
            ]
            total = total + _real_sum(trace_product(sides[0], group.adjoint(sides[1])))
        return total


LoopTerms = U1LoopTerms | SUNLoopTerms


def _require_long(geometry: Geometry) -> None:
    if geometry.Nd < 2 or min(geometry.shape) < 3:
        raise ValueError(
            f"the loops of a continuous flow need two or more dimensions with extents of at least 3, got {geometry.shape}"
        )


def _real_sum(z: Array) -> Float[Array, ""]:
    return double_sum(jnp.real(z))
