"""Which runs a figure takes, in which budget, and what the paper found."""

# ruff: noqa: RUF001  (titles are typeset)

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

from latflow.app.report.drawing import Panel
from latflow.app.report.run_data import RunData
from latflow.app.reproduce import drawings

Row = tuple[str, str, str]  # quantity, the paper's value, ours
Draw = Callable[[Mapping[str, RunData]], tuple[list[Panel], list[Row]]]
BUDGETS = ("minutes", "paper")


@dataclasses.dataclass(frozen=True)
class Part:
    """One run: a recipe with the settings of the part, and those that the budget of the paper adds. Parts of the same name are
    the same run, so that figures share it."""

    name: str
    recipe: str
    settings: tuple[str, ...] = ()
    paper: tuple[str, ...] = ()

    def overrides(self, budget: str) -> list[str]:
        return [*self.settings, *(self.paper if budget == "paper" else ())]


@dataclasses.dataclass(frozen=True)
class Figure:
    """A figure of the paper with this arXiv number."""

    title: str
    paper: str
    parts: tuple[Part, ...]
    draw: Draw
    compares_with_hmc: bool = False


# Monomials, layers, batch sizes, steps and optimisers of the papers (2207.08945, appendix on training; 2208.03832, Sec. 3).
# Gauge fields come from the exact prior or the heatbath in place of the papers' flows. The networks of S1, S3 and S4 act on top
# of the incomplete factorisation; those of the comparison of preconditionings act alone, as in the paper, where the budget of
# minutes compares factorisations.
def _optimiser(rate: float, epsilon: float, halved_every: int) -> tuple[str, ...]:
    return (
        "train.optimizer=adamw",
        f"train.learning_rate={rate}",
        f"train.epsilon={epsilon}",
        "train.schedule=step",
        f"train.decay_every={halved_every}",
    )


_S1 = Part(
    "schwinger-l16",
    "reproduce-schwinger",
    paper=(
        "pseudofermions.hasenbusch=[0.001, 0.01, 0.05]",
        "pseudofermions.layers=32",
        "pseudofermions.n_pt=6",
        *_optimiser(7e-4, 0.02, 20000),
        "train.steps=50000",
        "train.batch_size=1344",
        "train.log_every=250",
        "pseudofermions.draws=64",
        "sample.num_samples=102400",
        "baseline.trajectories=16250",
    ),
)
_S3 = Part(
    "su3-2d-l16",
    "reproduce-su3-2d",
    paper=(
        "pseudofermions.kind=network",
        "pseudofermions.layers=48",
        "pseudofermions.n_pt=6",
        "pseudofermions.features=4",
        "pseudofermions.partition=alternating",
        *_optimiser(5e-4, 0.01, 10000),
        "train.steps=54000",
        "train.batch_size=576",
        "train.evaluate=2048",
        "train.log_every=500",
        "sample.num_samples=40960",
    ),
)
_S4 = Part(
    "qcd-4d",
    "reproduce-qcd-4d",
    paper=(
        "pseudofermions.kind=network",
        "pseudofermions.layers=36",
        "pseudofermions.n_pt=6",
        "pseudofermions.features=4",
        "pseudofermions.hidden=[8]",
        "pseudofermions.partition=rotating",
        "pseudofermions.gain=0.3",
        "pseudofermions.bias_std=0.05",
        "pseudofermions.draws=64",
        "train.learning_rate=1e-4",
        "train.clip_norm=10.0",
        "train.clip_value=0.1",
        "train.steps=61000",
        "train.batch_size=640",
        "train.log_every=500",
        "sample.num_samples=65536",
        "baseline.trajectories=8192",
    ),
)
# label, section [pseudofermions]
PRECONDITIONINGS = {
    "none": ("pseudofermions.even_odd=false",),
    "EO": (),
    "EO+H1": ("pseudofermions.hasenbusch=[0.001]",),
    "EO+H2": ("pseudofermions.hasenbusch=[0.001, 0.01]",),
    "EO+H3": ("pseudofermions.hasenbusch=[0.001, 0.01, 0.05]",),
}
_S2 = tuple(
    Part(
        f"preconditioning-{label}",
        "reproduce-preconditioning",
        settings,
        paper=(
            "pseudofermions.kind=network",
            "pseudofermions.reach=none",
            "pseudofermions.layers=24",
            f"pseudofermions.n_pt={3 if label == 'none' else 6}",
            "train.steps=30000",
            "train.batch_size=4096",
            *_optimiser(5e-4, 0.02, 10000),
            "train.log_every=250",
            "train.evaluate=4096",
        ),
    )
    for label, settings in PRECONDITIONINGS.items()
)

FIGURES = {
    "fig2": Figure("Schwinger model, 16×16: joint and marginal ESS in training", "2207.08945", (_S1,), drawings.training_s1),
    "fig3": Figure("Schwinger model, 16×16: ESS against the number of draws", "2207.08945", (_S1,), drawings.draws_s1),
    "fig4": Figure("Schwinger model, 8×8: five preconditionings", "2207.08945", _S2, drawings.preconditionings),
    "fig5": Figure("2D SU(3), 16×16: joint and marginal ESS", "2207.08945", (_S3,), drawings.training_s3),
    "fig6": Figure("Schwinger model, 16×16: distributions", "2207.08945", (_S1,), drawings.histograms_s1, True),
    "fig7": Figure("2D SU(3), 16×16: distributions", "2207.08945", (_S3,), drawings.histograms_s3, True),
    "qcd-fig2": Figure("Lattice QCD, 4⁴: distributions", "2208.03832", (_S4,), drawings.histograms_s4, True),
    "qcd-fig3": Figure("Lattice QCD, 4⁴: residuals over all bins", "2208.03832", (_S4,), drawings.residuals_s4),
}
