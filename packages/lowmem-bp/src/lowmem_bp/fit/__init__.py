"""Fit step tables: the few-bit stand-ins for an activation's derivative.

Two objectives are offered. ``"derivative"`` minimises the mean squared error of the derivative
itself under a distribution of inputs (Lloyd-Max quantisation); it is the one to use for training.
``"function"`` minimises the squared error between the activation and the piecewise linear function
that the steps integrate to; it is the objective behind the published ReGELU2 and ReSiLU2 constants.

Reference: arXiv 2406.16282, Section 4 (the function objective and its two equalities). The
solvers are our own: an exact dynamic programme, and Levenberg-Marquardt on knots and values, each
with a Newton polish.
"""

from lowmem_bp.fit.calibration import calibrate
from lowmem_bp.fit.derivative import derivative_error
from lowmem_bp.fit.function import function_error
from lowmem_bp.fit.result import StepFit
from lowmem_bp.fit.stepwise import fit_stepwise

__all__ = ["StepFit", "calibrate", "derivative_error", "fit_stepwise", "function_error"]
