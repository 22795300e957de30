"""What each objective does to a sequence that is never rejected, or never chosen.

`python -m experiments.shared.zeros` solves one small instance of every objective, with its defaults, and
writes `figures/objective_facts.json`. There are four sequences, of which the first is the one in question.
"""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import didsim
from didsim._command_line import say
from didsim._files import written_whole
from experiments.shared.limits import find_limit

REFERENCE = (0.1, 0.2, 0.3, 0.4)
WITH = (0.25, 0.25, 0.25, 0.25)
WITHOUT = (0.0, 0.5, 0.3, 0.2)
CASES = {"never_rejected": (WITH, WITHOUT), "never_chosen": (WITHOUT, WITH)}
"""The chosen and the rejected distribution of each case: the same two, read both ways."""

_GONE = 1e-6  # a policy that runs off is stopped short of a probability of 0 or 1


def facts_of(objective: didsim.Objective) -> dict[str, Any]:
    """What is proven of an objective's convexity, and what becomes of the first sequence in each case.

    - `convex_in_logits`: whether the loss is proven convex in the logits of a policy.
    - `convex_in_rewards`: whether it is proven convex in the implicit rewards, as free numbers. If its terms
      have several rewards, these numbers are the log-probabilities. The reward is then affine in them.

    Both are None for a gradient rule, which has no loss of its own.

    `has_minimiser` is None if that is not known. `probability` is that of the first sequence at the
    minimiser; if there is none, it is the one that the policy tends to, or None if that is not known.
    """
    if objective.is_gradient_rule:
        return {"convex_in_logits": None, "convex_in_rewards": None, **_trained(objective)}
    pair = objective.difference_term
    return {
        "convex_in_logits": objective.is_convex_in_logits,
        "convex_in_rewards": objective.is_convex_in_log_probs if pair is None else bool(pair.kernel.convex),
        **_solved(objective),
    }


def _problem() -> tuple[Any, didsim.Contrastive]:
    """The reference, and a problem with an entry of its batch for each case."""
    with np.errstate(divide="ignore"):
        chosen, rejected = (np.log([case[side] for case in CASES.values()]) for side in (0, 1))
    return jnp.log(jnp.array([REFERENCE] * len(CASES))), didsim.Contrastive(chosen, rejected)


def _solved(objective: didsim.Objective) -> dict[str, Any]:
    solution = didsim.solve(objective, *_problem())
    known, pair = solution.certificate, objective.difference_term
    found = {}
    for place, case in enumerate(CASES):
        log_probs, limit = (np.asarray(one[place]) for one in (solution.log_probs, known.limit))
        if not known.identified[place].all():
            # A convex loss falls for ever. Of another one nothing is known.
            has = False if pair is not None and pair.kernel.convex else None
            found[case] = _outcome(has, _known(limit[0]), "the pairs identify no minimiser")
        elif known.runs_off[place] and not known.converged[place]:
            gone = float(np.exp(log_probs[0]))
            end = float(round(gone)) if min(gone, 1 - gone) < _GONE else None
            found[case] = _outcome(False, end, "the policy runs off")
        elif not known.converged[place]:
            found[case] = _outcome(None, None, "the solver did not converge")
        elif known.has_others[place]:
            found[case] = _outcome(True, _known(log_probs[0]), "one minimiser of several")
        elif known.unique[place]:
            found[case] = _outcome(True, _known(log_probs[0]), "the only minimiser")
        elif known.agreed is not None and known.agreed[place]:
            found[case] = _outcome(True, _known(log_probs[0]), "a minimum; all starts agree")
        else:
            found[case] = _outcome(None, None, "starts ended at different policies")
    return found


def _trained(objective: didsim.Objective) -> dict[str, Any]:
    """Where gradient descent on logits ends: a gradient rule has no loss of its own."""
    reference, problem = _problem()
    space = didsim.SequenceSpace(vocab_size=4, max_length=1)
    end = find_limit(objective, reference, problem, space, starts=1, steps=10_000, learning_rate=1.0)
    how = {True: "at rest after gradient descent", False: "still moving after gradient descent"}
    return {
        case: _outcome(None, _known(end.log_probs[place, 0]), how[bool(end.converged[place])])
        for place, case in enumerate(CASES)
    }


def _outcome(has_minimiser: bool | None, probability: float | None, how: str) -> dict[str, Any]:
    return {"has_minimiser": has_minimiser, "probability": probability, "how": how}


def _known(log_prob: Any) -> float | None:
    """The probability with four digits, or all if these would round it to 1; None for NaN."""
    if np.isnan(log_prob):
        return None
    probability = float(np.exp(log_prob))
    rounded = float(f"{probability:.4g}")
    return probability if rounded == 1 else rounded


def main(path: Path = Path("figures") / "objective_facts.json") -> None:
    """Write the facts of all objectives, beside the instance."""
    jax.config.update("jax_enable_x64", True)
    cases = {case: dict(zip(("chosen", "rejected"), sides, strict=True)) for case, sides in CASES.items()}
    facts = {name: facts_of(make()) for name, make in didsim.OBJECTIVES.items()}
    text = json.dumps({"instance": {"reference": REFERENCE, **cases}, "objectives": facts}, indent=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as (draft,):
        draft.write_text(text + "\n", encoding="utf-8")
    say(f"Written to {path}")


if __name__ == "__main__":
    main()
