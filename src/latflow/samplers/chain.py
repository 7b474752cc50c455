"""Markov chains of any kernel: many chains at once, streamed to a file from which they resume bit for bit."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Inexact, PRNGKeyArray, PyTree

from latflow import interrupt
from latflow.errors import LatflowError
from latflow.interrupt import StopRequested
from latflow.io.ensemble import EnsembleFile
from latflow.kernels.base import AbstractKernel, Info
from latflow.samplers.measured import Observable, measured

Progress = Callable[[int, int], None]
_SECONDS_PER_BLOCK = 1.0
_BUFFER_BYTES = 1 << 28


class ChainSummary(NamedTuple):
    """Of the whole file: rows, chains, mean acceptance, and steps that met non-finite numbers (and were rejected)."""

    num_rows: int
    chains: int
    acceptance: float
    non_finite: int


def run_chain(
    kernel: AbstractKernel,
    fields: Inexact[Array, "chains ..."],
    path: Path | str,
    key: PRNGKeyArray,
    num_steps: int,
    *,
    thermalisation: int = 0,
    measure_every: int = 1,
    save_every: int = 0,
    observables: Mapping[str, Observable] | None = None,
    theory: Any = None,
    settings: Any = None,
    metadata: Any = None,
    on_progress: Progress | None = None,
    stop: StopRequested | None = None,
) -> ChainSummary:
    """Run chains from the configurations `fields` until the ensemble file at `path` holds `num_steps` steps of each.

    After `thermalisation` steps that leave no trace, every `measure_every`-th step makes a row: `action`, `acceptance` (mean
    over the steps since the last row), `delta_action` (of the last step), `non_finite` (steps), and of kernels with solvers
    `solver_iterations` (per solve, mean over the steps), `solver_failures` (steps) and `solver_residual` (the largest relative
    residual of those that failed), each (chains,), and `measurements/<name>` (chains, ...) for each of `observables` (functions
    of one configuration; of one that returns {name: value}, for each of its entries). With `save_every` = k > 0 every k-th row
    also has its `configurations` (chains, *field).

    Step i draws from `fold_in(key, i)`, and every block of steps runs in the same compiled program. The file also holds the
    arrays and numbers of the kernel (such as a tuned step size) and of its state as of the last row; an existing file is
    continued with these, and `kernel` and `fields` then only give the structure. So interrupted, continued and uninterrupted
    chains agree bit for bit. `theory`, `settings` (which must agree when a file is continued) and `metadata` (which need not)
    are stored as JSON.

    Raises MismatchError if the file is of another run, Interrupted (after saving) if `stop` is set, FileError for problems
    with the file, LatflowError if every step of a block met non-finite numbers, ValueError for impossible arguments.
    """
    if min(num_steps, measure_every) < 1 or min(thermalisation, save_every) < 0 or num_steps % measure_every:
        raise ValueError(
            f"num_steps={num_steps} and measure_every={measure_every} must be positive and divisible, "
            f"thermalisation={thermalisation} and save_every={save_every} not negative"
        )
    begin = _start if not Path(path).exists() else eqx.Partial(eqx.filter_eval_shape, _start)
    states = begin(kernel, fields)
    shapes = eqx.filter_eval_shape(_record, dict(observables or {}), states, _blank_info(kernel, states), bool(save_every))
    columns = {name: (leaf.shape, leaf.dtype, save_every if name == "configurations" else 1) for name, leaf in shapes.items()}
    fixed = {
        "key": np.asarray(jax.random.key_data(key)).tolist(),
        "thermalisation": thermalisation,
        "measure_every": measure_every,
        "settings": settings,
    }
    file = EnsembleFile.open_or_create(
        path,
        "chain",
        theory,
        columns,
        settings=fixed,
        metadata=metadata,
        state=_pack(kernel, states, 0),
        capacity=num_steps // measure_every,
    )
    with file:
        kernel, states, step = _unpack(file.read_state(), kernel, states)
        advance = _Advance(file, kernel, key, dict(observables or {}), shapes, measure_every, save_every)
        total = thermalisation + num_steps
        while step < total:
            states, step = advance(states, step, thermalisation, total)
            if on_progress is not None:
                on_progress(step, total)
            interrupt.check(stop, f"{step} of {total} steps")
        acceptance, non_finite = file.read("acceptance"), file.read("non_finite")
        return ChainSummary(file.n_committed, len(fields), float(acceptance.mean(dtype=float)), int(non_finite.sum()))


class _Advance:
    """Runs one block of steps and commits it. Blocks are sized so as to take about a second, which bounds what a kill loses
    and how long a request to stop waits; the numbers do not depend on their size."""

    def __init__(self, file, kernel, key, observables, shapes, measure_every: int, save_every: int):
        self.file, self.kernel, self.key, self.observables = file, kernel, key, observables
        self.measure_every, self.save_every = measure_every, save_every
        row_bytes = sum(leaf.size * leaf.dtype.itemsize for leaf in shapes.values())
        self.max_rows = int(np.clip(_BUFFER_BYTES // row_bytes, 1, 64))
        self.steps: float = 1  # how many fit into a block
        self.compiled = False

    def __call__(self, states: PyTree, step: int, thermalisation: int, total: int) -> tuple[PyTree, int]:
        began = time.perf_counter()
        if step < thermalisation:
            per_row, rows = min(thermalisation - step, max(1, int(self.steps))), 1
        else:
            left = (total - step) // self.measure_every
            per_row, rows = self.measure_every, int(np.clip(self.steps // self.measure_every, 1, min(left, self.max_rows)))
        states, buffers = _block(
            self.kernel,
            self.observables,
            states,
            self.key,
            jnp.asarray([step, rows, per_row]),
            self.max_rows,
            bool(self.save_every),
        )
        records = {name: np.asarray(value)[:rows] for name, value in buffers.items()}
        if records["non_finite"].sum() == per_row * records["non_finite"].size:
            steps = f"every step from {step} to {step + rows * per_row}"
            if "solver_failures" in records and np.array_equal(records["solver_failures"], records["non_finite"]):
                worst = float(records["solver_residual"].max())
                raise LatflowError(
                    f"{steps} met a linear solve that did not converge, with relative residuals up to {worst:.1e}",
                    "allow more iterations (max_iterations) or a larger mass",
                )
            raise LatflowError(
                f"{steps} met non-finite numbers", "use a smaller step size, or start from another configuration"
            )
        count = 0 if step < thermalisation else rows
        if self.save_every and count:
            n = self.file.n_committed
            due = (np.arange(n, n + rows) + 1) % self.save_every == 0
            records["configurations"] = records["configurations"][due]
        step += rows * per_row
        self.file.append(records if count else {}, _pack(self.kernel, states, step), count=count)
        seconds = time.perf_counter() - began
        if self.compiled:
            self.steps = min(16 * self.steps, rows * per_row * _SECONDS_PER_BLOCK / seconds)
        self.compiled = True
        return states, step


@eqx.filter_jit
def _start(kernel: AbstractKernel, fields: Array) -> PyTree:
    """Kernel states of all chains, chain axis last."""
    return jax.vmap(kernel.init, in_axes=-1, out_axes=-1)(jnp.moveaxis(fields, 0, -1))


@eqx.filter_jit
def _block(
    kernel: AbstractKernel,
    observables: dict[str, Observable],
    states: PyTree,
    key: PRNGKeyArray,
    extent: Array,
    max_rows: int,
    with_fields: bool,
) -> tuple[PyTree, dict[str, Array]]:
    """`extent` = (first step, rows, steps per row), traced, so that blocks of every size share one program."""
    first, rows, per_row = extent
    chains = jax.tree.leaves(states)[0].shape[-1]
    blank = _blank_info(kernel, states)
    shapes = jax.eval_shape(lambda s, i: _record(observables, s, i, with_fields), states, blank)
    buffers = {name: jnp.zeros((max_rows, *leaf.shape), leaf.dtype) for name, leaf in shapes.items()}

    def one_step(i, carry):
        states, counts = carry
        keys = jax.random.split(jax.random.fold_in(key, i), chains)
        states, info = jax.vmap(kernel.step, in_axes=(0, -1), out_axes=-1)(keys, states)
        return states, counts.and_of(info)

    def one_row(row, carry):
        states, buffers = carry
        start = first + row * per_row
        states, counts = jax.lax.fori_loop(start, start + per_row, one_step, (states, blank))
        record = _record(observables, states, counts.over(per_row), with_fields)
        return states, {name: buffer.at[row].set(record[name]) for name, buffer in buffers.items()}

    return jax.lax.fori_loop(0, rows, one_row, (states, buffers))


class _Counts(NamedTuple):
    """Of the steps since the last row, each (chains,): sums, the last `delta_action`, the largest `solver_residual`. For
    solvers see `Info`."""

    acceptance: Array
    delta_action: Array
    non_finite: Array
    solver_iterations: Array | None
    solver_failures: Array | None
    solver_residual: Array | None

    def and_of(self, info: Info) -> _Counts:
        """With those of one more step."""
        return _Counts(
            self.acceptance + info.acceptance,
            info.delta_action,
            self.non_finite + ~info.finite,
            _added(self.solver_iterations, info.solver_iterations),
            _added(self.solver_failures, info.solver_failed),
            _larger(self.solver_residual, info.solver_residual),
        )

    def over(self, steps: Array) -> _Counts:
        """Means of what is not a number of steps."""
        iterations = self.solver_iterations
        return self._replace(
            acceptance=self.acceptance / steps.astype(self.acceptance.dtype),
            solver_iterations=None if iterations is None else iterations / steps.astype(iterations.dtype),
        )


def _added(total: Array | None, more: Array | None) -> Array | None:
    return None if total is None or more is None else total + more


def _larger(most: Array | None, other: Array | None) -> Array | None:
    return None if most is None or other is None else jnp.maximum(most, other)


def _blank_info(kernel: AbstractKernel, states: PyTree) -> _Counts:
    """Zeros."""
    one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[:-1], leaf.dtype), states)
    info = eqx.filter_eval_shape(kernel.step, jax.random.key(0), one)[1]
    chains = jax.tree.leaves(states)[0].shape[-1]
    count = jnp.zeros(chains, jnp.int32)
    return _Counts(
        jnp.zeros(chains, info.acceptance.dtype),
        jnp.zeros(chains, info.delta_action.dtype),
        count,
        None if info.solver_iterations is None else jnp.zeros(chains, info.solver_iterations.dtype),
        None if info.solver_failed is None else count,
        None if info.solver_residual is None else jnp.zeros(chains, info.solver_residual.dtype),
    )


def _record(observables: dict[str, Observable], states: Any, counts: _Counts, with_fields: bool) -> dict[str, Array]:
    """What one row holds, chain axis first."""
    out = {"action": states.action} | {name: value for name, value in counts._asdict().items() if value is not None}
    out |= measured(observables, states.field)
    return {**out, "configurations": jnp.moveaxis(states.field, -1, 0)} if with_fields else out


def _leaves(kernel: AbstractKernel, states: PyTree) -> dict[str, Any]:
    """Arrays and numbers of the kernel and of its states, by name. There is nothing to store of an empty array."""
    parts = {"kernel": eqx.filter(kernel, eqx.is_array_like), "chain": states}
    named = {f"{part}/{i:03d}": leaf for part, tree in parts.items() for i, leaf in enumerate(jax.tree.leaves(tree))}
    return {name: leaf for name, leaf in named.items() if 0 not in np.shape(leaf)}


def _pack(kernel: AbstractKernel, states: PyTree, step: int) -> dict[str, Any]:
    leaves = _leaves(kernel, states)
    arrays = {k: v if isinstance(v, jax.ShapeDtypeStruct) else np.asarray(v) for k, v in leaves.items()}
    return {**arrays, "step": np.asarray(step, np.int64)}


def _unpack(stored: dict[str, np.ndarray], kernel: AbstractKernel, states: PyTree) -> tuple[AbstractKernel, PyTree, int]:
    """The kernel, states and step count of a file; `kernel` and `states` give the structure."""
    numbers, rest = eqx.partition(kernel, eqx.is_array_like)

    def restored(part: str, tree: PyTree) -> PyTree:
        leaves, structure = jax.tree.flatten(tree)
        values = [_like(leaf, stored.get(f"{part}/{i:03d}")) for i, leaf in enumerate(leaves)]
        return jax.tree.unflatten(structure, values)

    return eqx.combine(restored("kernel", numbers), rest), restored("chain", states), int(stored["step"])


def _like(leaf: Any, value: np.ndarray | None) -> Any:
    if value is None or isinstance(leaf, np.ndarray | np.generic):
        return leaf if value is None else value
    return value.item() if isinstance(leaf, bool | int | float | complex) else jnp.asarray(value)
