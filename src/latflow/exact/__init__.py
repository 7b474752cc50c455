"""Theories solved in closed form: 2D U(1) and SU(N) on the torus and the free scalar field, with independent exact samplers."""

from latflow.exact.free_field import FreeField
from latflow.exact.sun_2d import TorusSUN
from latflow.exact.sun_2d_sampler import TorusSUNSampler
from latflow.exact.u1_2d import TorusU1
from latflow.exact.u1_2d_sampler import TorusU1Sampler
from latflow.exact.values import Value, exact_values
from latflow.exact.von_mises import fixed_von_mises

__all__ = ["FreeField", "TorusSUN", "TorusSUNSampler", "TorusU1", "TorusU1Sampler", "Value", "exact_values", "fixed_von_mises"]
