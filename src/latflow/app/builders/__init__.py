"""From configuration to objects. A new kind of theory, prior, flow or baseline is one class in `config` and one row here."""

from latflow.app.builders.baseline import build_baseline
from latflow.app.builders.flows import build_model, exact_prior, exact_samples, start_field
from latflow.app.builders.pseudofermions import build_target, has_exact_determinant
from latflow.app.builders.theory import (
    Setting,
    at_coupling,
    build_action,
    build_boson,
    build_fermion,
    known_values,
    setting,
)

__all__ = [
    "Setting",
    "at_coupling",
    "build_action",
    "build_baseline",
    "build_boson",
    "build_fermion",
    "build_model",
    "build_target",
    "exact_prior",
    "exact_samples",
    "has_exact_determinant",
    "known_values",
    "setting",
    "start_field",
]
