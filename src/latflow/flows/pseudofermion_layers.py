"""Pseudofermion layers, Sec. III C and III D 1 of 2207.08945: linear maps of spinors with tractable determinants.

With projectors P(x) on active and 1 - P(x) on frozen components, a layer is Eq. (28),

    phi_a' = A(x) phi_a + PTCN[U, phi_f](x),    phi_f' = phi_f,    log |det| = sum_x log |det A(x)|,

where A acts on each colour alike. A - 1 and the coefficients of the PTCN are the outputs of a periodic convolution of
gauge-invariant features, with tanh.

Even/odd targets live on the even sites. Layers see the whole lattice with zeros on the odd sites, which a PTCN fills in between
and which are never updated.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float, PRNGKeyArray

from latflow.dirac import Boundary, Spinor, gamma
from latflow.dirac.boundary import angles
from latflow.flows.linear import AbstractConditional, AbstractLinearMap, Features, Field
from latflow.flows.spinor_partition import PATTERNS, AbstractPartition, Index
from latflow.groups import AbstractGroup, RealLine
from latflow.lattice import Geometry, Halves
from latflow.nets import ParallelTransport, PeriodicConv
from latflow.nets.conv import gathered_conv, neighbourhood
from latflow.nets.parallel_transport import mix, ptcn, scattered_bias
from latflow.precision import double_sum, working_dtype

Context = Float[Array, "_ ..."]
Partitioning = Literal["spatial", "spin", "alternating", "rotating"]


class PseudofermionLayer(eqx.Module):
    """One layer, Eq. (28), on spinors `(Ns, Nc, *lattice)` of the whole lattice. Which projector is an array, so that layers of
    different ones are scanned together.

    `head` gives, per site, A - 1 row by row and then the M of each PTC, real and imaginary part of each number in turn.
    """

    head: PeriodicConv
    index: Index
    partition: AbstractPartition = eqx.field(static=True)
    widths: tuple[int, ...] = eqx.field(static=True)

    def __init__(
        self,
        partition: AbstractPartition,
        index: int,
        channels: int,
        *,
        key: PRNGKeyArray,
        n_pt: int,
        H: int,
        kernel_size: int,
        gain: float,
        bias_std: float,
        dtype=jnp.float32,
    ):
        Nd = partition.geometry.Nd
        self.partition, self.index = partition, jnp.asarray(index % partition.count, jnp.int32)
        self.widths = (partition.inputs, *[H] * (n_pt - 1), partition.outputs)
        numbers = partition.block**2 + sum(b * (2 * Nd + 1) * a for a, b in itertools.pairwise(self.widths))
        k1, k2 = jax.random.split(key)
        head = PeriodicConv(channels, 2 * numbers, (kernel_size,) * Nd, key=k1, gain=gain, dtype=dtype)
        self.head = scattered_bias(head, bias_std, k2)

    def forward(self, phi: Spinor, transport: ParallelTransport, context: Context) -> Spinor:
        """phi'."""
        A, shift = self._parts(phi, transport, context)
        return phi + self.partition.insert(_apply(A, self.partition.active(phi, self.index)) + shift, self.index)

    def inverse(self, phi: Spinor, transport: ParallelTransport, context: Context) -> Spinor:
        """The phi that `forward` takes to this one."""
        A, shift = self._parts(phi, transport, context)
        A, new = _plus_one(A), self.partition.active(phi, self.index)
        old = _apply(adjugate(A), new - shift) / determinant(A)[None, None]
        return phi + self.partition.insert(old - new, self.index)

    def log_abs_det(self, Nc: int, context: Context, dtype: Any) -> Float[Array, ""]:
        """Sum over active sites of log |det A|, times the number of colours (and of components that A multiplies alike)."""
        det = determinant(_plus_one(self._local(context, dtype)))
        copies = Nc * self.partition.outputs // self.partition.block
        return copies * double_sum(jnp.log(jnp.real(det) ** 2 + jnp.imag(det) ** 2) / 2)

    def _parts(self, phi: Spinor, transport: ParallelTransport, context: Context) -> tuple[Array, Spinor]:
        """A - 1, and the PTCN of the frozen components."""
        rest, M = self._numbers(slice(2 * self.partition.block**2, None), context, phi.dtype), []
        stencil, sites = 2 * self.partition.geometry.Nd + 1, rest.shape[1:]
        for a, b in itertools.pairwise(self.widths):
            mine, rest = jnp.split(rest, [b * stencil * a])
            M.append(mine.reshape(b, stencil, a, *sites))
        return self._local(context, phi.dtype), ptcn(transport, M, self.partition.frozen(phi, self.index))

    def _local(self, context: Context, dtype: Any) -> Complex[Array, "block block ..."]:
        """A - 1, zero where no component is active, so that it is invertible there and log |det A| = 0."""
        block = self.partition.block
        # in full precision, so that the A of a draw and the A of its density are the same number
        numbers = self._numbers(slice(0, 2 * block**2), context, dtype, jax.lax.Precision.HIGHEST)
        numbers = jnp.where(self.partition.sites(self.index)[None], numbers, 0)
        return numbers.reshape(block, block, *numbers.shape[1:])

    def _numbers(self, rows: slice, context: Context, dtype: Any, precision: Any = None) -> Complex[Array, "_ ..."]:
        """Complex outputs of some rows of the head."""
        assert self.head.bias is not None
        raw = jnp.tanh(gathered_conv(self.head.weight[rows], self.head.bias[rows], context, precision))
        raw = raw.astype(jnp.finfo(dtype).dtype).reshape(-1, 2, *raw.shape[1:])
        return jax.lax.complex(raw[:, 0], raw[:, 1])


class PseudofermionMap(AbstractLinearMap):
    """`PseudofermionFlow` of one configuration. `context` are its features, gathered for the kernels of all layers; layers
    compute their coefficients when they act, once for all draws that `jax.vmap` maps over."""

    transport: ParallelTransport
    context: Context
    runs: tuple[PseudofermionLayer, ...]
    even_odd: bool = eqx.field(static=True)
    rematerialise: bool = eqx.field(static=True)

    @property
    def shape(self) -> tuple[int, ...]:
        geometry = self.transport.geometry
        sites = Halves(geometry).shape if self.even_odd else geometry.shape
        return (gamma.num_spins(geometry.Nd), self.transport.links.shape[0], *sites)

    @property
    def dtype(self) -> Any:
        return self.transport.links.dtype

    def mv(self, chi: Spinor) -> Spinor:
        return self._run(chi, "forward")

    def inverse(self, phi: Spinor) -> Spinor:
        return self._run(phi, "inverse")

    @property
    def log_abs_det(self) -> Float[Array, ""]:
        Nc = self.transport.links.shape[0]

        def step(total: Array, layer: PseudofermionLayer) -> Array:
            return total + layer.log_abs_det(Nc, self.context, self.dtype)

        return self._scan(step, jnp.zeros((), working_dtype()))

    def _run(self, x: Spinor, method: Literal["forward", "inverse"]) -> Spinor:
        def step(phi: Spinor, layer: PseudofermionLayer) -> Spinor:
            return getattr(layer, method)(phi, self.transport, self.context)

        if not self.even_odd:
            return self._scan(step, x, method == "inverse")
        halves = Halves(self.transport.geometry)
        return halves.split(self._scan(step, halves.merge(x, jnp.zeros_like(x)), method == "inverse"))[0]

    def _scan(self, step: Any, carry: Array, reverse: bool = False) -> Array:
        """`step(carry, layer)` for all layers: a scan over the turns of the pattern, of scans over the layers of one kind."""
        dynamic, static = eqx.partition(self.runs, eqx.is_array)

        def body(carry: Array, runs: Any):
            for leaves, rest in reversed([*zip(runs, static, strict=True)]) if reverse else zip(runs, static, strict=True):

                def one(carry: Array, leaf: Any, rest: PseudofermionLayer = rest):
                    return step(carry, eqx.combine(leaf, rest)), None

                carry, _ = jax.lax.scan(one, carry, leaves, reverse=reverse)
            return carry, None

        return jax.lax.scan(jax.checkpoint(body) if self.rematerialise else body, carry, dynamic, reverse=reverse)[0]


class PseudofermionFlow(AbstractConditional):
    """D~[U] as a composition of `num_layers` pseudofermion layers, for Wilson spinors of U(1) and SU(N) in two and four
    dimensions; first layer first.

    `channels` are those of the features it is bound with. `partition`: "spatial" (all spins of every other site), "spin" (half
    of the spins of all sites), "alternating" (one layer of each), "rotating" (one spatial layer, then five of spin: the round
    through gamma_mu and sites of 2208.03832 in four dimensions). `even_odd` (the default, as for `Monomial`): spinors on the
    even sites. `n_pt` convolutions with `H` features in between (None: 6 for even/odd targets and 3 otherwise, App. B.3).
    Weights start Xavier normal, near D~ = 1: `gain` 0.5 without biases in App. B.1, 0.3 with `bias_std` 0.05 in 2208.03832.
    With `rematerialise` only the spinor between the turns of the scan is kept for the backward pass.

    Raises ValueError for scalar fields, other dimensions, odd extents where the partition or the target needs even ones, fewer
    than two convolutions on even/odd targets, which would not connect even sites, and a number of layers that is not a
    multiple of the pattern (2 for "alternating", 6 for "rotating").
    """

    group: AbstractGroup
    geometry: Geometry = eqx.field(static=True)
    boundary: Boundary = eqx.field(static=True)
    even_odd: bool = eqx.field(static=True)
    rematerialise: bool = eqx.field(static=True)
    kernel_size: int = eqx.field(static=True)
    runs: tuple[PseudofermionLayer, ...]

    def __init__(
        self,
        group: AbstractGroup,
        geometry: Geometry,
        channels: int,
        num_layers: int,
        *,
        key: PRNGKeyArray,
        partition: Partitioning = "spatial",
        even_odd: bool = True,
        n_pt: int | None = None,
        H: int = 2,
        kernel_size: int = 3,
        boundary: Boundary = None,
        gain: float = 0.5,
        bias_std: float = 0.0,
        rematerialise: bool = False,
        dtype=jnp.float32,
    ):
        n_pt = (6 if even_odd else 3) if n_pt is None else n_pt
        pattern = [(kind(geometry, even_odd), length) for kind, length in PATTERNS[partition]]
        period = sum(length for _, length in pattern)
        _check(group, geometry, boundary, even_odd, n_pt, num_layers, period)
        self.group, self.geometry, self.boundary = group, geometry, boundary
        self.even_odd, self.rematerialise, self.kernel_size = even_odd, rematerialise, kernel_size
        build = functools.partial(PseudofermionLayer, channels=channels, n_pt=n_pt, H=H, kernel_size=kernel_size, dtype=dtype)
        keys, runs, turns = iter(jax.random.split(key, num_layers)), [], num_layers // period
        for kind, length in pattern:
            layers = [build(kind, i, key=next(keys), gain=gain, bias_std=bias_std) for i in range(turns * length)]
            runs.append(_stack(layers, (turns, length)))
        self.runs = tuple(runs)

    def bind(self, field: Field, features: Features) -> PseudofermionMap:
        """D~[field]. Raises ValueError without features."""
        if features is None:
            raise ValueError("pseudofermion layers need the features of a context, e.g. latflow.nets.PlaquetteContext")
        transport = ParallelTransport(self.group, self.geometry, field, self.boundary)
        context = neighbourhood(features, (self.kernel_size,) * self.geometry.Nd)
        return PseudofermionMap(transport, context, self.runs, self.even_odd, self.rematerialise)


def _check(
    group: AbstractGroup, geometry: Geometry, boundary: Boundary, even_odd: bool, n_pt: int, num_layers: int, period: int
) -> None:
    if isinstance(group, RealLine):
        raise ValueError("pseudofermion layers transport along gauge links; a scalar field has none")
    gamma.num_spins(geometry.Nd)
    angles(boundary, geometry.Nd)
    if even_odd:
        geometry.require_even("even/odd preconditioning")
    if n_pt < 1 + even_odd:
        need = "two, which connect even sites by way of odd ones," if even_odd else "one"
        raise ValueError(f"a PTCN needs at least {need} parallel transport convolutions, got n_pt = {n_pt}")
    if num_layers < 1 or num_layers % period:
        raise ValueError(
            f"the number of layers must be a positive multiple of {period}, the length of the pattern, got {num_layers}"
        )


def _stack(layers: Sequence[PseudofermionLayer], shape: tuple[int, int]) -> PseudofermionLayer:
    """Equal layers with parameters on leading axes (turns of the pattern, layers of this kind in a turn)."""
    dynamic, static = zip(*(eqx.partition(layer, eqx.is_array) for layer in layers), strict=True)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves).reshape(*shape, *leaves[0].shape), *dynamic)
    return eqx.combine(stacked, static[0])


def _apply(A: Complex[Array, "block block ..."], values: Spinor) -> Spinor:
    """A times features, whose first axis holds blocks of its size."""
    return mix(A, values.reshape(A.shape[0], -1, *values.shape[2:])).reshape(values.shape)


def _plus_one(a: Complex[Array, "n n ..."]) -> Complex[Array, "n n ..."]:
    return a + jnp.asarray(np.eye(a.shape[0]), a.dtype).reshape(*a.shape[:2], *[1] * (a.ndim - 2))


def determinant(a: Complex[Array, "n n ..."]) -> Complex[Array, "..."]:
    """Determinants of small matrices, row and column axes first, expanded along the first row."""
    if a.shape[0] == 1:
        return a[0, 0]
    total = None
    for j in range(a.shape[0]):
        term = (-1) ** j * a[0, j] * determinant(_minor(a, 0, j))
        total = term if total is None else total + term
    return total  # type: ignore[return-value]


def adjugate(a: Complex[Array, "n n ..."]) -> Complex[Array, "n n ..."]:
    """det(a) a^-1."""
    n = a.shape[0]
    if n == 1:
        return jnp.ones_like(a)
    return jnp.stack([jnp.stack([(-1) ** (i + j) * determinant(_minor(a, j, i)) for j in range(n)]) for i in range(n)])


def _minor(a: Complex[Array, "n n ..."], i: int, j: int) -> Complex[Array, "m m ..."]:
    rows = jnp.concatenate([a[:i], a[i + 1 :]])
    return jnp.concatenate([rows[:, :j], rows[:, j + 1 :]], 1)
