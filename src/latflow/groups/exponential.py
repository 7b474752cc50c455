"""exp(iX) of traceless Hermitian matrices of any size without eigenvalues, smooth to every order.

Let p(x) = x^N + p_{N-2} x^{N-2} + ... + p_0 be the characteristic polynomial of X. By Cayley-Hamilton exp(iX) = r(X), where
r = h mod p is the remainder of h(x) = exp(ix), and r is an entire function of the (real) coefficients of p. It is computed
as a Taylor series in the ring of polynomials modulo p, after dividing X by 2^s so that its eigenvalues lie in [-1, 1], and
s squarings in the same ring. No division by differences of eigenvalues occurs, hence nothing special happens where they
coincide, unlike in the closed form for SU(3) of hep-lat/0311018 (Eqs. 3-10 there).

Derivatives. Write h = R_m + p^{m+1} q_m with R_m = h mod p^{m+1}, so r = R_0. Varying p at fixed h gives
0 = dR_m + (m+1) p^m dp q_m + p^{m+1} dq_m, hence, because deg dR_m < deg p^{m+1},

    dR_m = -(m+1) p^m [ dp (q_m mod p) mod p ],    q_m mod p = R_{m+1} div p^{m+1}.

The derivative of R_m is thus given by R_{m+1}, at every order: this is the custom rule below. It costs one evaluation with
the next power of p, and it never differentiates the series or the squarings.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Complex, Float

Real = Float[Array, "..."]
# Coefficients, lowest first: arrays over sites, or numbers where they are the same everywhere (a monic one ends in 1.0).
Polynomial = list[Real | float]

# Horner steps per compiled block: enough to stay in registers, few enough to compile fast.
_CHUNK = 6


def exp_hermitian(x: Complex[Array, "Nc Nc ..."]) -> Complex[Array, "Nc Nc ..."]:
    """exp(iX) for traceless Hermitian X, colour axes first; complex64 or complex128 in, the same out.

    Differentiable to any order along Hermitian directions (forward, reverse, under vmap). With eigenvalues of order one the
    error is a few units of rounding; it grows with the largest of them, to 1e-14 (complex128) and 2e-5 (complex64) at a
    Frobenius norm of 10 for SU(3), and faster with Nc. From Nc = 4 on, X is therefore halved three times beforehand.
    """
    if x.shape[0] < 4:
        return _series(x)
    # a loop, because XLA would fuse the chain of products and recompute each of them for every entry of the next
    return jax.lax.fori_loop(0, 3, lambda _, u: matrix_product(u, u), _series(x / 8))


def _series(x: Complex[Array, "Nc Nc ..."]) -> Complex[Array, "Nc Nc ..."]:
    X = powers(x)
    real, imaginary = _remainder(0, characteristic(X))
    unit = jnp.eye(x.shape[0], dtype=x.dtype).reshape(*x.shape[:2], *[1] * (x.ndim - 2))
    result = unit * jax.lax.complex(real[0], imaginary[0])[None, None]
    for k, power in enumerate(X, start=1):
        result = result + jax.lax.complex(real[k], imaginary[k])[None, None] * power
    return result


def matrix_product(a: Complex[Array, "Nc Nc ..."], b: Complex[Array, "Nc Nc ..."]) -> Complex[Array, "Nc Nc ..."]:
    """Pointwise matrix product with colour axes first, in the form XLA fuses best forward and backward on a CPU."""
    return (a[:, :, None] * b[None]).sum(1)


def trace_product(a: Complex[Array, "Nc Nc ..."], b: Complex[Array, "Nc Nc ..."]) -> Complex[Array, "..."]:
    """Tr a b, without forming the product."""
    return (a * jnp.swapaxes(b, 0, 1)).sum(1).sum(0)


def powers(x: Complex[Array, "..."]) -> list[Complex[Array, "..."]]:
    """[X, X^2, ..., X^(Nc-1)]."""
    out = [x]
    for _ in range(x.shape[0] - 2):
        out.append(matrix_product(out[-1], x))
    return out


def characteristic(X: list[Complex[Array, "..."]]) -> tuple[Real, ...]:
    """p_0 ... p_{Nc-2} of the characteristic polynomial of a traceless Hermitian matrix with these `powers`, from Newton's
    identities k e_k = sum_{j=1..k} (-1)^(j-1) e_{k-j} t_j with t_j = tr X^j and p_{Nc-k} = (-1)^k e_k."""
    Nc = len(X) + 1
    t: list[Real] = [jnp.real(trace_product(X[(k + 1) // 2 - 1], X[k // 2 - 1])) for k in range(2, Nc + 1)]
    e: list[Real] = []  # e_2, e_3, ...; e_0 = 1, e_1 = t_1 = 0
    for k in range(2, Nc + 1):
        total = (-1) ** (k - 1) * t[k - 2]
        for j in range(2, k - 1):
            total = total + (-1) ** (j - 1) * e[k - j - 2] * t[j - 2]
        e.append(total / k)
    return tuple((-1) ** k * e[k - 2] for k in range(Nc, 1, -1))


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _remainder(m: int, p: tuple[Real, ...]) -> tuple[Polynomial, Polynomial]:
    """Real and imaginary parts of the coefficients of exp(ix) mod p^(m+1)."""
    Nc, dtype = len(p) + 1, p[0].dtype
    # the squared eigenvalues sum to -2 p_{Nc-2}; as they sum to zero none exceeds (1 - 1/Nc) of it
    bound = jnp.sqrt(jnp.max(jnp.abs(p[-1]), initial=0) * (2 - 2 / Nc))
    exponent = jnp.ceil(jnp.log2(jnp.maximum(bound, 1)))
    squarings = jnp.where(jnp.isfinite(exponent), exponent, 0).astype(jnp.int32)
    scale = jnp.exp2(-squarings.astype(dtype))
    modulus = _power(_monic([scale ** (Nc - k) * c for k, c in enumerate(p)]), m + 1)

    # Taylor remainders 1/12! and 1/18! are at the rounding of float32 and float64
    degree = (12 if dtype == jnp.float32 else 18) + Nc * m
    zero = jnp.zeros_like(p[0])
    unit: Polynomial = [zero + 1, *[zero] * (Nc * (m + 1) - 1)]

    def horner(parts: tuple[Polynomial, Polynomial], n: Float[Array, " chunk"]):  # h <- 1 + (i x / n) h
        cosine, sine = parts
        for k in range(_CHUNK):
            c, s = _times_x(cosine, modulus), _times_x(sine, modulus)
            cosine: Polynomial = [one - a / n[k] for one, a in zip(unit, s, strict=True)]
            sine: Polynomial = [a / n[k] for a in c]
        return (cosine, sine), None

    orders = jnp.arange(-(-degree // _CHUNK) * _CHUNK, 0, -1, dtype=dtype).reshape(-1, _CHUNK)
    parts, _ = jax.lax.scan(horner, (unit, [zero for _ in unit]), orders)

    # squaring is rare, so it is written for short compilation rather than speed
    moduli = jnp.stack([zero + c for c in modulus[:-1]])

    def product(f: Real, g: Real) -> Real:
        def add(carry, row):
            total, g = carry
            shifted = jnp.concatenate([jnp.zeros_like(g[:1]), g[:-1]]) - g[-1:] * moduli
            return (total + row[None] * g, shifted), None

        return jax.lax.scan(add, (jnp.zeros_like(g), g), f)[0][0]

    def square(_, parts: tuple[Real, Real]) -> tuple[Real, Real]:
        cosine, sine = parts
        return product(cosine - sine, cosine + sine), 2 * product(cosine, sine)

    cosine, sine = jax.lax.fori_loop(0, squarings, square, (jnp.stack(parts[0]), jnp.stack(parts[1])))
    return [scale**k * a for k, a in enumerate(cosine)], [scale**k * a for k, a in enumerate(sine)]


@_remainder.defjvp
def _remainder_jvp(m: int, primals, tangents):
    (p,), (dp,) = primals, tangents
    modulus = _monic(list(p))
    lower, upper = _power(modulus, m), _power(modulus, m + 1)
    values, derivatives = [], []
    for part in _remainder(m + 1, p):
        quotient, value = _divide(part, upper)
        inner = _divide(_product(list(dp), quotient), modulus)[1]
        values.append(value)
        derivatives.append([-(m + 1) * a for a in _product(lower, inner)])
    return tuple(values), tuple(derivatives)


def _monic(lower: list[Real]) -> Polynomial:
    """x^N + lower, for a lower part that ends at x^(N-2)."""
    return [*lower, 0.0, 1.0]


def _product(a: Polynomial, b: Polynomial) -> Polynomial:
    out: Polynomial = [0.0] * (len(a) + len(b) - 1)
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            if not (_is_number(x, 0) or _is_number(y, 0)):
                term = y if _is_number(x, 1) else x if _is_number(y, 1) else x * y
                out[i + j] = term if _is_number(out[i + j], 0) else out[i + j] + term
    return out


def _power(p: Polynomial, exponent: int) -> Polynomial:
    return functools.reduce(_product, [p] * exponent, [1.0])


def _times_x(f: Polynomial, modulus: Polynomial) -> Polynomial:
    """x f mod modulus, for f of one degree less."""
    return _divide([0.0, *f], modulus)[1]


def _divide(f: Polynomial, modulus: Polynomial) -> tuple[Polynomial, Polynomial]:
    """(quotient, remainder) by a monic polynomial."""
    rest, degree = list(f), len(modulus) - 1
    for k in range(len(rest) - 1, degree - 1, -1):
        top = rest[k]
        for j in range(degree):
            if not (_is_number(modulus[j], 0) or _is_number(top, 0)):
                here = rest[k - degree + j]
                rest[k - degree + j] = -modulus[j] * top if _is_number(here, 0) else here - modulus[j] * top
    return rest[degree:], rest[:degree]


def _is_number(x: Real | float, value: int) -> bool:
    return isinstance(x, float) and x == value
