"""The free scalar field on a periodic lattice of any dimension: closed forms and an exact sampler."""

from __future__ import annotations

import math

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from latflow.groups import RealLine
from latflow.lattice import Geometry, shift
from latflow.precision import double_sum, working_dtype

Scalar = Float[Array, "*lattice"]


class FreeField(eqx.Module):
    """The Gaussian exp(-S) / Z with S = sum_x phi (-lap + m2) phi, i.e. phi^4 theory at lam = 0 (no factor 1/2 in S).

    In momentum space S = sum_p lambda_p |phi_p|^2 / V with lambda_p = m2 + sum_mu 4 sin^2(p_mu / 2), so the modes are
    independent with <|phi_p|^2> / V = 1 / (2 lambda_p), and Z = prod_p sqrt(pi / lambda_p) with respect to Lebesgue measure.

    `m2` may be a traced scalar, so that a prior's mass can be trained; draws are differentiable in it. Draws have `dtype`.
    Raises ValueError for a constant m2 <= 0: the zero mode would not be normalisable.
    """

    geometry: Geometry = eqx.field(static=True)
    m2: float | Float[Array, ""]
    dtype: np.dtype = eqx.field(static=True)
    group: RealLine = eqx.field(default=RealLine(), init=False)

    def __init__(self, geometry: Geometry, m2: float | Array, dtype=jnp.float64):
        if not isinstance(m2, jax.core.Tracer) and not (math.isfinite(float(m2)) and float(m2) > 0):
            raise ValueError(
                f"a free field needs a finite positive mass squared, got m2 = {m2}: its zero mode has no normalisation"
            )
        self.geometry = geometry
        self.m2 = m2 if isinstance(m2, jax.Array) else float(m2)
        self.dtype = jax.dtypes.canonicalize_dtype(dtype)

    def sample(self, key: PRNGKeyArray) -> Scalar:
        """One configuration of the lattice's shape: white noise filtered by 1 / sqrt(2 lambda_p)."""
        noise = jax.random.normal(key, self.geometry.shape, self.dtype)
        half = self._spectrum(self.geometry.shape[-1] // 2 + 1)
        filtered = jnp.fft.rfftn(noise) * jax.lax.rsqrt(2 * half).astype(self.dtype)
        return jnp.fft.irfftn(filtered, s=self.geometry.shape).astype(self.dtype)

    def log_density(self, phi: Scalar) -> Float[Array, ""]:
        """-S(phi) - log Z in the working dtype."""
        Nd, m2 = self.geometry.Nd, jnp.asarray(self.m2, phi.dtype)
        ahead = sum(shift(phi, mu, Nd) for mu in range(Nd))
        action = double_sum(phi * ((m2 + 2 * Nd) * phi - 2 * ahead))
        return -action - self.log_z()

    def sample_and_log_density(self, key: PRNGKeyArray) -> tuple[Scalar, Float[Array, ""]]:
        phi = self.sample(key)
        return phi, self.log_density(phi)

    def log_z(self) -> Float[Array, ""]:
        """log Z = (V log pi - sum_p log lambda_p) / 2 with respect to Lebesgue measure."""
        return (self.geometry.volume * math.log(math.pi) - jnp.sum(jnp.log(self._spectrum()))) / 2

    def two_point(self) -> Float[Array, " time"]:
        """C(t) = sum_x <phi(t, x) phi(0, 0)>, zero spatial momentum, t = 0 ... L0 - 1."""
        L0 = self.geometry.shape[0]
        p = 2 * np.pi * np.arange(L0) / L0
        wave = jnp.asarray(np.cos(np.outer(np.arange(L0), p)), working_dtype())
        spectrum = jnp.asarray(4 * np.sin(p / 2) ** 2, working_dtype()) + jnp.asarray(self.m2, working_dtype())
        return wave @ (1 / (2 * spectrum)) / L0

    def phi2(self) -> Float[Array, ""]:
        """<phi(x)^2>."""
        return jnp.mean(1 / (2 * self._spectrum()))

    def susceptibility(self) -> Float[Array, ""]:
        """V <M^2> = sum_t C(t) = 1 / (2 m2), with M the mean of phi over the lattice."""
        return 1 / (2 * jnp.asarray(self.m2, working_dtype()))

    def action_density(self) -> Float[Array, ""]:
        """<S> / V = 1/2, by equipartition."""
        return jnp.asarray(0.5, working_dtype())

    def _spectrum(self, last: int | None = None) -> Float[Array, "*lattice"]:
        """lambda_p on the full momentum lattice, or on the first `last` momenta of the last direction."""
        sines = [4 * np.sin(np.pi * np.arange(n) / n) ** 2 for n in self.geometry.shape]
        grid = np.sum(np.meshgrid(*sines, indexing="ij"), axis=0)[..., :last]
        return jnp.asarray(grid, working_dtype()) + jnp.asarray(self.m2, working_dtype())
