"""Valid calls of the catalogue of objectives, of their parts, and of their losses."""

import inspect
from typing import Any

import jax.numpy as jnp
import numpy as np

import didsim
from didsim import objectives
from didsim.objectives import OBJECTIVES
from tests.arguments.calls import Call, call
from tests.arguments.kinds import Argument, distribution, flag, number, only
from tests.arguments.of_distributions import P, Q

# Parameters that may be zero, or lie within bounds; any other is positive.
_RANGES: dict[str, Argument] = {
    "gamma": number(1.0, 0),
    "weight": number(1.0, 0, above=True),
    "alpha": number(0.5, 0),
    "label_smoothing": number(0.1, 0, 0.5),
}
_OWN = {
    ("dpop", "weight"): number(1.0, 0),
    ("exo", "label_smoothing"): number(0.1, 0, 0.499, above=True),
    ("robust", "label_smoothing"): number(0.1, 0, 0.499),
    ("fdpo_alpha", "alpha"): number(0.5, 1e-6, 1),
    ("kto", "baseline"): only("policy"),
    ("dpo_rao_kupper", "theta"): number(2.0, 1 + 1e-6, 1e6),
    ("dpo_shift", "shift"): number(0.5, 0, 1),
    ("bdpo", "mixture"): number(0.5, 0, 1, above=True),
    ("ld_dpo", "alpha"): number(0.5, 0, 1),
    ("ld_dpo", "space"): only(None).or_none(),
    ("wpo", "space"): only(None).or_none(),
    ("h_dpo", "alpha"): number(0.5, 0, above=True),
}


def _catalogue(name: str) -> Call:
    found = {}
    for parameter, one in inspect.signature(OBJECTIVES[name]).parameters.items():
        if isinstance(one.default, bool):
            found[parameter] = flag(one.default)
        else:
            usual = _RANGES.get(parameter, number(1.0, 0, above=True))
            found[parameter] = _OWN.get((name, parameter), usual)
    return call(OBJECTIVES[name], **found)


_POSITIVE, _NUMBER = number(0.5, 0, above=True), number(0.5)
_REWARD, _KERNEL = objectives.LogRatio(jnp.array(0.1)), objectives.Logistic()
_PARTS = {"reward": only(_REWARD), "kernel": only(_KERNEL), "weight": _NUMBER.or_none()}
_SIDES = {"chosen_reward": only(_REWARD).or_none(), "rejected_reward": only(_REWARD).or_none()}
_SHARE, _SPACE = number(0.5, 0, 1), only(didsim.SequenceSpace(3, 1)).or_none()
_PROBLEM = didsim.Contrastive(P, Q)
_LOGP = Argument(
    -1.0,
    lambda value: (
        isinstance(value, np.ndarray | int | float)
        and number(0.0, high=0).allows(value)
        and (not isinstance(value, np.ndarray) or value.dtype.kind == "f")
    ),
)
_FINITE = number(-0.5)
_TIED = Argument(
    False,
    lambda value: isinstance(value, bool) or (isinstance(value, np.ndarray) and value.dtype == bool),
)
_LENGTH = number(3, 1)
_TOKENS = Argument(3, lambda value: type(value) is int and 1 <= value < 2**31)


def _objective(terms: Any) -> Any:
    return didsim.Objective(terms)


def _keeps_chosen(terms: Any) -> Any:
    return objectives.KeepsChosen(terms)


CALLS = {
    **{f"objectives.{name}": _catalogue(name) for name in OBJECTIVES},
    "objectives.kl_to_reference": call(
        objectives.kl_to_reference, weight=_POSITIVE, direction=only("forward")
    ),
    "objectives.Divergence": call(objectives.Divergence, **_PARTS, direction=only("forward")),
    "objectives.LogRatio": call(objectives.LogRatio, beta=_POSITIVE, per_token=flag()),
    "objectives.LogProb": call(objectives.LogProb, beta=_POSITIVE, per_token=flag()),
    "objectives.LengthRegularised": call(objectives.LengthRegularised, beta=_POSITIVE, alpha=_NUMBER),
    "objectives.Guarded": call(objectives.Guarded, beta=_POSITIVE, weight=number(1.0, 0)),
    "objectives.ForwardKL": call(objectives.ForwardKL, beta=_POSITIVE),
    "objectives.JensenShannon": call(objectives.JensenShannon, beta=_POSITIVE),
    "objectives.ChiSquared": call(objectives.ChiSquared, beta=_POSITIVE),
    "objectives.PowerProb": call(objectives.PowerProb, beta=_POSITIVE, alpha=_POSITIVE),
    "objectives.WeightedEntropy": call(objectives.WeightedEntropy, beta=_POSITIVE, alpha=_POSITIVE),
    "objectives.Shrunk": call(objectives.Shrunk, beta=_POSITIVE, share=_SHARE),
    "objectives.MixedWithReference": call(objectives.MixedWithReference, beta=_POSITIVE, share=_SHARE),
    "objectives.RaoKupper": call(objectives.RaoKupper, theta=number(2.0, 1 + 1e-6, 1e6)),
    "objectives.Alpha": call(objectives.Alpha, beta=_POSITIVE, alpha=_POSITIVE),
    "objectives.Logistic": call(objectives.Logistic, smoothing=_NUMBER.or_none(), margin=_NUMBER.or_none()),
    "objectives.Squared": call(objectives.Squared, centre=_NUMBER),
    "objectives.Hinge": call(objectives.Hinge, delta=_NUMBER),
    "objectives.ReverseCrossEntropy": call(
        objectives.ReverseCrossEntropy, smoothing=number(0.1, 0, 1 - 1e-6, above=True)
    ),
    "objectives.LogRatioModulated": call(objectives.LogRatioModulated, temperature=_POSITIVE),
    "objectives.Pair": call(objectives.Pair, **_PARTS, **_SIDES),
    "objectives.PairOrTie": call(
        objectives.PairOrTie, **_PARTS | {"kernel": only(objectives.RaoKupper(jnp.array(2.0)))}, **_SIDES
    ),
    "objectives.SortedRewards": call(objectives.SortedRewards, **_PARTS),
    "objectives.SortedMargins": call(objectives.SortedMargins, **_PARTS),
    "objectives.PolicyWeighted": call(objectives.PolicyWeighted, **_PARTS, space=_SPACE),
    "objectives.SharedLength": call(objectives.SharedLength, **_PARTS, space=_SPACE, alpha=_SHARE),
    "objectives.LabelledSquare": call(
        objectives.LabelledSquare,
        **_PARTS | {"kernel": only(objectives.Squared(jnp.array(1.0)))},
        sequence=only("chosen"),
        push=only("up"),
        baseline=only(objectives.PairMean()).or_none(),
    ),
    "objectives.Single": call(
        objectives.Single,
        **_PARTS,
        sequence=only("chosen"),
        push=only("up"),
        baseline=only(objectives.PairMean()).or_none(),
    ),
    "objectives.Objective": call(_objective, terms=only(objectives.Pair(_REWARD, _KERNEL))),
    "objectives.KeepsChosen": call(_keeps_chosen, terms=only(objectives.Pair(_REWARD, _KERNEL))),
    "objectives.Objective.pair_loss": call(
        (didsim.length_normalised_dpo(0.1) + didsim.kto(0.1) + didsim.wpo(0.1)).pair_loss,
        chosen_logps=_LOGP,
        rejected_logps=_LOGP,
        ref_chosen_logps=_LOGP,
        ref_rejected_logps=_LOGP,
        chosen_lengths=_TOKENS,
        rejected_lengths=_TOKENS,
        baseline=number(0.5, single=True).or_none(),
        chosen_tokens=_FINITE,
        rejected_tokens=_FINITE,
        win_probs=number(0.5, 0, 1).or_none(),
        tied=_TIED.or_none(),
    ),
    "objectives.Objective.loss": call(
        didsim.dpo().loss,
        policy_logps=distribution(P),
        reference=distribution(Q),
        problem=only(_PROBLEM),
        lengths=only(np.array([1, 2, 3])).or_none(),
    ),
}
