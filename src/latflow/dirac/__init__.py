"""Dirac operators: Wilson (with clover term), Wilson and staggered Yukawa, and their even/odd complements.

An `AbstractFermion` turns a configuration into a `Dirac` operator, whose `schur()` is the even/odd complement. Operators are
matrix-free and for one configuration; batches come from `jax.vmap`. `dense` is the matrix, for reference and small lattices.
"""

from latflow.dirac.base import AbstractDirac, Spinor, dense
from latflow.dirac.boundary import Boundary
from latflow.dirac.fermions import AbstractFermion, StaggeredYukawa, WilsonFermion, WilsonYukawa
from latflow.dirac.operators import Dirac, Schur

__all__ = [
    "AbstractDirac",
    "AbstractFermion",
    "Boundary",
    "Dirac",
    "Schur",
    "Spinor",
    "StaggeredYukawa",
    "WilsonFermion",
    "WilsonYukawa",
    "dense",
]
