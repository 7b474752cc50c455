"""Linear solvers, spectra and determinants for Hermitian operators that are functions on arrays or pytrees of arrays.

A solver takes the operator as a function v -> M v and the right-hand side as a vector: any pytree of real or complex arrays, in
any floating-point precision. Inner products, norms and coefficients are float64 throughout. Batches come from `jax.vmap`, whose
members stop one by one. How a solve went is a value, `SolveInfo`, whose residual is always recomputed from the solution;
`require_converged` turns it into an exception where values are concrete.

`cg` solves one system, `multishift_cg` a family M + sigma, `mixed_precision_cg` iterates in single and corrects in double
precision, and `implicit_solve` can be differentiated. `forecast` guesses where to start. `extreme_eigenvalues` and
`condition_number` come from `lanczos`, log determinants from `stochastic_log_det` and `stochastic_log_det_surrogate`.
"""

from latflow.solvers.cg import cg
from latflow.solvers.forecast import forecast
from latflow.solvers.implicit import implicit_solve
from latflow.solvers.info import MixedSolveInfo, SolveInfo, SolverFailure, require_converged
from latflow.solvers.lanczos import Extremes, Tridiagonal, condition_number, extreme_eigenvalues, lanczos
from latflow.solvers.mixed import mixed_precision_cg
from latflow.solvers.multishift import multishift_cg
from latflow.solvers.stochastic import LogDetEstimate, random_probes, stochastic_log_det, stochastic_log_det_surrogate
from latflow.solvers.vectors import inner

__all__ = [
    "Extremes",
    "LogDetEstimate",
    "MixedSolveInfo",
    "SolveInfo",
    "SolverFailure",
    "Tridiagonal",
    "cg",
    "condition_number",
    "extreme_eigenvalues",
    "forecast",
    "implicit_solve",
    "inner",
    "lanczos",
    "mixed_precision_cg",
    "multishift_cg",
    "random_probes",
    "require_converged",
    "stochastic_log_det",
    "stochastic_log_det_surrogate",
]
