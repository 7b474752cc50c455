"""Dirac matrices written site by site in numpy, from Eq. (5) of 2207.08945 and its relatives, and fields to try them on."""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
from contracts import cut, pool

from latflow.dirac import StaggeredYukawa, WilsonFermion, dense, gamma
from latflow.groups import RealLine

# nothing here runs long enough to be worth optimising, and compiling is what these tests wait for
quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def field_of(fermion, seed=0):
    """A rough configuration."""
    shape = fermion.geometry.shape
    scalar = isinstance(fermion.group, RealLine)
    return cut(fermion.group, pool(fermion.group, seed)[0], shape if scalar else (len(shape), *shape))


def uniform_flux(shape, Q, plane=(0, 1)):
    """U(1) links of which every plaquette of the `plane` is 2 pi Q / (area of the plane), all others 0."""
    a, b = plane
    theta, x = np.zeros((len(shape), *shape)), np.indices(shape)
    F = 2 * np.pi * Q / (shape[a] * shape[b])
    theta[b] = F * x[a]
    theta[a] = np.where(x[a] == shape[a] - 1, -F * shape[a] * x[b], 0.0)
    return theta


def links_of(group, links):
    """(Nc, Nc, Nd, *lattice) complex."""
    embedded = np.asarray(group.embed(jnp.asarray(links)))
    return embedded if group.colour_shape else embedded[None, None]


def walk(U, x, path):
    """The ordered product of links along `path`, steps +-(mu + 1), from the site x; and where it ends."""
    product, x, shape = np.eye(len(U)), list(x), U.shape[3:]
    for step in path:
        mu = abs(step) - 1
        if step < 0:
            x[mu] = (x[mu] - 1) % shape[mu]
        u = U[(slice(None), slice(None), mu, *x)]
        product = product @ (u if step > 0 else u.conj().T)
        if step > 0:
            x[mu] = (x[mu] + 1) % shape[mu]
    return product, tuple(x)


def rectangle(mu, nu, R=1, T=1):
    mu, nu = mu + 1, nu + 1
    return [mu] * R + [nu] * T + [-mu] * R + [-nu] * T


def clover_at(U, x, mu, nu):
    """Hermitian F(x), traceless for SU(N): the mean of (P - P^dagger) / 2i over the four plaquettes around x."""
    m, n = mu + 1, nu + 1
    leaves = ([m, n, -m, -n], [n, -m, -n, m], [-m, -n, m, n], [-n, m, n, -m])
    C = np.sum([walk(U, x, leaf)[0] for leaf in leaves], 0)
    F = (C - C.conj().T) / 8j
    return F if len(F) == 1 else F - np.trace(F) / len(F) * np.eye(len(F))


def reference(fermion, field):
    """The matrix of D with the index (spin, colour, site)."""
    shape = fermion.geometry.shape
    Nd, sites = len(shape), list(np.ndindex(*shape))
    phase = [np.pi, *[0.0] * (Nd - 1)] if fermion.boundary is None else fermion.boundary
    staggered, yukawa = isinstance(fermion, StaggeredYukawa), not isinstance(fermion, WilsonFermion)
    U = np.ones((1, 1, Nd, *shape)) if yukawa else links_of(fermion.group, field)
    Nc, Ns = len(U), 1 if staggered else 2 ** (Nd // 2)
    g, one = gamma.matrices(Nd), np.eye(Ns)
    D = np.zeros((Ns, Nc, len(sites), Ns, Nc, len(sites)), complex)
    for i, x in enumerate(sites):
        local = np.eye(Ns * Nc, dtype=complex)
        if staggered:
            local = local * (fermion.mass + fermion.g * float(field[x]))
        elif yukawa:
            local = local * (1 + 2 * fermion.kappa * fermion.g * float(field[x]))
        elif fermion.csw is not None:
            for mu in range(Nd):
                for nu in range(mu):
                    sigma = 0.5j * (g[nu] @ g[mu] - g[mu] @ g[nu])
                    local -= fermion.kappa * fermion.csw * np.kron(sigma, clover_at(U, x, nu, mu))
        D[:, :, i, :, :, i] += local.reshape(Ns, Nc, Ns, Nc)
        for mu in range(Nd):
            u, y = walk(U, x, [mu + 1])
            u = u * (np.exp(1j * phase[mu]) if y[mu] <= x[mu] else 1)
            j = sites.index(y)
            if staggered:
                eta = (-1) ** sum(x[:mu]) / 2
                ahead, back = np.array([[eta]]), np.array([[-eta]])
            else:
                ahead, back = -fermion.kappa * (one - g[mu]), -fermion.kappa * (one + g[mu])
            D[:, :, i, :, :, j] += np.einsum("st,ab->satb", ahead, u)
            D[:, :, j, :, :, i] += np.einsum("st,ab->satb", back, u.conj().T)
    return D.reshape(Ns * Nc * len(sites), -1)


def log_abs_det_and_sign(matrix):
    phase, log = np.linalg.slogdet(np.asarray(matrix))
    assert abs(phase.imag) < 1e-9
    return log, np.sign(phase.real)


def distance(a, b):
    """The largest difference between two sets of complex numbers, paired as well as possible."""
    gaps = np.abs(np.asarray(a).reshape(-1)[:, None] - np.asarray(b).reshape(-1)[None])
    return gaps[scipy.optimize.linear_sum_assignment(gaps)].max()


def columns(function, operator):
    """The matrix of any linear map of spinors."""
    unit = jnp.eye(operator.size, dtype=operator.dtype).reshape(*operator.shape, operator.size)
    return jax.vmap(function, -1, -1)(unit).reshape(operator.size, operator.size)


@functools.cache
def matrices(fermion):
    """What is compiled once for each operator: the matrices D and gamma5, those of the complement, and the solution of D x = b
    by way of it."""
    even = not any(n % 2 for n in fermion.geometry.shape)

    @quick_jit
    def run(field, b):
        operator = fermion.operator(field)
        out = {"D": dense(operator), "g5": columns(operator.gamma5, operator)}
        if even:
            schur = operator.schur()
            out |= {"S": dense(schur), "S assembled": schur.matrix(), "S g5": columns(schur.gamma5, schur)}
            out |= {"rest": schur.log_abs_det_rest(), "sign": schur.sign_rest()}
            source, odd = schur.prepare(b)
            half = jnp.linalg.solve(out["S"], source.reshape(-1)).reshape(source.shape)
            out["x"] = schur.reconstruct(half, odd)
        return out

    field = field_of(fermion)
    shape, rng = jax.eval_shape(fermion.operator, field).shape, np.random.default_rng(7)
    b = jnp.asarray(rng.normal(size=shape) + 1j * rng.normal(size=shape))
    of = jax.tree.map(np.asarray, run(field, b))
    return SimpleNamespace(run=functools.partial(run, b=b), field=field, b=np.asarray(b), even=even, of=of)
