"""What several test files of this folder share."""

from typing import Any, NamedTuple

import jax
import numpy as np
import optax

import didsim
from didsim.sweeps.completing import complete

SPACE = didsim.SequenceSpace(2, 2)
EOS = didsim.SequenceSpace(3, 2, eos=True)
SMALL: dict[str, Any] = {
    "space": {"vocab_size": 2, "max_length": 2},
    "steps": 5,
    "record": {"every": 2},
}
FEW: dict[str, Any] = {"every": 2, "metrics": ["loss", "js_to_target", "policy_entropy"]}
RECORD_FEW = didsim.Record(2, {name: didsim.METRICS[name] for name in FEW["metrics"]})
RECORD_JS = didsim.Record(5, {"js_to_target": didsim.METRICS["js_to_target"]})
ADAM = optax.adam(0.1)


class Keys(NamedTuple):
    """What each use of randomness in a run gets, in the order of the split."""

    reference: Any
    target: Any
    chosen: Any
    rejected: Any
    first: Any
    second: Any
    pairs: Any
    training: Any


def keys_of(seed: int) -> Keys:
    return Keys(*jax.random.split(jax.random.key(seed), 8))


def alone(
    policy: didsim.Policy,
    reference: Any,
    problem: didsim.Problem,
    objective: didsim.Objective,
    optimizer: optax.GradientTransformation,
    **options: Any,
) -> didsim.Run:
    """One run of five steps, recorded every second one."""
    return didsim.train(
        policy,
        reference,
        problem,
        objective,
        optimizer,
        5,
        record=options.pop("record", didsim.Record(2)),
        **options,
    )


def cells_of(tables: dict[str, Any], *changes: dict[str, Any]) -> list[dict[str, Any]]:
    return [complete({**SMALL, **tables, **one}) for one in changes]


def assert_is_run(
    found: dict[str, np.ndarray], number: int, run: didsim.Run, rtol: float = 1e-9, atol: float = 1e-11
) -> None:
    assert found["steps"].tolist() == run.steps.tolist()
    assert set(found) - {"steps", "diverged_at", "js_limit", "js_to_limit"} == set(run.metrics)
    assert int(found["diverged_at"][number]) == -1
    for name, values in run.metrics.items():
        expected = np.ravel(values)
        assert found[name].dtype == expected.dtype, name
        assert np.isfinite(expected).all(), name
        np.testing.assert_allclose(found[name][number], expected, rtol=rtol, atol=atol, err_msg=name)
