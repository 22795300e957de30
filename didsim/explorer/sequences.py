"""The second tab: a space of token sequences, and the nine distributions that rejected ones can come from."""

import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from didsim.explorer.problems import numbers
from didsim.explorer.state import State
from didsim.explorer.trained import EVERY, run_of
from didsim.fixed_points import solve
from didsim.information import did_entropy, entropy, expectation, js, kl
from didsim.margins import check_order, fit_power_law, pair_exponent
from didsim.objectives import dpo
from didsim.preferences import REJECTED, Contrastive
from didsim.spaces import SequenceSpace
from didsim.sweeps.makers import REFERENCES, TARGETS
from didsim.sweeps.settings import make
from didsim.training import METRICS, Record

Settings = dict[str, float]

ROLES = ("reference", "target", "rejected")
_CURVES = ("chosen_displacement", "policy_entropy", "did_entropy")
# Made once, since a new one compiles the program again.
_RECORD = Record(EVERY, {name: METRICS[name] for name in (*_CURVES, "js_to_target")})
_REFERENCE: dict[str, Settings] = {"zipf": {"exponent": 1.0}, "dirichlet": {"concentration": 1.0}}
_TARGET: dict[str, Settings] = {**_REFERENCE, "tempered": {"exponent": 1.5}}
_REJECTED: dict[str, Settings] = {"geodesic": {"position": -0.5}}
# Settings that a maker has no default for, or whose default says nothing here.


def distributions(state: State) -> tuple[SequenceSpace, dict[str, jax.Array]]:
    """The space of a state, and its reference, target and rejected-sampling distribution."""
    space = SequenceSpace(state.vocabulary, state.length)
    keys = jax.random.split(jax.random.key(state.seed), 3)
    at_hand: dict[str, Any] = {"size": space.size, "space": space, "beta": state.beta}
    of_reference, of_target, of_rejected = _settings(state)
    reference = make(REFERENCES[state.family], of_reference, key=keys[0], **at_hand)
    at_hand["reference"] = reference
    target = make(TARGETS[state.update], of_target, key=keys[1], **at_hand)
    at_hand |= {"target": target, "score": target - reference}
    rejected = make(REJECTED[state.sampler], of_rejected, key=keys[2], **at_hand)
    return space, {"reference": reference, "target": target, "rejected": rejected}


def arguments(state: State) -> dict[str, str]:
    """How a program calls the makers of `distributions`: the arguments of each, by its role."""
    beta = repr(state.beta)
    at_hand = {"size": "space.size", "space": "space", "beta": beta}
    later = {"reference": "reference", "target": "target", "score": "score"}
    makers = (REFERENCES[state.family], TARGETS[state.update], REJECTED[state.sampler])
    found = {}
    for place, (role, maker, settings) in enumerate(zip(ROLES, makers, _settings(state), strict=True)):
        words = {**at_hand, **later, "key": f"keys[{place}]"}
        taken = inspect.signature(maker).parameters
        given = {name: word for name, word in words.items() if name in taken}
        given |= {name: repr(value) for name, value in settings.items()}
        found[role] = ", ".join(f"{name}={word}" for name, word in given.items())
    return found


def _settings(state: State) -> tuple[Settings, Settings, Settings]:
    return (
        _REFERENCE.get(state.family, {}),
        _TARGET.get(state.update, {}),
        _REJECTED.get(state.sampler, {}),
    )


def sequences(state: State) -> dict[str, Any]:
    """Order, exponents and training of DPO, where chosen sequences come from the reference."""
    space, made = distributions(state)
    reference, target, rejected = made["reference"], made["target"], made["rejected"]
    objective, problem = dpo(state.beta), Contrastive(reference, rejected)
    limit = solve(objective, reference, problem).log_probs
    order, law = check_order(target, reference, rejected), fit_power_law(target, reference, rejected)
    first, second = np.triu_indices(space.size, 1)
    exponents = np.asarray(pair_exponent(target, reference, rejected, first, second))
    exponents = exponents[np.isfinite(exponents)]
    spread = np.quantile(exponents, (0.05, 0.5, 0.95)) if len(exponents) else np.full(3, np.nan)
    run = run_of(state, objective, reference, problem, _RECORD, target)
    return {
        "size": space.size,
        "sequences": ["".join(map(chr, 97 + row)) for row in np.asarray(space.sequences)],
        "shares": {name: numbers(jnp.exp(p)) for name, p in made.items()}
        | {"learned": numbers(jnp.exp(limit))},
        "step_up": numbers(target - reference),
        "step_down": numbers(reference - rejected),
        "ordered": float(order.fraction),
        "worst_violation": float(order.worst_violation),
        "exponent": float(law.exponent),
        "residual": float(law.residual),
        "holds": bool(law.holds),
        "spread": numbers(spread),
        "steps": np.asarray(run.steps).tolist(),
        "curves": {name: numbers(values) for name, values in run.metrics.items()},
        "limits": {
            "chosen_displacement": float(-kl(reference, limit)),
            "policy_entropy": float(entropy(limit)),
            "did_entropy": float(did_entropy(limit, reference)),
            "js_to_target": float(js(limit, target)),
        },
        "rejected_displacement": float(expectation(rejected, limit - reference)),
    }
