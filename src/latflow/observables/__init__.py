"""What is measured on configurations, and what is derived from the means."""

from latflow.observables.base import Observable
from latflow.observables.derived import derived
from latflow.observables.registry import OBSERVABLES, applicable, find, measure

__all__ = ["OBSERVABLES", "Observable", "applicable", "derived", "find", "measure"]
