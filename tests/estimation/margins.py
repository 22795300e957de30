"""Margins of pairs, and their calibration slope by another search."""

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import expit


def slope_by_search(margin: np.ndarray, weights: np.ndarray | None = None) -> float:
    """The slope of maximum likelihood by SciPy's search for a minimum."""
    scale = np.abs(margin).max()
    w = np.ones(len(margin)) if weights is None else weights

    def loss(c: float) -> float:
        return float(np.sum(w * np.logaddexp(0, -c * margin / scale)))

    found = minimize_scalar(loss, bracket=(-1, 1), tol=1e-12)
    return float(found.x) / scale


def draw_margins(random: np.random.Generator, size: int, slope: float, spread: float) -> np.ndarray:
    """Margins whose sign is right with the probability that a slope gives."""
    size_of = spread * np.abs(random.standard_t(4, size))
    return np.where(random.random(size) < expit(slope * size_of), size_of, -size_of)
