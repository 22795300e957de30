"""What an assumption is worth: the smallest instance that breaks a statement when it is dropped.

Instances are searched from the smallest space and the simplest fractions upwards.
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction

import jax.numpy as jnp
import msgspec
import numpy as np

from didsim.fixed_points.solve import fixed_point, solve
from didsim.information import did, expectation, js
from didsim.margins import check_order, fit_power_law
from didsim.objectives.catalogue import dpo, ipo, simpo, slic
from didsim.preferences.contrastive import Contrastive
from didsim.preferences.explicit import Pairs
from didsim.preferences.rejected import optimal_rejected

_Distribution = tuple[Fraction, ...]
_Instance = dict[str, _Distribution | Fraction | str]


class Found(msgspec.Struct, frozen=True):
    """The smallest instance that was found.

    Attributes:
        name: of the counterexample.
        of: the check whose statement breaks.
        dropped: the assumption.
        breaks: what no longer holds.
        size: the number of sequences; 0 if none was found.
        instance: what it is made of, as text.
        deviation: by how much the statement is broken; None if no instance was found.
        unit: of the deviation.
    """

    name: str
    of: str
    dropped: str
    breaks: str
    size: int
    instance: dict[str, str]
    deviation: float | None
    unit: str


@dataclass(frozen=True)
class Counterexample:
    """A statement without one of its assumptions.

    Attributes:
        name: what it is called by.
        of: the check of the statement.
        dropped: the assumption.
        breaks: what no longer holds.
        unit: of the deviation.
        candidates: instances over a number of sequences, the simplest first.
        deviation: by how much an instance breaks the statement; 0 or NaN if it does not.
        least: what counts as broken.
    """

    name: str
    of: str
    dropped: str
    breaks: str
    unit: str
    candidates: Callable[[int], Iterator[_Instance]]
    deviation: Callable[[_Instance], float]
    least: float = 0.01

    def find(self, largest: int = 4) -> Found:
        """Search spaces of 1, 2, … sequences for the first instance that breaks the statement."""
        for size in range(1, largest + 1):
            for instance in self.candidates(size):
                deviation = self.deviation(instance)
                if deviation > self.least:
                    text = {name: _text(value) for name, value in instance.items()}
                    return Found(
                        self.name, self.of, self.dropped, self.breaks, size, text, deviation, self.unit
                    )
        return Found(self.name, self.of, self.dropped, self.breaks, 0, {}, None, self.unit)


def _text(value: _Distribution | Fraction | str) -> str:
    if isinstance(value, tuple):
        return "(" + ", ".join(map(str, value)) + ")"
    return str(value)


def _distributions(size: int, parts: int) -> list[_Distribution]:
    """All distributions whose probabilities are whole positive multiples of `1/parts`."""
    cuts = itertools.combinations(range(1, parts), size - 1)
    return [tuple(Fraction(b - a, parts) for a, b in itertools.pairwise((0, *cut, parts))) for cut in cuts]


def _by_simplicity(size: int, *names: str) -> Iterator[_Instance]:
    """Tuples of distributions with the smallest denominators first."""
    for parts in range(size, size + 4):
        known = [p for k in range(size, parts + 1) for p in _distributions(size, k)]
        unique = list(dict.fromkeys(known))
        for chosen in itertools.product(unique, repeat=len(names)):
            if max(p[0].denominator for p in chosen) >= 1:
                yield dict(zip(names, chosen, strict=True))


def _log(value: object) -> jnp.ndarray:
    assert isinstance(value, tuple)
    with np.errstate(divide="ignore"):
        return jnp.asarray(np.log(np.array(value, float)))


_BETA = 1.0


def _js_of_dpo(instance: _Instance) -> float:
    reference, target = _log(instance["reference"]), _log(instance["target"])
    problem = Contrastive(reference, _log(instance["rejected"]))
    return float(js(fixed_point(dpo(_BETA), reference, problem), target))


def _js_of_other_beta(instance: _Instance) -> float:
    reference, target = _log(instance["reference"]), _log(instance["target"])
    problem = Contrastive(reference, optimal_rejected(reference, target, _BETA))
    return float(js(fixed_point(dpo(2 * _BETA), reference, problem), target))


def _js_of_simpo(instance: _Instance) -> float:
    reference, target = _log(instance["reference"]), _log(instance["target"])
    problem = Contrastive(reference, optimal_rejected(reference, target, _BETA))
    return float(js(fixed_point(simpo(_BETA, gamma=0), reference, problem), target))


def _js_of_ipo(instance: _Instance) -> float:
    reference, target = _log(instance["reference"]), _log(instance["target"])
    problem = Contrastive(reference, optimal_rejected(reference, target, _BETA))
    return float(js(fixed_point(ipo(_BETA), reference, problem), target))


def _without_support(size: int) -> Iterator[_Instance]:
    if size > 1:
        lacking = (Fraction(1), *[Fraction(0)] * (size - 1))
        for reference in _distributions(size, size):
            yield {"reference": reference, "chosen": reference, "rejected": lacking}


def _unidentified(instance: _Instance) -> float:
    problem = Contrastive(_log(instance["chosen"]), _log(instance["rejected"]))
    certificate = solve(dpo(_BETA), _log(instance["reference"]), problem).certificate
    return float((~np.asarray(certificate.identified)).sum())


def _one_sided_data(size: int) -> Iterator[_Instance]:
    if size > 1:
        wins = tuple(f"{k} beats {k + 1}" for k in range(size - 1))
        yield {"reference": _distributions(size, size)[0], "pairs": ", ".join(wins)}


def _unidentified_by_data(instance: _Instance) -> float:
    reference = _log(instance["reference"])
    winners = jnp.arange(len(reference) - 1)
    certificate = solve(dpo(_BETA), reference, Pairs(winners, winners + 1)).certificate
    return float((~np.asarray(certificate.identified)).sum())


def _rise_of_chosen(instance: _Instance) -> float:
    """The chosen displacement at the target: above zero, it is not minus a divergence."""
    reference, target, chosen = (_log(instance[name]) for name in ("reference", "target", "chosen"))
    rejected = chosen - (target - reference) * _BETA
    problem = Contrastive(chosen, rejected - jnp.log(jnp.sum(jnp.exp(rejected))))
    limit = fixed_point(dpo(_BETA), reference, problem)
    assert float(js(limit, target)) < 1e-12
    return float(expectation(chosen, limit - reference))


def _ordered_without_law(instance: _Instance) -> float:
    """The residual of the power law, if all pairs are ordered."""
    target, reference, rejected = (_log(instance[name]) for name in ("target", "reference", "rejected"))
    if not bool(check_order(target, reference, rejected).ordered):
        return 0.0
    return float(fit_power_law(target, reference, rejected).residual)


def _margins_out_of_order(instance: _Instance) -> float:
    target, reference, rejected = (_log(instance[name]) for name in ("target", "reference", "rejected"))
    one, two, three = (
        float(expectation(reference, p) - expectation(rejected, p)) for p in (target, reference, rejected)
    )
    return max(two - one, three - two)


def _hinge_choice(instance: _Instance) -> float:
    chosen, rejected = _log(instance["chosen"]), _log(instance["rejected"])
    certificate = solve(slic(_BETA), chosen, Contrastive(chosen, rejected)).certificate
    assert certificate.unique is not None
    return float(not certificate.unique)


def _slope_disagrees(instance: _Instance) -> float:
    """How much entropy a whole update adds where its first step takes some away, or the other way round."""
    reference, target = _log(instance["reference"]), _log(instance["target"])
    log_q = did(target, reference)
    centred = reference - expectation(reference, reference), log_q - expectation(reference, log_q)
    slope = -float(expectation(reference, centred[0] * centred[1]))
    change = float(-expectation(target, target) + expectation(reference, reference))
    return abs(change) if slope * change < 0 else 0.0


COUNTEREXAMPLES: tuple[Counterexample, ...] = (
    Counterexample(
        "no_power_law",
        "dpo_learns_target",
        "the power law: any rejected distribution will do",
        "DPO does not learn the target",
        "nats of JS(limit, target)",
        lambda size: _by_simplicity(size, "reference", "target", "rejected"),
        _js_of_dpo,
    ),
    Counterexample(
        "other_beta",
        "dpo_learns_target",
        "training with the data's β: β_t = 2 β_d",
        "DPO does not learn the target",
        "nats of JS(limit, target)",
        lambda size: _by_simplicity(size, "reference", "target"),
        _js_of_other_beta,
    ),
    Counterexample(
        "log_prob_reward",
        "only_the_log_ratio",
        "the log-ratio reward: log π in its place (SimPO, γ = 0)",
        "the limit under the power law is not the target",
        "nats of JS(limit, target)",
        lambda size: _by_simplicity(size, "reference", "target"),
        _js_of_simpo,
    ),
    Counterexample(
        "squared_loss",
        "only_the_log_ratio",
        "the logistic loss: a square in its place (IPO)",
        "the limit under the power law is not the target",
        "nats of JS(limit, target)",
        lambda size: _by_simplicity(size, "reference", "target"),
        _js_of_ipo,
    ),
    Counterexample(
        "no_full_support",
        "dpo_limit",
        "full support: some sequences are never rejected",
        "DPO has no minimiser: rewards run off",
        "sequences not identified",
        _without_support,
        _unidentified,
    ),
    Counterexample(
        "one_sided_data",
        "finite_data_condition",
        "wins both ways: each sequence only beats the next",
        "finite data have no minimiser, though all sequences are compared",
        "sequences not identified",
        _one_sided_data,
        _unidentified_by_data,
    ),
    Counterexample(
        "chosen_not_from_reference",
        "chosen_displacement",
        "chosen from π_ref: any distribution, rejected ones still obey the law",
        "the chosen likelihood rises, though DPO learns the target",
        "nats of displacement",
        lambda size: _by_simplicity(size, "reference", "target", "chosen"),
        _rise_of_chosen,
    ),
    Counterexample(
        "ordered_but_no_law",
        "ordering_is_necessary",
        "one exponent for all pairs: margins ordered on every pair",
        "ordering is not enough for the power law",
        "nats of residual",
        lambda size: _by_simplicity(size, "target", "reference", "rejected"),
        _ordered_without_law,
    ),
    Counterexample(
        "margins_without_law",
        "expected_margins_under_law",
        "the power law: any three policies",
        "expected margins are out of order",
        "nats",
        lambda size: _by_simplicity(size, "target", "reference", "rejected"),
        _margins_out_of_order,
    ),
    Counterexample(
        "hinge_not_unique",
        "hinge_on_a_grid",
        "general position: chosen and rejected distributions of simple fractions",
        "the hinge's minimiser is not unique",
        "(1: another exists)",
        lambda size: _by_simplicity(size, "chosen", "rejected"),
        _hinge_choice,
    ),
    Counterexample(
        "whole_update",
        "first_step",
        "small steps: the whole way to the target",
        "entropy changes against the sign of its slope at the start",
        "nats of entropy",
        lambda size: _by_simplicity(size, "reference", "target"),
        _slope_disagrees,
    ),
)
"""Statements without one of their assumptions, and the instances that break them."""
