"""SU(3) links between the order of configuration files and ours, and whether they are SU(3).

Files: sites with x fastest and t slowest, at each the directions x, y, z, t, each a matrix by rows. Here:
`(3, 3, 4, T, X, Y, Z)`, direction 0 is t, in the links as in the lattice axes. Both ways work slice by slice of t, so that a
slice stays in the cache.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Complex

from latflow.errors import FileError

Links = Complex[np.ndarray, "3 3 4 T X Y Z"]

RE_UNITARISE = "read it with reunitarise=True (on the command line --reunitarise) if you trust it"


def to_links(data: np.ndarray, rows: int, extents: tuple[int, ...]) -> Links:
    """Links of the `data` of a file, floats of any byte order; of two `rows` the third is the conjugate cross product."""
    t, x, y, z = extents
    native = data.dtype.newbyteorder("=")
    complex_type = np.result_type(native, np.complex64)
    out = np.empty((3, 3, 4, t, x, y, z), complex_type)
    for slice_, filled in zip(data.reshape(t, -1), np.moveaxis(out, 3, 0), strict=True):
        u = slice_.astype(native).view(complex_type).reshape(z, y, x, 4, rows, 3)
        filled[:rows] = u.transpose(4, 5, 3, 2, 1, 0)[:, :, [3, 0, 1, 2]]
        if rows == 2:
            filled[2] = _third_row(filled)
    return out


def from_links(links: Links, rows: int, floats: np.dtype) -> np.ndarray:
    """The data of a file, one axis of `floats`."""
    complex_type = np.complex64 if floats.itemsize == 4 else np.complex128
    out = np.empty((links.shape[3], 4 * rows * 6 * int(np.prod(links.shape[4:]))), floats)
    for written, u in zip(out, np.moveaxis(links, 3, 0), strict=True):
        ordered = u[:rows, :, [1, 2, 3, 0]].transpose(5, 4, 3, 2, 0, 1)
        written[:] = np.ascontiguousarray(ordered, complex_type).view(floats.newbyteorder("=")).reshape(-1)
    return out.reshape(-1)


def deviation(links: Links) -> float:
    """How far the links are from SU(3): the largest deviation of a scalar product of the first two rows from 0 or 1, and of the
    third row from the conjugate cross product of those, in which unit determinant is included. nan for non-finite links."""
    worst = 0.0
    for u in np.moveaxis(links, 3, 0):
        a, b, c = u.astype(np.complex128, copy=False)
        found = [_dot(a, a) - 1, _dot(b, b) - 1, _dot(a, b), c - _third_row(u)]
        worst = max(worst, *(float(np.abs(x).max()) for x in found))
        if not np.isfinite(u).all():
            return float("nan")
    return worst


def require_unitary(path: Path | str, links: Links) -> None:
    """Raises FileError for links further from SU(3) than 1e-6 (single) or 1e-12 (double precision)."""
    limit = 1e-6 if links.dtype == np.complex64 else 1e-12
    worst = deviation(links)
    if not worst <= limit:
        raise FileError(f"{path} has links that are {worst:.1e} away from SU(3), more than {limit:g}", RE_UNITARISE)


def mean_plaquette(links: Links) -> float:
    """Re tr of the plaquette divided by 3, averaged over all of them; every time slice in the precision of the links."""
    total, T = 0.0, links.shape[3]
    for t in range(T):
        here, above = links[:, :, :, t], links[:, :, :, (t + 1) % T]

        def ahead(nu: int, mu: int, here=here, above=above) -> np.ndarray:
            """The links of direction nu, one step in direction mu further."""
            return above[:, :, nu] if mu == 0 else np.roll(here[:, :, nu], -1, axis=1 + mu)

        for mu in range(4):
            for nu in range(mu + 1, 4):
                one = _product(here[:, :, mu], ahead(nu, mu))
                other = _product(here[:, :, nu], ahead(mu, nu))
                total += float(np.vdot(other, one).real)
    return total / (3 * 6 * int(np.prod(links.shape[3:])))


def _product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Products of 3x3 matrices, colour axes first: three sweeps, no temporary larger than the result."""
    return a[:, 0, None] * b[0] + a[:, 1, None] * b[1] + a[:, 2, None] * b[2]


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a[0].conj() * b[0] + a[1].conj() * b[1] + a[2].conj() * b[2]


def _third_row(u: np.ndarray) -> np.ndarray:
    """Of matrices by rows, colour axes first: the conjugate cross product of the first two."""
    a, b = u[0], u[1]
    out = np.empty_like(a)
    for i in range(3):
        j, k = (i + 1) % 3, (i + 2) % 3
        out[i] = (a[j] * b[k] - a[k] * b[j]).conj()
    return out
