"""Monotone rational-quadratic splines on the circle and on an interval.

Between knots (x_k, y_k) with derivatives d_k the spline of 1906.04032 Eqs. 4-5 is, with xi = (x - x_k)/w_k and s_k = h_k/w_k,

    y = y_k + h_k [s_k xi^2 + d_k xi(1-xi)] / D,      D = s_k + (d_k + d_{k+1} - 2 s_k) xi (1-xi),
    dy/dx = s_k^2 [d_{k+1} xi^2 + 2 s_k xi(1-xi) + d_k (1-xi)^2] / D^2.

On the circle (2002.02428) the derivatives at both ends agree and a rotation follows. There the bins are equal on the OUTPUT
side: the widths are then the probabilities that a uniform angle lands in fixed bins, their logarithms are local averages of
the log density of the output, and knot derivatives are given relative to the geometric mean of the slopes on either side. A
network thus learns something close to -S itself, which trains several times faster than free widths, heights and slopes.

Parameters stand on the FIRST axis, so that everything behind it (sites, batch) is contiguous and the bin search is a sum of
comparisons instead of a gather.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from latflow.groups import wrap

MIN_BIN = 1e-6  # relative to the interval
MIN_DERIVATIVE = 1e-3
MIN_PROBABILITY = 1e-9  # of a bin of a given density: slopes up to 1e9, whose squares float32 still holds


class Knots(NamedTuple):
    """Per-point knot data: left edges, sizes of the bins in x and y, and derivatives at the K + 1 knots."""

    left: Float[Array, "K ..."]
    bottom: Float[Array, "K ..."]
    width: Float[Array, "K ..."]
    height: Float[Array, "K ..."]
    derivative: Float[Array, "K1 ..."]


def num_circular_parameters(bins: int) -> int:
    """Log probabilities of the bins, relative derivatives, and one rotation."""
    return 2 * bins + 1


def _running_sum(x: Float[Array, "K ..."]) -> Float[Array, "K ..."]:
    """Exclusive running sum over the short first axis; as a matrix product it is one operation, forward and backward."""
    return jnp.tensordot(jnp.asarray(np.tri(x.shape[0], k=-1), x.dtype), x, 1, precision=jax.lax.Precision.HIGHEST)


def _bins(raw: Float[Array, "K ..."], length: float) -> Float[Array, "K ..."]:
    K = raw.shape[0]
    return length * (MIN_BIN + (1 - MIN_BIN * K) * jax.nn.softmax(raw, axis=0))


def _derivatives(raw: Float[Array, "K ..."]) -> Float[Array, "K ..."]:
    # softplus(log(e - 1)) = 1: zero parameters give the identity.
    return MIN_DERIVATIVE + (1 - MIN_DERIVATIVE) * jax.nn.softplus(raw + jnp.log(jnp.expm1(jnp.ones((), raw.dtype))))


def knots(
    raw_width: Float[Array, "K ..."], raw_height: Float[Array, "K ..."], derivative: Float[Array, "K1 ..."], bound: float
) -> Knots:
    """Knots on [-bound, bound] from unconstrained widths and heights and positive derivatives."""
    width, height = _bins(raw_width, 2 * bound), _bins(raw_height, 2 * bound)
    return Knots(_running_sum(width) - bound, _running_sum(height) - bound, width, height, derivative)


def _circle(width: Float[Array, "K ..."], derivative: Float[Array, "K ..."]) -> Knots:
    """Knots on [-pi, pi) with bins that are equal on the output side and derivatives that agree at both ends."""
    height = jnp.full_like(width, 2 * jnp.pi / width.shape[0])
    closed = jnp.concatenate([derivative, derivative[:1]])
    return Knots(_running_sum(width) - jnp.pi, _running_sum(height) - jnp.pi, width, height, closed)


def circular_knots(raw: Float[Array, "P ..."], bins: int) -> tuple[Knots, Float[Array, "..."]]:
    """Knots on [-pi, pi) with matching end derivatives, and the rotation, from 2 K + 1 unconstrained parameters."""
    width = _bins(raw[:bins], 2 * jnp.pi)
    log_slope = -jnp.log(width * (bins / (2 * jnp.pi)))
    before = jnp.concatenate([log_slope[-1:], log_slope[:-1]])
    derivative = jnp.exp((before + log_slope) / 2 + raw[bins : 2 * bins])
    return _circle(width, derivative), raw[2 * bins]


def _select(edges: Float[Array, "K ..."], value: Float[Array, "..."], k: Knots):
    """The data of the bin whose left (or bottom) edge is the last one not above `value`."""
    above = (value[None] >= edges[1:]).astype(value.dtype)
    one = jnp.ones_like(value)[None]
    # onehot[k] = [value >= edge_k] - [value >= edge_{k+1}]
    onehot = jnp.concatenate([one, above]) - jnp.concatenate([above, jnp.zeros_like(one)])

    def pick(x: Float[Array, "K ..."]) -> Float[Array, "..."]:
        return jnp.sum(onehot * x, axis=0)

    return pick(k.left), pick(k.bottom), pick(k.width), pick(k.height), pick(k.derivative[:-1]), pick(k.derivative[1:])


def _log_slope(xi, s, d0, d1, denominator):
    numerator = s * s * (d1 * xi * xi + 2 * s * xi * (1 - xi) + d0 * (1 - xi) * (1 - xi))
    return jnp.log(numerator) - 2 * jnp.log(denominator)


def spline_forward(x: Float[Array, "..."], k: Knots) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """(y, log dy/dx) for x inside the interval of the knots."""
    left, bottom, w, h, d0, d1 = _select(k.left, x, k)
    xi = jnp.clip((x - left) / w, 0, 1)
    s = h / w
    denominator = s + (d0 + d1 - 2 * s) * xi * (1 - xi)
    y = bottom + h * (s * xi * xi + d0 * xi * (1 - xi)) / denominator
    return y, _log_slope(xi, s, d0, d1, denominator)


def spline_inverse(y: Float[Array, "..."], k: Knots) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """(x, log dx/dy), by the numerically stable root of 1906.04032 Eqs. 6-8."""
    left, bottom, w, h, d0, d1 = _select(k.bottom, y, k)
    s = h / w
    eta = jnp.clip(y - bottom, 0, h)
    c2 = d0 + d1 - 2 * s
    a = h * (s - d0) + eta * c2
    b = h * d0 - eta * c2
    c = -s * eta
    root = jnp.sqrt(jnp.maximum(b * b - 4 * a * c, jnp.finfo(y.dtype).tiny))
    xi = jnp.clip(-2 * c / (b + root), 0, 1)
    denominator = s + c2 * xi * (1 - xi)
    return left + xi * w, -_log_slope(xi, s, d0, d1, denominator)


def density_knots(log_density: Float[Array, "K2 ..."]) -> Knots:
    """Knots of a map that takes uniform angles to (very nearly) a given density on the circle, with -pi a fixed point.

    `log_density` (up to a constant): at the knots and bin centres -pi, -pi + pi/K, -pi + 2 pi/K, ... alternately, 2 K values
    for K bins. Bin probabilities are Simpson's, derivatives at the knots follow from the density there, so the error falls with
    the third power of the bin size or faster; the map itself and its log det are exact whatever the number of bins.
    """
    bins = log_density.shape[0] // 2
    density = jnp.exp(log_density - jax.lax.stop_gradient(jnp.max(log_density, axis=0, keepdims=True)))
    edge, centre = density[0::2], density[1::2]
    mass = (edge + 4 * centre + jnp.concatenate([edge[1:], edge[:1]])) / 6
    total = jnp.sum(mass, axis=0, keepdims=True)
    width = 2 * jnp.pi * (MIN_PROBABILITY + (1 - MIN_PROBABILITY * bins) * mass / total)
    derivative = 1 / (MIN_PROBABILITY * bins + edge * (bins / total))
    return _circle(width, derivative)


def _harmonic_knots(cosines: Float[Array, "H ..."], bins: int) -> Knots:
    """Knots for the even density exp(sum_k c_k cos(k y)), k = 1 .. H."""
    y = -np.pi + np.arange(bins + 1) * np.pi / bins  # -pi .. 0, knots and centres; the rest is the mirror image
    table = jnp.asarray(np.cos(np.outer(y, np.arange(1, cosines.shape[0] + 1))), cosines.dtype)
    half = jnp.tensordot(table, cosines, 1)
    return density_knots(jnp.concatenate([half, half[1:-1][::-1]]))


def harmonic_forward(
    x: Float[Array, "..."], cosines: Float[Array, "H ..."], bins: int
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """(y, log dy/dx) of an odd circle map whose output has the density exp(sum_k c_k cos(k y)) if x is uniform, but for the
    resolution of `bins` spline bins."""
    return spline_forward(wrap(x), _harmonic_knots(cosines, bins))


def harmonic_inverse(
    y: Float[Array, "..."], cosines: Float[Array, "H ..."], bins: int
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """(x, log dx/dy), the inverse of `harmonic_forward`."""
    return spline_inverse(wrap(y), _harmonic_knots(cosines, bins))


def circular_forward(
    x: Float[Array, "..."], raw: Float[Array, "P ..."], bins: int
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """(y, log dy/dx) of angles x under the circular spline with parameters `raw` (2 K + 1 on the first axis)."""
    k, rotation = circular_knots(raw, bins)
    y, log_slope = spline_forward(wrap(x), k)
    return wrap(y + rotation), log_slope


def circular_inverse(
    y: Float[Array, "..."], raw: Float[Array, "P ..."], bins: int
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """(x, log dx/dy), the inverse of `circular_forward`."""
    k, rotation = circular_knots(raw, bins)
    return spline_inverse(wrap(y - rotation), k)


def tilted_knots(
    tilt: Float[Array, "K ..."], derivative: Float[Array, "K1 ..."], masses: np.ndarray, quantile: Callable
) -> Knots:
    """Knots on [0, 1] of a map that takes a variable with known cumulative distribution F to one with the density F' exp(tilt).

    As on the circle, bins are equal on the output side. `masses` (K) are their probabilities under F, `quantile` is F^-1 (an
    approximation will do), `tilt` are log densities relative to F' up to a constant, `derivative` K + 1 corrections to the log
    derivatives at knots. Zero parameters give the identity.
    """
    K = tilt.shape[0]
    lead = (K,) + (1,) * (tilt.ndim - 1)
    mass = jax.nn.softmax(tilt + jnp.asarray(np.log(masses), tilt.dtype).reshape(lead), axis=0)
    inner = quantile(jnp.tensordot(jnp.asarray(np.tri(K)[:-1], tilt.dtype), mass, 1, precision=jax.lax.Precision.HIGHEST))
    end = jnp.zeros_like(inner[:1])
    width = jnp.diff(jnp.concatenate([end, inner, end + 1]), axis=0)
    width = MIN_BIN + (1 - MIN_BIN * K) * width
    height = jnp.full_like(width, 1 / K)
    log_slope = -jnp.log(K * width)
    mean = (log_slope[1:] + log_slope[:-1]) / 2
    slope = jnp.exp(jnp.concatenate([log_slope[:1], mean, log_slope[-1:]]) + derivative)
    return Knots(_running_sum(width), _running_sum(height), width, height, slope)


def _interval_knots(
    width: Float[Array, "K ..."], height: Float[Array, "K ..."], slope: Float[Array, "M ..."], bound: float
) -> Knots:
    one = jnp.ones_like(width[:1])
    return knots(width, height, jnp.concatenate([one, _derivatives(slope), one]), bound)


def interval_forward(
    x: Float[Array, "..."],
    width: Float[Array, "K ..."],
    height: Float[Array, "K ..."],
    slope: Float[Array, "M ..."],
    bound: float,
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """(y, log dy/dx) of the spline on [-bound, bound] with M = K - 1 inner slopes; the identity outside."""
    inside = jnp.abs(x) < bound
    y, log_slope = spline_forward(jnp.clip(x, -bound, bound), _interval_knots(width, height, slope, bound))
    return jnp.where(inside, y, x), jnp.where(inside, log_slope, 0)


def interval_inverse(
    y: Float[Array, "..."],
    width: Float[Array, "K ..."],
    height: Float[Array, "K ..."],
    slope: Float[Array, "M ..."],
    bound: float,
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """(x, log dx/dy), the inverse of `interval_forward`."""
    inside = jnp.abs(y) < bound
    x, log_slope = spline_inverse(jnp.clip(y, -bound, bound), _interval_knots(width, height, slope, bound))
    return jnp.where(inside, x, y), jnp.where(inside, log_slope, 0)
