"""Counterexamples: the smallest instance that breaks a statement when one assumption is dropped.

The search begins with the smallest space and the simplest fractions.
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction

import jax.numpy as jnp
import msgspec
import numpy as np

from didsim import _checks
from didsim.fixed_points.certificate import Verdict
from didsim.fixed_points.solve import fixed_point, solve
from didsim.information import LogProbs, did, expectation, js
from didsim.margins import check_order, fit_power_law
from didsim.objectives.catalogue import dpo, ipo, simpo, slic
from didsim.objectives.objective import Objective
from didsim.preferences.contrastive import Contrastive
from didsim.preferences.explicit import Pairs
from didsim.preferences.rejected import optimal_rejected

_Distribution = tuple[Fraction, ...]


@dataclass(frozen=True)
class Instance:
    """A candidate for a counterexample.

    Attributes:
        distributions: probabilities of all sequences, by the name of the distribution.
        pairs: the numbers of the chosen and of the rejected sequence of each pair of a dataset; empty where
            the statement is not about a dataset.
    """

    distributions: dict[str, _Distribution]
    pairs: tuple[tuple[int, int], ...] = ()

    def log_probs(self, name: str) -> LogProbs:
        """The logarithms of one of the distributions, `−inf` for a probability of zero."""
        with np.errstate(divide="ignore"):
            return jnp.asarray(np.log(np.array(self.distributions[name], float)))

    def text(self) -> dict[str, str]:
        """Everything that the instance is made of, by name, for a reader."""
        parts = {name: f"({', '.join(map(str, one))})" for name, one in self.distributions.items()}
        if self.pairs:
            parts["pairs"] = ", ".join(f"{chosen} beats {rejected}" for chosen, rejected in self.pairs)
        return parts


class Found(msgspec.Struct, frozen=True):
    """The smallest instance that breaks a statement.

    Attributes:
        name: the name of the counterexample.
        of: the name of the check whose statement breaks.
        dropped: the assumption that is dropped.
        breaks: what no longer holds.
        size: the number of sequences; 0 if no instance was found.
        instance: the instance as text; empty if none was found.
        deviation: by how much the statement is broken; None if no instance was found.
        unit: the unit of the deviation.
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
        name: the name of the counterexample.
        of: the name of the check whose statement breaks.
        dropped: the assumption that is dropped.
        breaks: what no longer holds.
        unit: the unit of the deviation.
        candidates: instances over a given number of sequences, the simplest first.
        deviation: by how much an instance breaks the statement; 0 or NaN if it does not.
        least: an instance breaks the statement if its deviation is above this.
    """

    name: str
    of: str
    dropped: str
    breaks: str
    unit: str
    candidates: Callable[[int], Iterator[Instance]]
    deviation: Callable[[Instance], float]
    least: float = 0.01

    def find(self, largest: int = 4) -> Found:
        """Search spaces of 1, 2, … sequences for the first instance that breaks the statement.

        Raises:
            ValueError: `largest` is below 1.
        """
        largest = _checks.positive_int("largest", largest)
        for size in range(1, largest + 1):
            for instance in self.candidates(size):
                deviation = self.deviation(instance)
                if deviation > self.least:
                    return self._found(size, instance.text(), deviation)
        return self._found(0, {}, None)

    def _found(self, size: int, instance: dict[str, str], deviation: float | None) -> Found:
        return Found(self.name, self.of, self.dropped, self.breaks, size, instance, deviation, self.unit)


def _distributions(size: int, parts: int) -> list[_Distribution]:
    """All distributions whose probabilities are whole positive multiples of `1/parts`."""
    cuts = itertools.combinations(range(1, parts), size - 1)
    return [tuple(Fraction(b - a, parts) for a, b in itertools.pairwise((0, *cut, parts))) for cut in cuts]


def _by_simplicity(size: int, *names: str) -> Iterator[Instance]:
    """Instances of named distributions, the smallest denominators first, each of them once."""
    known: dict[_Distribution, None] = {}
    for parts in range(size, size + 4):
        before = known
        known = before | dict.fromkeys(_distributions(size, parts))
        for chosen in itertools.product(known, repeat=len(names)):
            if not before.keys() >= set(chosen):
                yield Instance(dict(zip(names, chosen, strict=True)))


_BETA = 1.0


def _js_without_law(instance: Instance) -> float:
    """The divergence between DPO's limit and the target, for any rejected distribution."""
    reference, target = instance.log_probs("reference"), instance.log_probs("target")
    problem = Contrastive(reference, instance.log_probs("rejected"))
    return float(js(fixed_point(dpo(_BETA), reference, problem), target))


def _js_under_law(objective: Objective, instance: Instance) -> float:
    """The divergence between the objective's limit and the target, for the optimal rejected distribution."""
    reference, target = instance.log_probs("reference"), instance.log_probs("target")
    problem = Contrastive(reference, optimal_rejected(reference, target, _BETA))
    return float(js(fixed_point(objective, reference, problem), target))


def _without_support(size: int) -> Iterator[Instance]:
    if size > 1:
        lacking = (Fraction(1), *[Fraction(0)] * (size - 1))
        for reference in _distributions(size, size):
            yield Instance({"reference": reference, "chosen": reference, "rejected": lacking})


def _unidentified(instance: Instance) -> float:
    """The number of sequences that contrastive pairs do not identify."""
    problem = Contrastive(instance.log_probs("chosen"), instance.log_probs("rejected"))
    certificate = solve(dpo(_BETA), instance.log_probs("reference"), problem).certificate
    return float((~np.asarray(certificate.identified)).sum())


def _one_sided_data(size: int) -> Iterator[Instance]:
    if size > 1:
        wins = tuple((k, k + 1) for k in range(size - 1))
        yield Instance({"reference": _distributions(size, size)[0]}, pairs=wins)


def _unidentified_by_data(instance: Instance) -> float:
    """The number of sequences that a dataset does not identify."""
    chosen, rejected = jnp.asarray(instance.pairs).T
    certificate = solve(dpo(_BETA), instance.log_probs("reference"), Pairs(chosen, rejected)).certificate
    return float((~np.asarray(certificate.identified)).sum())


def _rise_of_chosen(instance: Instance) -> float:
    """The chosen displacement, if DPO ends at the target; else 0.

    Minus a divergence is never above zero, so a positive displacement breaks the statement.
    """
    reference, target, chosen = (instance.log_probs(name) for name in ("reference", "target", "chosen"))
    rejected = chosen - (target - reference) * _BETA
    problem = Contrastive(chosen, rejected - jnp.log(jnp.sum(jnp.exp(rejected))))
    limit = fixed_point(dpo(_BETA), reference, problem)
    learned = float(js(limit, target)) < 1e-12
    return float(expectation(chosen, limit - reference)) if learned else 0.0


def _ordered_without_law(instance: Instance) -> float:
    """The residual of the power law if all pairs are ordered; else 0."""
    target, reference, rejected = map(instance.log_probs, ("target", "reference", "rejected"))
    if not bool(check_order(target, reference, rejected).ordered):
        return 0.0
    return float(fit_power_law(target, reference, rejected).residual)


def _margins_out_of_order(instance: Instance) -> float:
    """By how much one expected margin exceeds the margin that should be larger."""
    target, reference, rejected = map(instance.log_probs, ("target", "reference", "rejected"))
    of_target, of_reference, of_rejected = (
        float(expectation(reference, p) - expectation(rejected, p)) for p in (target, reference, rejected)
    )
    return max(of_reference - of_target, of_rejected - of_reference)


def _hinge_choice(instance: Instance) -> float:
    """1 if the hinge has more than one minimiser, else 0."""
    chosen, rejected = instance.log_probs("chosen"), instance.log_probs("rejected")
    solution = solve(slic(_BETA), chosen, Contrastive(chosen, rejected))
    return float(solution.verdict is Verdict.NOT_UNIQUE)


def _slope_disagrees(instance: Instance) -> float:
    """The size of the change of entropy, if it has another sign than its slope at the start; else 0."""
    reference, target = instance.log_probs("reference"), instance.log_probs("target")
    log_q = did(target, reference)
    centred = reference - expectation(reference, reference), log_q - expectation(reference, log_q)
    slope = -float(expectation(reference, centred[0] * centred[1]))
    change = float(-expectation(target, target) + expectation(reference, reference))
    return abs(change) if slope * change < 0 else 0.0


COUNTEREXAMPLES: tuple[Counterexample, ...] = (
    Counterexample(
        "no_power_law",
        "dpo_learns_target",
        "the power law: any rejected distribution is allowed",
        "DPO does not learn the target",
        "nats of JS(limit, target)",
        lambda size: _by_simplicity(size, "reference", "target", "rejected"),
        _js_without_law,
    ),
    Counterexample(
        "other_beta",
        "dpo_learns_target",
        "training with the data's β: β_t = 2 β_d",
        "DPO does not learn the target",
        "nats of JS(limit, target)",
        lambda size: _by_simplicity(size, "reference", "target"),
        lambda instance: _js_under_law(dpo(2 * _BETA), instance),
    ),
    Counterexample(
        "log_prob_reward",
        "only_the_log_ratio",
        "the log-ratio reward: the reward is log π (SimPO, γ = 0)",
        "the limit under the power law is not the target",
        "nats of JS(limit, target)",
        lambda size: _by_simplicity(size, "reference", "target"),
        lambda instance: _js_under_law(simpo(_BETA, gamma=0), instance),
    ),
    Counterexample(
        "squared_loss",
        "only_the_log_ratio",
        "the logistic loss: the loss is a square (IPO)",
        "the limit under the power law is not the target",
        "nats of JS(limit, target)",
        lambda size: _by_simplicity(size, "reference", "target"),
        lambda instance: _js_under_law(ipo(_BETA), instance),
    ),
    Counterexample(
        "no_full_support",
        "dpo_limit",
        "full support: some sequences are never rejected",
        "DPO has no minimiser: some rewards grow without bound",
        "of the sequences not identified",
        _without_support,
        _unidentified,
    ),
    Counterexample(
        "one_sided_data",
        "finite_data_condition",
        "wins both ways: each sequence beats the next one and never loses to it",
        "the loss of finite data has no minimiser, though all sequences are compared",
        "of the sequences not identified",
        _one_sided_data,
        _unidentified_by_data,
    ),
    Counterexample(
        "chosen_not_from_reference",
        "chosen_displacement",
        "chosen responses come from π_ref: they come from any distribution, and the rejected distribution "
        "still obeys the power law",
        "the chosen log-likelihood rises, though DPO learns the target",
        "nats of displacement",
        lambda size: _by_simplicity(size, "reference", "target", "chosen"),
        _rise_of_chosen,
    ),
    Counterexample(
        "ordered_but_no_law",
        "ordering_is_necessary",
        "one exponent for all pairs: margins are only ordered on every pair",
        "ordering is not enough for the power law",
        "nats of residual",
        lambda size: _by_simplicity(size, "target", "reference", "rejected"),
        _ordered_without_law,
    ),
    Counterexample(
        "margins_without_law",
        "expected_margins_under_law",
        "the power law: any three policies are allowed",
        "expected margins are out of order",
        "nats",
        lambda size: _by_simplicity(size, "target", "reference", "rejected"),
        _margins_out_of_order,
    ),
    Counterexample(
        "hinge_not_unique",
        "hinge_on_a_grid",
        "general position: probabilities are simple fractions",
        "the hinge's minimiser is not unique",
        "(1 means that there is another minimiser)",
        lambda size: _by_simplicity(size, "chosen", "rejected"),
        _hinge_choice,
    ),
    Counterexample(
        "whole_update",
        "first_step",
        "small steps: the policy goes the whole way to the target",
        "the change of entropy has another sign than its slope at the start",
        "nats of entropy",
        lambda size: _by_simplicity(size, "reference", "target"),
        _slope_disagrees,
    ),
)
"""One counterexample for each assumption that is dropped."""
