"""SU(3) links between the order of configuration files and ours, and how far they are from SU(3).

Files: sites with x fastest and t slowest, at each the directions x, y, z, t, each a matrix by rows. Here:
`(3, 3, 4, T, X, Y, Z)`, direction 0 is t, in the links as in the lattice axes. Everything works on one time slice,
`(3, 3, 4, X, Y, Z)`: a slice stays in the cache, and files may be larger than memory.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Complex

from latflow.errors import FileError

Links = Complex[np.ndarray, "3 3 4 T X Y Z"]
Slice = Complex[np.ndarray, "3 3 4 X Y Z"]

RE_UNITARISE = "read it with reunitarise=True (on the command line --reunitarise) if you trust it"

# Damage is known from the checksum, at the end; until then the links may be anything, and that is no news.
_QUIET = np.errstate(over="ignore", invalid="ignore")


@_QUIET
def slice_to_links(data: np.ndarray, rows: int, out: Slice) -> None:
    """Fill `out` with the links of the `data` of a time slice, floats of any byte order; of two `rows` the third is the
    conjugate cross product."""
    native = data.dtype.newbyteorder("=")
    x, y, z = out.shape[3:]
    u = data.astype(native).view(out.dtype).reshape(z, y, x, 4, rows, 3)
    out[:rows] = u.transpose(4, 5, 3, 2, 1, 0)[:, :, [3, 0, 1, 2]]
    if rows == 2:
        out[2] = _third_row(out)


@_QUIET
def slice_from_links(u: Slice, rows: int, floats: np.dtype) -> np.ndarray:
    """The data of a time slice of a file, one axis of `floats`."""
    complex_type = np.complex64 if floats.itemsize == 4 else np.complex128
    ordered = u[:rows, :, [1, 2, 3, 0]].transpose(5, 4, 3, 2, 0, 1)
    return np.ascontiguousarray(ordered, complex_type).view(floats.newbyteorder("=")).reshape(-1).astype(floats, copy=False)


@_QUIET
def deviation(u: Slice) -> float:
    """How far links are from SU(3): the largest deviation of a scalar product of the first two rows from 0 or 1, and of the
    third row from the conjugate cross product of those, in which unit determinant is included. nan for non-finite links."""
    if not np.isfinite(u).all():
        return float("nan")
    a, b, c = v = u.astype(np.complex128, copy=False)
    found = [_dot(a, a) - 1, _dot(b, b) - 1, _dot(a, b), c - _third_row(v)]
    return max(float(np.abs(x).max()) for x in found)


def require_unitary(path: Path | str, worst: float, dtype: np.dtype) -> None:
    """Raises FileError for a `deviation` above 1e-6 (links of single) or 1e-12 (double precision)."""
    limit = 1e-6 if dtype == np.complex64 else 1e-12
    if not worst <= limit:
        raise FileError(f"{path} has links that are {worst:.1e} away from SU(3), more than {limit:g}", RE_UNITARISE)


@_QUIET
def add_plaquettes(total: float, here: Slice, above: Slice) -> float:
    """`total` plus Re tr of every plaquette that begins in the time slice `here`, of which `above` is the next; every product
    in the precision of the links."""

    def ahead(nu: int, mu: int) -> np.ndarray:
        """The links of direction nu, one step in direction mu further."""
        return above[:, :, nu] if mu == 0 else np.roll(here[:, :, nu], -1, axis=1 + mu)

    for mu in range(4):
        for nu in range(mu + 1, 4):
            one = _product(here[:, :, mu], ahead(nu, mu))
            other = _product(here[:, :, nu], ahead(mu, nu))
            total += float(np.vdot(other, one).real)
    return total


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
