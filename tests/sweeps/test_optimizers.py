"""Optimisers and schedules of a study, against the same ones called by hand."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import didsim
from didsim.sweeps.cells import compute
from didsim.sweeps.completing import complete
from didsim.sweeps.grid import Sweep, program_of
from didsim.sweeps.optimizers import OPTIMIZERS, SCHEDULES, adam, compiled_in, rmsprop, sgd
from tests.compilations import counted_compilations
from tests.sweeps.test_study import entry

STEPS, BETA = 6, 0.5
SMALL: dict[str, Any] = {
    "space": {"vocab_size": 2, "max_length": 2},
    "steps": STEPS,
    "objective": {"name": "dpo", "beta": BETA},
    "record": {"every": 2, "metrics": ["js_to_target", "loss"]},
}
# The names of optax's optimisers, by hand from its documentation.
NAMES = """
    adabelief adadelta adafactor adagrad adam adamax adamaxw adamw adan amsgrad fromage lamb lars lbfgs lion
    noisy_sgd novograd optimistic_adam_v2 optimistic_gradient_descent polyak_sgd radam rmsprop rprop sgd
    sign_sgd signum sm3 yogi
"""


def in_a_study(*others: dict[str, Any]) -> dict[str, np.ndarray]:
    """What cells record that differ from the small study in these tables."""
    return compute([complete({**SMALL, **other}) for other in others], len(others))


def by_train(optimizer: optax.GradientTransformation) -> dict[str, np.ndarray]:
    """What the run of seed 0 records under an optimiser that is made here."""
    keys = jax.random.split(jax.random.key(0), 8)
    reference, target = didsim.normal_logits(keys[0], 4), didsim.normal_logits(keys[1], 4)
    problem = didsim.Contrastive(reference, didsim.optimal_rejected(reference, target, BETA))
    policy = didsim.EnergyBased(reference)
    record = didsim.Record(2, {name: didsim.METRICS[name] for name in SMALL["record"]["metrics"]})
    run = didsim.train(
        policy, reference, problem, didsim.dpo(BETA), optimizer, STEPS, record=record, target=target
    )
    return {name: np.asarray(values) for name, values in run.metrics.items()}


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray], cell: int = 0) -> None:
    for name, values in expected.items():
        np.testing.assert_allclose(found[name][cell], values, rtol=1e-9, atol=1e-13, err_msg=name)
    assert abs(expected["js_to_target"][-1] - expected["js_to_target"][0]) > 1e-6, "it moves"


@pytest.mark.parametrize("name", NAMES.split())
def test_every_optimiser_of_optax_can_be_named(name: str) -> None:
    rate = "max_learning_rate" if name == "polyak_sgd" else "learning_rate"
    found = complete({"optimizer": {"name": name, rate: 0.1}})
    assert found["optimizer"][rate] == 0.1


@pytest.mark.parametrize(
    ("table", "optimizer"),
    [
        (
            {"name": "adamw", "learning_rate": 0.1, "weight_decay": 0.2, "nesterov": True},
            optax.adamw(0.1, weight_decay=0.2, nesterov=True),
        ),
        ({"name": "lion", "learning_rate": 0.03}, optax.lion(0.03)),
        ({"name": "lbfgs"}, optax.lbfgs()),
        ({"name": "lbfgs", "learning_rate": 0.5, "memory_size": 3}, optax.lbfgs(0.5, memory_size=3)),
        ({"name": "polyak_sgd", "max_learning_rate": 0.5}, optax.polyak_sgd(0.5)),
        ({"name": "adadelta"}, optax.adadelta()),
    ],
)
def test_an_optimiser_of_optax_takes_its_own_steps(
    table: dict[str, Any], optimizer: optax.GradientTransformation
) -> None:
    assert_same(in_a_study({"optimizer": table}), by_train(optimizer))


@pytest.mark.parametrize(
    ("table", "schedule"),
    [
        ({"name": "linear_schedule", "end_value": 0.01}, optax.linear_schedule(0.2, 0.01, STEPS)),
        (
            {"name": "polynomial_schedule", "end_value": 0.0, "power": 2, "transition_steps": 3},
            optax.polynomial_schedule(0.2, 0.0, 2.0, 3),
        ),
        ({"name": "exponential_decay", "decay_rate": 0.5}, optax.exponential_decay(0.2, STEPS, 0.5)),
        (
            {"name": "warmup_cosine_decay_schedule", "init_value": 0.0, "warmup_steps": 2},
            optax.warmup_cosine_decay_schedule(0.0, 0.2, 2, STEPS),
        ),
        (
            {"name": "warmup_constant_schedule", "init_value": 0, "peak_value": 0.4, "warmup_steps": 2},
            optax.warmup_constant_schedule(0.0, 0.4, 2),
        ),
        ("cosine", optax.cosine_decay_schedule(0.2, STEPS)),
        ({"name": "constant_schedule"}, 0.2),
    ],
)
def test_a_schedule_of_optax_is_followed(table: Any, schedule: Any) -> None:
    found = in_a_study({"optimizer": {"name": "sgd", "learning_rate": 0.2}, "schedule": table})
    assert_same(found, by_train(optax.sgd(schedule)))


def test_a_schedule_has_the_study_s_learning_rate_and_steps() -> None:
    found = complete({"steps": 40, "schedule": {"name": "linear_schedule", "end_value": 0}})["schedule"]
    assert found == {
        "name": "linear_schedule",
        "init_value": 0.1,
        "end_value": 0.0,
        "transition_steps": 40,
        "transition_begin": 0,
    }
    peak = complete({"schedule": {"name": "warmup_constant_schedule", "init_value": 0, "warmup_steps": 3}})
    assert (peak["schedule"]["init_value"], peak["schedule"]["peak_value"]) == (0.0, 0.1)
    assert complete(peak) == peak


def test_numbers_of_a_schedule_are_axes_of_one_program() -> None:
    axes = {"schedule.end_value": [0.1, 0.01], "optimizer.learning_rate": [0.2, 0.3]}
    study = {**SMALL, "schedule": "linear_schedule", "optimizer": {"name": "sgd", "momentum": 0.5}}
    sweep = Sweep(study, axes)
    assert sweep.programs == 1
    cells = [sweep.cell((0, 0)), sweep.cell((1, 1))]
    found = compute(cells, 2)
    assert_same(found, by_train(optax.sgd(optax.linear_schedule(0.2, 0.1, STEPS), 0.5)), 0)
    assert_same(found, by_train(optax.sgd(optax.linear_schedule(0.3, 0.01, STEPS), 0.5)), 1)
    with counted_compilations() as compiled:
        compute([sweep.cell((0, 1)), sweep.cell((1, 0))], 2)
    assert compiled == []


def test_a_schedule_that_decides_on_its_numbers_has_a_program_for_each() -> None:
    """`exponential_decay` asks whether its rate is zero; that is another schedule."""
    cells = [
        complete({**SMALL, "schedule": {"name": "exponential_decay", "decay_rate": rate}})
        for rate in (0.5, 0.9)
    ]
    assert compiled_in(cells[0]) == {"schedule.init_value", "schedule.decay_rate"}
    assert program_of(cells[0]) != program_of(cells[1])
    assert program_of(cells[0]) == program_of({**cells[0], "seed": 3})
    assert compiled_in(complete({**SMALL, "schedule": "cosine"})) == set()


def test_a_schedule_of_one_s_own() -> None:
    def halved(learning_rate: Any, steps: int, after: float = 0.5) -> optax.Schedule:
        return lambda count: jnp.where(count < after * steps, learning_rate, learning_rate / 2)

    with entry(SCHEDULES, "halved", halved):
        found = in_a_study({"schedule": "halved"})
        assert complete({"schedule": "halved"})["schedule"] == {"name": "halved", "after": 0.5}
    rates = jnp.array([0.1, 0.1, 0.1, 0.05, 0.05, 0.05])
    assert_same(found, by_train(optax.adam(lambda count: rates[count])))


def decided(learning_rate: Any, strength: float = 0.5) -> optax.GradientTransformation:
    return optax.sgd(learning_rate if strength > 0 else 0.0)


def unready(learning_rate: Any) -> optax.GradientTransformation:
    return optax.GradientTransformation(lambda params: (), lambda updates, state, params=None: (updates, 3))


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        (
            {"optimizer": {"name": "decided", "learning_rate": 1}},
            "`optimizer`: 'decided' needs the value of one of its numbers (learning_rate, strength)",
        ),
        ({"optimizer": {"name": "unready", "learning_rate": 1}}, "`optimizer`: 'unready' cannot take a step"),
        ({"optimizer": "chain"}, "`optimizer.name` is unknown: 'chain'"),
        ({"optimizer": "exponential_decay"}, "`optimizer.name` is unknown: 'exponential_decay'"),
        (
            {"optimizer": "adadelta", "schedule": "cosine"},
            "`schedule`: 'cosine' needs an optimiser with a learning rate",
        ),
        (
            {"optimizer": {"name": "sm3", "learning_rate": 1}, "schedule": "cosine"},
            "`schedule`: the learning rate of 'sm3' cannot follow a schedule: ",
        ),
        (
            {"optimizer": {"name": "adamw", "learning_rate": 1, "mask": True}},
            "`optimizer.mask` is not a setting of 'adamw'",
        ),
        (
            {"optimizer": {"name": "adamw", "learning_rate": 1, "weight_decoy": 1}},
            "`optimizer.weight_decoy` is not a setting of 'adamw'; did you mean 'weight_decay'?",
        ),
        (
            {"optimizer": {"name": "lbfgs", "memory_size": 2.5}},
            "`optimizer.memory_size`: Expected `int`, got `float`",
        ),
        ({"schedule": "exponential_decay"}, "`schedule.decay_rate` must be given to 'exponential_decay'"),
        (
            {"schedule": {"name": "warmup_cosine_decay_schedule", "init_value": 0, "warmup_steps": 900}},
            "`schedule`: The cosine_decay_schedule requires positive decay_steps, got decay_steps=-400.",
        ),
        ({"schedule": {"name": "cosine", "steps": 3}}, "`schedule.steps` is not a setting of 'cosine'"),
    ],
)
def test_what_cannot_be_used_is_refused_when_the_study_is_read(tables: dict[str, Any], message: str) -> None:
    with (
        entry(OPTIMIZERS, "decided", decided),
        entry(OPTIMIZERS, "unready", unready),
        pytest.raises(ValueError, match=f"^{re.escape(message)}"),
    ):
        complete(tables)


def by_hand(name: str, settings: dict[str, float], gradients: list[np.ndarray]) -> np.ndarray:
    """The parameter after these gradients, from the definitions of Kingma and Ba, Polyak, and Hinton."""
    x, rate = np.zeros(2), settings["learning_rate"]
    first, second = np.zeros(2), np.zeros(2)
    for k, gradient in enumerate(gradients, start=1):
        if name == "adam":
            b1, b2 = settings["b1"], settings["b2"]
            first, second = b1 * first + (1 - b1) * gradient, b2 * second + (1 - b2) * gradient**2
            x = x - rate * first / (1 - b1**k) / (np.sqrt(second / (1 - b2**k)) + settings["eps"])
        elif name == "sgd":
            first = settings["momentum"] * first + gradient
            x = x - rate * first
        else:
            decay = settings["decay"]
            second = decay * second + (1 - decay) * gradient**2
            x = x - rate * gradient / np.sqrt(second + settings["eps"])
    return x


@pytest.mark.parametrize(
    ("make_one", "settings"),
    [
        (adam, {"learning_rate": 0.1, "b1": 0.7, "b2": 0.8, "eps": 1e-3}),
        (sgd, {"learning_rate": 0.1, "momentum": 0.6}),
        (sgd, {"learning_rate": 0.1, "momentum": 0.0}),
        (rmsprop, {"learning_rate": 0.1, "decay": 0.7, "eps": 1e-3}),
    ],
)
def test_optimisers_by_their_definitions(make_one: Any, settings: dict[str, float]) -> None:
    gradients = list(np.random.default_rng(0).normal(size=(5, 2)))
    optimizer = make_one(**settings)
    x = jnp.zeros(2)
    state = optimizer.init(x)
    for gradient in gradients:
        updates, state = optimizer.update(jnp.asarray(gradient), state, x)
        x = optax.apply_updates(x, updates)
    np.testing.assert_allclose(x, by_hand(make_one.__name__, settings, gradients), rtol=1e-10)
