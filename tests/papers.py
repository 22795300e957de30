"""The losses of pairs as their papers have them, and how rounding enters.

In NumPy, from the papers and not from the library: what its objectives are compared with.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from scipy.special import expit, log_expit

import didsim
from didsim import Objective

EXO, FLIPS, MODULATION, ALPHA, LENGTH, GUARD = 0.03, 0.2, 0.3, 0.4, 0.02, 3.0
SHIFT, ENTROPY, MIXED, TIES = 0.6, 0.8, 0.3, 2.0


MAKERS: dict[str, Callable[[float], Objective]] = {
    "dpo": didsim.dpo,
    "cdpo": lambda strength: didsim.cdpo(strength, FLIPS),
    "robust": lambda strength: didsim.robust(strength, FLIPS),
    "ipo": didsim.ipo,
    "slic": lambda strength: didsim.slic(strength, 1.5),
    "simpo": lambda strength: didsim.simpo(strength, 0.7),
    "orpo": didsim.orpo,
    "cpo": lambda strength: didsim.cpo(strength, 0.3),
    "exo": lambda strength: didsim.exo(strength, EXO),
    "nca": didsim.nca,
    "bco": didsim.bco,
    "sppo": didsim.sppo,
    "apo_zero": didsim.apo_zero,
    "apo_down": didsim.apo_down,
    "discopop": lambda strength: didsim.discopop(strength, MODULATION),
    "kto": lambda strength: didsim.kto(strength, 1.25, 0.75),
    "dpop": lambda strength: didsim.dpop(strength, GUARD),
    "rdpo": lambda strength: didsim.rdpo(strength, LENGTH),
    "length_normalised_dpo": didsim.length_normalised_dpo,
    "fdpo_forward_kl": didsim.fdpo_forward_kl,
    "fdpo_js": didsim.fdpo_js,
    "fdpo_alpha": lambda strength: didsim.fdpo_alpha(strength, ALPHA),
    "sft": lambda _: didsim.sft(),
    "exponential": didsim.exponential,
    "reference_free": didsim.reference_free,
    "dpo_pg": didsim.dpo_pg,
    "alphapo": lambda strength: didsim.alphapo(strength, 0.7, ALPHA),
    "bdpo": lambda strength: didsim.bdpo(strength, MIXED),
    "chi_po": didsim.chi_po,
    "dpo_rao_kupper": lambda strength: didsim.dpo_rao_kupper(strength, TIES),
    "dpo_shift": lambda strength: didsim.dpo_shift(strength, SHIFT),
    "h_dpo": lambda strength: didsim.h_dpo(strength, ENTROPY),
    "npo": didsim.npo,
}
"""Every objective by its first argument, with others unlike their defaults."""


def make(strength: float) -> dict[str, Objective]:
    """Every objective of `MAKERS`, with its first argument."""
    return {name: of_strength(strength) for name, of_strength in MAKERS.items()}


class Pair(NamedTuple):
    """Log-probabilities and lengths of a chosen (`w`) and a rejected (`l`) sequence.

    Attributes:
        z: what KTO and BCO compare rewards with.
    """

    w: Any
    l: Any  # noqa: E741
    ref_w: Any
    ref_l: Any
    n_w: Any
    n_l: Any
    z: Any = 0.0

    @property
    def t_w(self) -> Any:
        return self.w - self.ref_w

    @property
    def t_l(self) -> Any:
        return self.l - self.ref_l

    @property
    def t(self) -> Any:
        return self.t_w - self.t_l


def log_odds(log_p: Any) -> Any:
    """`log(P/(1 − P))`, with `1 − P` held above the smallest normal number."""
    tiny = np.finfo(np.asarray(log_p).dtype).tiny
    return log_p - np.log(np.maximum(-np.expm1(log_p), tiny))


def with_likeliest_from_the_others(log_p: Any) -> Any:
    """A policy in long doubles, in which the likeliest sequence has exactly what the others leave.

    A double cannot tell a probability of 1 − 1e-20 from 1, but it holds its logarithm, `log(1 − rest)`.
    """
    wide = np.asarray(log_p, np.longdouble)
    likeliest = np.argmax(wide)
    rest = np.exp(np.delete(wide, likeliest)).sum()
    return np.where(np.arange(len(wide)) == likeliest, np.log1p(-rest), wide)


def _exo(b: float, q: Pair) -> Any:
    wins, loses = expit(b * q.t), expit(-b * q.t)
    return wins * (log_expit(b * q.t) - np.log(1 - EXO)) + loses * (log_expit(-b * q.t) - np.log(EXO))


def _discopop(b: float, q: Pair) -> Any:
    rho = b * q.t
    # e^−ρ σ(ρ/τ) as one exponential, since its factors overflow and vanish.
    exponential = np.exp(-rho + log_expit(rho / MODULATION))
    return -log_expit(rho) * (1 - expit(rho / MODULATION)) + exponential


def _js(b: float, t: Any) -> Any:
    """`b · log(2u/(1 + u))` for `u = e^t`."""
    return b * (np.log(2) + t - np.logaddexp(0, t))


def _power(b: float, log_p: Any) -> Any:
    """`b · (1 − P^−α)/α`."""
    return b * -np.expm1(-ALPHA * log_p) / ALPHA


# With `b` for the first argument of an objective, and other arguments as in `make`.
PAPERS: dict[str, Callable[[float, Pair], Any]] = {
    # Rafailov et al., equation 7.
    "dpo": lambda b, q: -log_expit(b * q.t_w - b * q.t_l),
    # Mitchell: the cross-entropy with labels flipped at a rate.
    "cdpo": lambda b, q: -(1 - FLIPS) * log_expit(b * q.t) - FLIPS * log_expit(-b * q.t),
    # Chowdhury et al., section 3.1.
    "robust": lambda b, q: (
        (-(1 - FLIPS) * log_expit(b * q.t) + FLIPS * log_expit(-b * q.t)) / (1 - 2 * FLIPS)
    ),
    # Azar et al., equation 17.
    "ipo": lambda b, q: (q.t - 1 / (2 * b)) ** 2,
    # Zhao et al., section 2, with the log-ratio for log π.
    "slic": lambda b, q: np.maximum(0, 1.5 - b * q.t_w + b * q.t_l),
    # Meng et al., equation 6.
    "simpo": lambda b, q: -log_expit(b / q.n_w * q.w - b / q.n_l * q.l - 0.7),
    # Hong et al., equations 6 and 7.
    "orpo": lambda b, q: -q.w / q.n_w - b * log_expit(log_odds(q.w / q.n_w) - log_odds(q.l / q.n_l)),
    # Xu et al., equation 5, with 0.3 for the weight of the likelihood.
    "cpo": lambda b, q: -log_expit(b * q.w - b * q.l) - 0.3 * q.w,
    # Ji et al., equation 16.
    "exo": _exo,
    # Chen et al., section 4.1.
    "nca": lambda b, q: -log_expit(b * q.t_w) - 0.5 * log_expit(-b * q.t_w) - 0.5 * log_expit(-b * q.t_l),
    # Jung et al., section 4, without weights for prompts.
    "bco": lambda b, q: -log_expit(b * q.t_w - q.z) - log_expit(-(b * q.t_l - q.z)),
    # Wu et al., equation 4.7, with a win rate of 1 for the chosen and 0 for the rejected, and η = 1/b.
    "sppo": lambda b, q: (q.t_w - (1 - 1 / 2) / b) ** 2 + (q.t_l - (0 - 1 / 2) / b) ** 2,
    # D'Oosterlinck et al., equations 7 and 8.
    "apo_zero": lambda b, q: (1 - expit(b * q.t_w)) + expit(b * q.t_l),
    "apo_down": lambda b, q: expit(b * q.t_w) + (1 - expit(b * (q.t_w - q.t_l))),
    # Lu et al., equation 5.
    "discopop": _discopop,
    # Ethayarajh et al., equation 8, with λ_y for constants of 1.25 and 0.75.
    "kto": lambda b, q: 1.25 * (1 - expit(b * q.t_w - q.z)) + 0.75 * (1 - expit(q.z - b * q.t_l)),
    # Pal et al., equation 3.
    "dpop": lambda b, q: -log_expit(b * (q.t_w - q.t_l - GUARD * np.maximum(0, q.ref_w - q.w))),
    # Park et al.: DPO on rewards less LENGTH for each token.
    "rdpo": lambda b, q: -log_expit(b * q.t_w - b * q.t_l + (LENGTH * q.n_w - LENGTH * q.n_l)),
    # Lambert et al., equation 6.
    "length_normalised_dpo": lambda b, q: -log_expit(b / q.n_w * q.t_w - b / q.n_l * q.t_l),
    # Wang et al., table 1: f′(u) is −1/u, log(2u/(1 + u)) and (1 − u^−α)/α.
    "fdpo_forward_kl": lambda b, q: -log_expit(b * -np.exp(-q.t_w) - b * -np.exp(-q.t_l)),
    "fdpo_js": lambda b, q: -log_expit(_js(b, q.t_w) - _js(b, q.t_l)),
    "fdpo_alpha": lambda b, q: (
        -log_expit(b * (1 - np.exp(-ALPHA * q.t_w)) / ALPHA - b * (1 - np.exp(-ALPHA * q.t_l)) / ALPHA)
    ),
    "sft": lambda b, q: -q.w,
    # Tang et al., table 1.
    "exponential": lambda b, q: np.exp(-b * q.t),
    "reference_free": lambda b, q: -log_expit(b * q.w - b * q.l),
    "dpo_pg": lambda b, q: PAPERS["dpo"](b, q),
    # Gupta et al., section 3: SimPO with (1 − P^−α)/α for log P.
    "alphapo": lambda b, q: -log_expit(_power(b, q.w / q.n_w) - _power(b, q.l / q.n_l) - 0.7),
    # Cho et al., section 4: the rejected sequence's probability is that of λπ + (1 − λ)ref.
    "bdpo": lambda b, q: (
        -log_expit(b * q.t_w - b * (np.logaddexp(np.log(MIXED) + q.l, np.log(1 - MIXED) + q.ref_l) - q.ref_l))
    ),
    # Huang et al., algorithm 1, without clipping: φ(z) = z + log z.
    "chi_po": lambda b, q: -log_expit(b * (np.exp(q.t_w) + q.t_w) - b * (np.exp(q.t_l) + q.t_l)),
    # Rao and Kupper: π_i / (π_i + θ π_j).
    "dpo_rao_kupper": lambda b, q: np.logaddexp(0, np.log(TIES) - b * q.t),
    # Yang et al., section 3, with a constant for f(λ).
    "dpo_shift": lambda b, q: -log_expit(b * q.t_w - SHIFT * b * q.t_l),
    # Omura et al., section 4.
    "h_dpo": lambda b, q: -log_expit(b * (ENTROPY * (q.w - q.l) - (q.ref_w - q.ref_l))),
    # Zhang et al., section 3.
    "npo": lambda b, q: -2 / b * log_expit(-b * q.t_l) + 0 * q.w,
}
NAMES = tuple(PAPERS)
BASELINES = ("bco", "kto")
REFERENCE_FREE = ("simpo", "orpo", "cpo", "sft", "reference_free", "alphapo")
KINKED = ("slic", "dpop")
# They minimise nothing on ordinary instances: a gradient rule, and losses whose policy runs off.
NO_LIMIT = ("dpo_pg", "apo_down", "npo")
PER_TOKEN = ("simpo", "orpo", "rdpo", "length_normalised_dpo", "alphapo")
# They compare ranks of a batch, or depend on single tokens, and have tests of their own.
OTHERS = ("aot", "aot_unpaired", "ld_dpo", "wpo")


def magnitude(name: str, b: float, p: Any, ref: Any, n: Any) -> Any:
    """How large the numbers are that make up the reward of a sequence: what its rounding is relative to."""
    t = np.abs(p - ref)
    match name:
        case "ipo" | "sppo":
            return t
        case "sft":
            return np.abs(p)
        case "cpo" | "reference_free":
            return b * np.abs(p)
        case "simpo":
            return b * np.abs(p) / n
        case "orpo":
            return np.abs(log_odds(p / n)) + 1
        case "rdpo":
            return b * t + LENGTH * n
        case "dpop":
            return b * (1 + GUARD) * t
        case "discopop":
            return b * t / MODULATION
        case "length_normalised_dpo":
            return b * t / n
        case "fdpo_js" | "bdpo":
            return b * (1 + t)
        case "h_dpo":
            return b * (t + np.abs(p))
        case "chi_po":
            return b * (np.exp(p - ref) * (1 + t) + t)
        case "alphapo":
            return b * (1 + np.exp(-ALPHA * p / n) * (1 + np.abs(p) / n)) / ALPHA
        case "fdpo_forward_kl":
            return b * np.exp(ref - p) * (1 + t)
        case "fdpo_alpha":
            return b * (1 + np.exp(ALPHA * (ref - p)) * (1 + t)) / ALPHA
    return b * t


def slope(name: str, b: float, size: Any) -> Any:
    """By how much a loss moves with the rewards of both sequences, at most, where these are of a size."""
    match name:
        case "ipo" | "sppo":
            return 2 * (2 * size + 1 / (2 * b))
        case "orpo":
            return b
        case "robust":
            return (1 - FLIPS) / (1 - 2 * FLIPS)
        # |−log σ(d) m′(d)| and (e^−d m)′ are below 1/τ and 1/τ + 1.
        case "discopop":
            return 2 / MODULATION + 2
        case "exponential":
            return np.exp(2 * size)
        case "nca" | "bco" | "kto" | "exo":
            return 2.0
        case "npo":
            return 2 / b
    return 1.0


def rounding(name: str, b: float, size: Any) -> Any:
    """The rounding of a loss, in units of machine epsilon, for rewards of at most a size.

    A reward is off by two roundings of its size, a difference by a third, on both sides of a comparison:
    12 of a size, with two sequences. Constants are at most 4, but for the centre of a square.
    """
    constant = 1 / (2 * b) if name in ("ipo", "sppo") else 4.0
    # A baseline is a mean of rewards, and comes on top.
    return slope(name, b, size) * (12 * size * (2 if name in BASELINES else 1) + 4 * constant)
