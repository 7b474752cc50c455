"""Chains have the right law, and interruption, continuation and crashes do not change a bit of them."""

from __future__ import annotations

import signal
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from latflow.actions import FreeScalar, Phi4
from latflow.errors import FileError, Interrupted, LatflowError, MismatchError
from latflow.flows.compose import Identity
from latflow.interrupt import StopRequested
from latflow.io import ensemble as ensemble_module
from latflow.io.ensemble import EnsembleFile
from latflow.kernels import HMC, AbstractKernel, Info, State
from latflow.lattice import Geometry
from latflow.models import FlowModel, NormalPrior
from latflow.samplers import Position, count_unusable, draw_proposals, independence_metropolis, log_weights, run_chain

GEOMETRY = Geometry((4, 2))


def magnetisation(phi):
    return phi.mean()


def slices(phi):
    return phi.mean(-1)


OBSERVABLES = {"m": magnetisation, "slices": slices}


def contents(path: Path) -> dict[str, np.ndarray]:
    with EnsembleFile.open(path) as file:
        file.verify()
        return {name: file.read(name) for name in file.columns}


def assert_identical(a: Path, b: Path) -> None:
    one, two = contents(a), contents(b)
    assert one.keys() == two.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], two[name], err_msg=name)


class StopAfter(StopRequested):
    """Asks to stop at the `n`-th call of the progress callback."""

    def __init__(self, n: int):
        super().__init__()
        self.left = n

    def progress(self, done: int, total: int) -> None:
        self.left -= 1
        if self.left == 0:
            self.request(signal.SIGTERM)


# ----------------------------------------------------------------------------------------------- independence Metropolis


def toy_chain(n: int):
    """Proposals from q on five states for the target p, and the exact transition matrix."""
    q = np.array([0.35, 0.05, 0.2, 0.3, 0.1])
    p = np.array([0.1, 0.25, 0.3, 0.05, 0.3])
    w = p / q
    matrix = q[None] * np.minimum(1, w[None] / w[:, None])
    np.fill_diagonal(matrix, 0)
    matrix += np.diag(1 - matrix.sum(1))
    proposals = np.random.default_rng(1).choice(5, n, p=q)
    return p, matrix, proposals, np.log(w)[proposals]


def test_independence_metropolis_is_reversible_with_the_exact_transition_matrix():
    p, matrix, proposals, log_weight = toy_chain(60_000)
    np.testing.assert_allclose(p[:, None] * matrix, (p[:, None] * matrix).T, atol=1e-15)
    chain = independence_metropolis(jax.random.key(2), jnp.asarray(log_weight))
    states = proposals[np.asarray(chain.chain_index)]
    counts = np.zeros((5, 5))
    np.add.at(counts, (states[:-1], states[1:]), 1)
    visits = counts.sum(1)
    assert visits.min() > 1000
    error = np.sqrt(matrix * (1 - matrix) / visits[:, None])
    assert (np.abs(counts / visits[:, None] - matrix) < 5 * error + 1e-12).all()
    # The slowest mode of the exact matrix gives the effective number of visits.
    slowest = np.sort(np.linalg.eigvals(matrix).real)[-2]
    effective = len(states) * (1 - slowest) / (1 + slowest)
    assert effective > 5000
    assert (np.abs(visits / visits.sum() - p) < 5 * np.sqrt(p * (1 - p) / effective)).all()


def test_independence_metropolis_agrees_with_the_textbook_loop_in_one_piece_or_several():
    key = jax.random.key(4)
    log_weight = np.array(toy_chain(50)[3])
    log_weight[[7, 8, 20]] = [np.nan, -np.inf, np.inf]
    chain = independence_metropolis(key, jnp.asarray(log_weight))
    current, expected = 0, []
    for i, candidate in enumerate(log_weight):
        u = float(jax.random.uniform(jax.random.fold_in(key, i), (), jnp.float64))
        if np.isfinite(candidate) and np.log(u) < candidate - log_weight[current]:
            current = i
        expected.append(current)
    np.testing.assert_array_equal(chain.chain_index, expected)
    np.testing.assert_array_equal(chain.accepted, np.asarray(expected) == np.arange(50))
    assert count_unusable(jnp.asarray(log_weight)) == 3
    assert not np.asarray(chain.accepted)[[7, 8, 20]].any()
    first = independence_metropolis(key, jnp.asarray(log_weight[:15]))
    at = first.chain_index[-1]
    second = independence_metropolis(
        key, jnp.asarray(log_weight[15:]), Position(at, jnp.asarray(log_weight[at]), jnp.asarray(15))
    )
    np.testing.assert_array_equal(np.concatenate([first.chain_index, second.chain_index]), expected)


def test_the_first_usable_proposal_is_the_start():
    chain = independence_metropolis(jax.random.key(0), jnp.asarray([jnp.nan, -jnp.inf, -3.0, -jnp.inf]))
    np.testing.assert_array_equal(chain.chain_index, [2, 2, 2, 2])
    np.testing.assert_array_equal(chain.accepted, [False, False, True, False])


# ----------------------------------------------------------------------------------------------------------- proposals

MODEL = FlowModel(NormalPrior(GEOMETRY, 0.6, jnp.float64), Identity())
FREE = FreeScalar(GEOMETRY, 1.0)


def draw(path: Path, num_samples: int = 75, batch_size: int = 16, seed: int = 0, **options):
    key = jax.random.key(seed)
    defaults = {"theory": {"m2": 1.0}, "save_configurations": True}
    return draw_proposals(MODEL, FREE, OBSERVABLES, path, key, num_samples, batch_size, **{**defaults, **options})


def test_proposals_carry_the_right_densities_measurements_and_chain(tmp_path):
    path = tmp_path / "e.h5"
    seen = []
    summary = draw(path, on_progress=lambda done, total: seen.append((done, total)))
    assert seen == [(n, 75) for n in (16, 32, 48, 64, 75)]
    data = contents(path)
    phi = data["configurations"]
    assert phi.shape == (75, 4, 2)
    np.testing.assert_allclose(data["action"], jax.vmap(FREE)(phi), rtol=1e-13)
    np.testing.assert_allclose(data["log_q"], jax.vmap(MODEL.log_q)(phi), rtol=1e-13)
    np.testing.assert_allclose(data["measurements/slices"], phi.mean(-1), rtol=1e-13)
    with EnsembleFile.open(path) as file:
        weight = log_weights(file)
    chain = independence_metropolis(jax.random.split(jax.random.key(0))[1], jnp.asarray(weight))
    np.testing.assert_array_equal(data["chain_index"], chain.chain_index)
    np.testing.assert_array_equal(data["accepted"], chain.accepted)
    assert summary == (75, data["accepted"].mean(), 0)


def test_the_mean_weight_is_the_partition_function(tmp_path):
    path = tmp_path / "e.h5"
    draw(path, 16384, 4096, save_configurations=False, theory=None)
    with EnsembleFile.open(path) as file:
        assert "configurations" not in file.columns
        weight = np.exp(log_weights(file))
    momenta = [2 * np.pi * np.arange(n) / n for n in GEOMETRY.shape]
    eigenvalues = 1.0 + sum(2 - 2 * np.cos(p) for p in np.meshgrid(*momenta, indexing="ij"))
    exact = np.prod(np.sqrt(np.pi / eigenvalues))
    assert weight.sum() ** 2 / (weight**2).sum() > 1000
    assert abs(weight.mean() - exact) < 5 * weight.std() / np.sqrt(len(weight))


def test_interrupted_crashed_and_continued_proposals_equal_uninterrupted_ones(tmp_path, monkeypatch):
    whole, parts = tmp_path / "whole.h5", tmp_path / "parts.h5"
    draw(whole)
    stop = StopAfter(2)
    with pytest.raises(Interrupted, match=r"stopped by SIGTERM after 32 of 75 samples.*saved"):
        draw(parts, on_progress=stop.progress, stop=stop)
    with monkeypatch.context() as patch, pytest.raises(FileError):
        patch.setattr(ensemble_module.os, "fdatasync", fail)
        draw(parts)
    draw(parts, 52)  # ends inside a batch
    draw(parts)
    assert_identical(whole, parts)
    assert draw(parts).num_samples == 75


def fail(_: int) -> None:
    raise OSError(5, "Input/output error")


@pytest.mark.parametrize(
    "change",
    [{"batch_size": 8}, {"seed": 1}, {"theory": {"m2": 2.0}}, {"save_configurations": False}],
    ids=lambda c: next(iter(c)),
)
def test_proposals_of_another_run_are_refused(tmp_path, change):
    draw(tmp_path / "e.h5", 16)
    before = (tmp_path / "e.h5").read_bytes()
    with pytest.raises(MismatchError, match="there and"):
        draw(tmp_path / "e.h5", 32, **change)
    assert (tmp_path / "e.h5").read_bytes() == before


def test_a_model_that_proposes_nothing_usable_is_an_error(tmp_path):
    broken = FlowModel(NormalPrior(GEOMETRY, float("nan"), jnp.float64), Identity())
    with pytest.raises(LatflowError, match="none of the first 4 proposals has a finite weight: train the model"):
        draw_proposals(broken, FREE, {}, tmp_path / "e.h5", jax.random.key(0), 8, 4)


# -------------------------------------------------------------------------------------------------------------- chains

ACTION = Phi4(GEOMETRY, -1.0, 0.5)
START = jax.random.normal(jax.random.key(8), (3, *GEOMETRY.shape), jnp.float64)


def chain(path: Path, num_steps: int = 12, step_size: float = 0.2, **options):
    kernel = HMC(ACTION, num_steps=3, step_size=step_size)
    defaults = {"thermalisation": 5, "measure_every": 2, "save_every": 3, "observables": OBSERVABLES, "theory": {"m2": -1}}
    return run_chain(kernel, START, path, jax.random.key(1), num_steps, **{**defaults, **options})


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """Uninterrupted chains, which the tests compare with."""
    path = tmp_path_factory.mktemp("chain") / "whole.h5"
    chain(path)
    return path


def test_chains_are_those_of_the_plain_loop(reference):
    kernel = HMC(ACTION, num_steps=3, step_size=0.2)
    step = jax.jit(jax.vmap(kernel.step))
    states = jax.vmap(kernel.init)(START)
    infos = []
    data = contents(reference)
    for i in range(17):
        states, info = step(jax.random.split(jax.random.fold_in(jax.random.key(1), i), 3), states)
        infos.append(info)
        if i >= 5 and (i - 5) % 2 == 1:
            row = (i - 5) // 2
            np.testing.assert_allclose(data["action"][row], states.action, rtol=1e-10)
            np.testing.assert_allclose(data["measurements/slices"][row], states.field.mean(-1), rtol=1e-8, atol=1e-12)
            np.testing.assert_allclose(data["acceptance"][row], (infos[-1].acceptance + infos[-2].acceptance) / 2, rtol=1e-9)
            np.testing.assert_allclose(data["delta_action"][row], info.delta_action, rtol=1e-7, atol=1e-12)
            if row % 3 == 2:
                np.testing.assert_allclose(data["configurations"][row // 3], states.field, rtol=1e-9)
    assert data["configurations"].shape == (2, 3, 4, 2) and (data["non_finite"] == 0).all()


def test_interrupted_crashed_and_continued_chains_equal_uninterrupted_ones(reference, tmp_path, monkeypatch):
    parts = tmp_path / "parts.h5"
    for expected in ("1 of 17", "2 of 17"):  # during thermalisation, in the first, shortest blocks
        stop = StopAfter(1)
        with pytest.raises(Interrupted, match=f"after {expected} steps"):
            chain(parts, on_progress=stop.progress, stop=stop)
    for _ in range(2):
        stop = StopAfter(2)
        with pytest.raises(Interrupted):
            chain(parts, on_progress=stop.progress, stop=stop)
    with monkeypatch.context() as patch, pytest.raises(FileError):
        patch.setattr(ensemble_module.os, "fdatasync", fail)
        chain(parts)
    chain(parts, 8, step_size=0.01)  # the file knows the step size it began with
    summary = chain(parts)
    assert_identical(reference, parts)
    data = contents(parts)
    assert summary == (6, 3, data["acceptance"].mean(), 0)
    assert 0.5 < summary.acceptance <= 1


@pytest.mark.parametrize("change", [{"thermalisation": 6}, {"measure_every": 1}, {"theory": {"m2": 0}}, {"settings": {"n": 2}}])
def test_chains_of_another_run_are_refused(reference, change):
    before = reference.read_bytes()
    with pytest.raises(MismatchError, match=next(iter(change))):
        chain(reference, **change)
    assert reference.read_bytes() == before


class Diverging(AbstractKernel):
    """Meets infinities at every step."""

    width: float = 0.5

    def init(self, field):
        return State(field, jnp.sum(field))

    def step(self, key, state):
        zero = jnp.zeros((), state.action.dtype)
        return state, Info(zero, jnp.asarray(False), zero + jnp.inf, jnp.asarray(False))


def test_a_chain_that_meets_only_infinities_is_stopped_with_advice(tmp_path):
    with pytest.raises(LatflowError, match=r"steps? from 0 to 1 met non-finite numbers: use a smaller step size"):
        run_chain(Diverging(), START, tmp_path / "c.h5", jax.random.key(0), 4)
    with pytest.raises(ValueError, match="divisible"):
        chain(tmp_path / "d.h5", 3)
