"""One link in given surroundings: integral and draws of exp(Re Tr U M) over U(1), SU(2) and SU(3), M any sum of staples.

SU(3) integral (Eriksson, Svartholm and Skagerstam, J. Math. Phys. 22 (1981) 2276): with J = M/2, X = Tr J J^dagger,
Y = (X^2 - Tr (J J^dagger)^2)/2, Z = |det J|^2, W = 2 Re det J,

    int dU exp(Re Tr U M) = 2 sum_{j,k,m,n} X^j Y^k Z^m W^n / [j! k! m! n! (j + 2k + 3m + n + 2)! (k + 2m + n + 1)!].

The sum over j is f_p(X) = sum_j X^j / [j! (j + p)!], p = 2k + 3m + n + 2, and f_{p-1} = p f_p + X f_{p+1}.

SU(3) draws. Write U = R(z) diag(V, 1) with z in S^5 the last column, V in SU(2), and R(z) the unitary matrix that turns e_3
into z in the plane of both. Then Re Tr U M = Re sum_j M_3j z_j + Re Tr V B(z), B the upper left block of M R, whose
quaternion part k q gives int dV exp(Re Tr V B) = F(2k), F(x) = 2 I_1(x)/x. So z has density exp(Re M_3 z) F(2k): drawn from
the first factor, a von Mises-Fisher distribution (Wood, Commun. Stat. Simul. 23 (1994) 157), and accepted with probability
F(2k)/F(x), x the sum of the singular values of the first two rows of M; V follows given z.
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Complex, Float, Int, PRNGKeyArray

from latflow.exact.boltzmann import Surroundings, boltzmann_matrix, quaternion_part
from latflow.exact.rejection import rejection
from latflow.groups import SUN, U1, AbstractGroup
from latflow.precision import working_dtype

Matrices = Complex[Array, "Nc Nc ..."]

LARGEST = 30.0  # sum of singular values up to which the SU(3) series is summed; it takes 1500 terms there
_TINY = 1e-30  # of a squared length: keeps derivatives finite at M = 0


def has_one_link(group: AbstractGroup) -> bool:
    """Whether this group is U(1), SU(2) or SU(3)."""
    return isinstance(group, U1) or (isinstance(group, SUN) and group.Nc <= 3)


def log_one_link(group: AbstractGroup, M: Complex[Array, "..."], largest: float = 10.0) -> Float[Array, "..."]:
    """log int dU exp(Re Tr U M), Haar measure normalised to 1, in the working dtype; M is complex `(*colour, ...)`.

    U(1): log I_0(|M|). SU(2): log of 2 I_1(2k)/(2k) for M with quaternion part k q. SU(3): the series above, with as many terms
    as matrices whose singular values sum to at most `largest` need for 1e-14; those beyond lose digits.

    Raises ValueError for other groups, and for SU(3) if `largest` exceeds 30.
    """
    if not has_one_link(group):
        raise ValueError(f"the one-link integral is known for U(1), SU(2) and SU(3), not for {group}")
    M = M.astype(jnp.result_type(working_dtype(), jnp.complex64))
    if isinstance(group, U1):
        x = jnp.sqrt(jnp.maximum(_norm2(M), _TINY))
        return jnp.log(jax.scipy.special.i0e(x)) + x
    if group.Nc == 2:
        a, b = M[0, 0] + jnp.conj(M[1, 1]), M[0, 1] - jnp.conj(M[1, 0])
        return _log_su2(jnp.sqrt(jnp.maximum(_norm2(a) + _norm2(b), _TINY)))
    minors = jnp.stack([_cross(M[1], M[2]), _cross(M[2], M[0]), _cross(M[0], M[1])])
    determinant = (M[0] * minors[0]).sum(0) / 8
    X, Y = _norm2(M).sum((0, 1)) / 4, _norm2(minors).sum((0, 1)) / 16
    return jnp.log(_series(X, Y, _norm2(determinant), 2 * determinant.real, _degree(float(largest))))


def draw_su3(key: PRNGKeyArray, M: Complex[Array, "3 3 n"]) -> tuple[Complex[Array, "3 3 n"], Int[Array, " n"]]:
    """(SU(3) matrices with density proportional to exp(Re Tr U M), one per entry of M, the number of attempts of each).

    Exact for any M. Entries with a non-finite M come back as NaN.
    """
    z_key, v_key = jax.random.split(key)
    real, kappa = M.real.dtype, jnp.sqrt(_norm2(M[2]).sum(0))
    towards = jnp.conj(M[2]) / jnp.where(kappa > 0, kappa, 1)[None]
    towards = jnp.where(kappa[None] > 0, towards, jnp.asarray([0, 0, 1], M.dtype)[:, None])
    minors = _cross(M[0], M[1])
    x = jnp.sqrt(_norm2(M[:2]).sum((0, 1)) + 2 * jnp.sqrt(_norm2(minors).sum(0)))
    hopeless = ~(jnp.isfinite(x) & jnp.isfinite(kappa))

    def attempt(key: PRNGKeyArray, given) -> tuple[Complex[Array, "3 n"], Bool[Array, " n"]]:
        M, towards, kappa, x, hopeless = given
        direction, choice = jax.random.split(key)
        z, log_keep = _fisher(direction, towards, kappa)
        k = quaternion_part(_upper_block(M, z))[0]
        log_keep = log_keep + _log_su2(2 * k) - _log_su2(x)
        return z, hopeless | (jnp.log(jax.random.uniform(choice, x.shape, real)) < log_keep)

    z, attempts = rejection(attempt, z_key, (M, towards, kappa, x, hopeless), jnp.zeros_like(towards))
    V = boltzmann_matrix(v_key, Surroundings(*quaternion_part(_upper_block(M, z))))[0]
    first = (_first_columns(z)[:, :, None] * V[None]).sum(1)
    return jnp.concatenate([first, z[:, None]], axis=1), attempts


def _fisher(
    key: PRNGKeyArray, towards: Complex[Array, "3 n"], kappa: Float[Array, " n"]
) -> tuple[Complex[Array, "3 n"], Float[Array, " n"]]:
    """(z on S^5, log of the probability with which to keep it) for the density exp(kappa Re towards^dagger z)."""
    gauss = jax.random.normal(key, towards.shape, towards.dtype)
    gauss = gauss * jax.lax.rsqrt(_norm2(gauss).sum(0))[None]
    t = (jnp.conj(towards) * gauss).real.sum(0)
    across = gauss - towards * t[None]
    # (1 - t)/2 is a Beta(5/2, 5/2) variable; Wood's map takes it towards the peak
    b = 5 / (2 * kappa + jnp.sqrt(4 * kappa * kappa + 25))
    x0 = (1 - b) / (1 + b)
    w = ((1 - b) + (1 + b) * t) / ((1 + b) + (1 - b) * t)
    log_keep = kappa * (w - x0) + 5 * jnp.log((1 - x0 * w) / (1 - x0 * x0))
    side = jnp.sqrt(jnp.maximum(1 - w * w, 0) / jnp.maximum(_norm2(across).sum(0), _TINY))
    return towards * w[None] + across * side[None], log_keep


def _first_columns(z: Complex[Array, "3 n"]) -> Complex[Array, "3 2 n"]:
    """Those of R(z) = 1 + (z_3^* - 1) w w^dagger + (z_3 - 1) e e^dagger + s (w e^dagger - e w^dagger), (z_1, z_2) = s w."""
    s = jnp.sqrt(_norm2(z[:2]).sum(0))
    w = z[:2] / jnp.where(s > 0, s, 1)[None]
    w = jnp.where((s > 0)[None], w, jnp.asarray([1, 0], z.dtype)[:, None])
    unit = jnp.eye(2, dtype=z.dtype)[:, :, None]
    block = unit + (jnp.conj(z[2]) - 1)[None, None] * w[:, None] * jnp.conj(w)[None]
    return jnp.concatenate([block, -(s[None] * jnp.conj(w))[None]])


def _upper_block(M: Complex[Array, "3 3 n"], z: Complex[Array, "3 n"]) -> Complex[Array, "2 2 n"]:
    return (M[:2, :, None] * _first_columns(z)[None]).sum(1)


def _log_su2(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """log of 2 I_1(x)/x for x >= 0."""
    safe = jnp.maximum(x, 1e-6)
    return jnp.log(2 * jax.scipy.special.i1e(safe) / safe) + safe


def _series(X: Array, Y: Array, Z: Array, W: Array, degree: int) -> Array:
    """The SU(3) integral: terms with 4k + 6m + 3n <= degree, and f_p from its power series at the largest two p."""
    last = degree // 2 + 2 + degree % 2 + 1
    f = {p: _power_series(X, p, degree) for p in (last + 1, last)}
    for p in range(last, 2, -1):
        f[p - 1] = p * f[p] + X * f[p + 1]
    total = jnp.zeros_like(X)
    for n in range(degree // 3, -1, -1):
        of_n = jnp.zeros_like(X)
        for m in range((degree - 3 * n) // 6, -1, -1):
            of_m = jnp.zeros_like(X)
            for k in range((degree - 3 * n - 6 * m) // 4, -1, -1):
                weight = math.factorial(k) * math.factorial(m) * math.factorial(n) * math.factorial(k + 2 * m + n + 1)
                of_m = of_m * Y + f[2 * k + 3 * m + n + 2] * (1 / weight)
            of_n = of_n * Z + of_m
        total = total * W + of_n
    return 2 * total


def _power_series(X: Array, p: int, degree: int) -> Array:
    total = jnp.zeros_like(X)
    for j in range(degree // 2, -1, -1):
        total = total * X + 1 / (math.factorial(j) * math.factorial(j + p))
    return total


@functools.cache
def _degree(largest: float) -> int:
    """Where the series may end: at equal singular values, where every term is largest, what is left is below 1e-14."""
    if not 0 <= largest <= LARGEST:
        raise ValueError(
            f"the SU(3) one-link integral is summed for singular values whose sum is at most {LARGEST:g}, "
            f"got {largest:g}: take a smaller coupling"
        )
    s = largest / 6
    X, Y, Z, W = 3 * s**2, 3 * s**4, s**6, 2 * s**3
    terms = np.zeros(200)
    for n in range(200 // 3):
        for m in range((200 - 3 * n) // 6):
            for k in range((200 - 3 * n - 6 * m) // 4):
                p, a = 2 * k + 3 * m + n + 2, k + 2 * m + n + 1
                log_term = k * _log(Y) + m * _log(Z) + n * _log(W) - sum(math.lgamma(i + 1) for i in (k, m, n, a, p))
                terms[4 * k + 6 * m + 3 * n] += 2 * math.exp(log_term + X / (p + 1))
    left = np.cumsum(terms[::-1])[::-1]
    return max(8, int(np.argmax(left < 1e-14)))


def _log(x: float) -> float:
    return math.log(x) if x > 0 else -1e4


def _cross(a: Array, b: Array) -> Array:
    return jnp.stack([a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]])


def _norm2(x: Array) -> Array:
    return x.real**2 + x.imag**2
