from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_softmax

import didsim
from didsim.sweeps.makers import (
    DISTRIBUTIONS,
    POLICIES,
    REFERENCES,
    ROLES,
    TARGETS,
    autoregressive,
    drifted,
    energy_based,
    log_linear,
)
from didsim.sweeps.optimizers import OPTIMIZERS, SCHEDULES
from didsim.sweeps.settings import make, settings_of
from tests import strategies

SPACE = didsim.SequenceSpace(3, 2)
REFERENCE, TARGET = didsim.normal_logits(jax.random.split(jax.random.key(0)), SPACE.size)
AT_HAND: dict[str, Any] = {
    "key": jax.random.key(1),
    "size": SPACE.size,
    "space": SPACE,
    "reference": REFERENCE,
    "target": TARGET,
    "score": TARGET - REFERENCE,
    "learning_rate": 0.1,
    "steps": 10,
}

# A value for each setting that has no default.
NEEDED = {"concentration": 0.7, "exponent": 0.7, "beta": 0.7, "position": 0.7, "learning_rate": 0.1}

# Settings by hand, from the documentation of what is named: nothing of what a study passes itself.
SETTINGS: dict[str, dict[str, list[str]]] = {
    "policy": {"energy_based": [], "autoregressive": [], "log_linear": ["features"]},
    "reference": {
        "normal_logits": ["scale"],
        "dirichlet": ["concentration"],
        "zipf": ["exponent"],
        "markov": ["scale"],
    },
    "target": {
        "normal_logits": ["scale"],
        "dirichlet": ["concentration"],
        "zipf": ["exponent"],
        "markov": ["scale"],
        "drifted": ["strength", "noise"],
        "tempered": ["exponent"],
    },
    "optimizer": {
        "adam": ["learning_rate", "b1", "b2", "eps"],
        "sgd": ["learning_rate", "momentum"],
        "rmsprop": ["learning_rate", "decay", "eps"],
    },
    "problem.rejected": {
        "optimal": ["beta"],
        "uniform": [],
        "reference": [],
        "target": [],
        "tempered": ["exponent"],
        "reversed": ["beta"],
        "geodesic": ["position"],
        "perturbed": ["beta", "noise"],
        "worst_of_n": ["n"],
        "best_of_n": ["n"],
        "normal_logits": ["scale"],
        "dirichlet": ["concentration"],
        "zipf": ["exponent"],
        "markov": ["scale"],
    },
    "schedule": {"constant": [], "cosine": []},
    "problem.sampler": {"uniform": [], "on_policy": ["exponent"], "reward_difference": ["of"]},
}


def complete_settings(place: str, name: str) -> dict[str, Any]:
    """Settings of an entry: its defaults, and a value for each that has none."""
    return {
        key: NEEDED.get(key, one.default)
        for key, one in settings_of(ROLES[place].registry[name], ROLES[place].given).items()
    }


# Of optimisers and schedules those that are not optax's own.
OURS = {"optimizer": ["adam", "rmsprop", "sgd"], "schedule": ["constant", "cosine"]}
ENTRIES = [(place, name) for place, role in ROLES.items() for name in OURS.get(place, role.registry)]


@pytest.mark.parametrize("place", SETTINGS)
def test_settings_are_the_parameters_that_a_study_does_not_pass_itself(place: str) -> None:
    role = ROLES[place]
    for name, settings in SETTINGS[place].items():
        assert list(settings_of(role.registry[name], role.given)) == settings, name


def test_every_place_of_a_distribution_has_the_same_choice() -> None:
    for place in ("problem.chosen", "problem.rejected", "problem.first", "problem.second"):
        assert ROLES[place].registry is DISTRIBUTIONS
        assert ROLES[place].given == {"key", "size", "space", "reference", "target", "score"}
    assert ROLES["objective"].registry is didsim.OBJECTIVES
    assert ROLES["problem.sampler"].registry is didsim.SAMPLERS
    assert set(TARGETS) == set(REFERENCES) | {"drifted", "tempered"}
    assert set(DISTRIBUTIONS) == set(REFERENCES) | set(didsim.REJECTED) | {"best_of_n"}


def test_a_family_that_is_added_is_a_target_and_a_distribution_too() -> None:
    def spiky(key: Any, size: int, height: float = 4.0) -> Any:
        return didsim.normal_logits(key, size, height)

    REFERENCES["spiky"] = spiky
    try:
        for registry in (TARGETS, DISTRIBUTIONS):
            assert registry["spiky"] is spiky
    finally:
        del REFERENCES["spiky"]
    assert "spiky" not in TARGETS
    assert "spiky" not in DISTRIBUTIONS


def test_best_of_n_is_that_of_the_library() -> None:
    made = make(DISTRIBUTIONS["best_of_n"], {"name": "best_of_n", "n": 3.0}, **AT_HAND)
    np.testing.assert_array_equal(made, didsim.best_of_n(REFERENCE, TARGET - REFERENCE, 3.0))


def test_kinds_of_settings_are_those_of_the_signature() -> None:
    def kinds(place: str, name: str) -> dict[str, Any]:
        return {
            key: one.kind for key, one in settings_of(ROLES[place].registry[name], ROLES[place].given).items()
        }

    assert kinds("policy", "log_linear") == {"features": int}
    assert kinds("objective", "simpo") == {"beta": float, "gamma": float, "length_normalised": bool}
    assert kinds("problem.sampler", "reward_difference") == {"of": str}
    assert kinds("problem.rejected", "worst_of_n") == {"n": float}
    assert set(kinds("optimizer", "adam").values()) == {float}


def made_of(place: str, name: str, settings: dict[str, Any]) -> Any:
    """What an entry makes of settings and of what a study passes itself to entries of that place."""
    role = ROLES[place]
    passed = {key: value for key, value in AT_HAND.items() if key in role.given}
    return make(role.registry[name], {"name": name, **settings}, **passed)


@pytest.mark.parametrize(("place", "name"), ENTRIES)
def test_every_entry_can_be_made_and_is_what_its_place_needs(place: str, name: str) -> None:
    made = made_of(place, name, complete_settings(place, name))
    kinds = {
        "policy": didsim.Policy,
        "objective": didsim.Objective,
        "problem.sampler": didsim.Sampler,
        "optimizer": optax.GradientTransformation,
    }
    if place in kinds:
        assert isinstance(made, kinds[place])
    elif place == "schedule":
        assert (made(0) if callable(made) else made) == pytest.approx(0.1)
    else:
        assert made.shape == (SPACE.size,)
        assert float(jax.nn.logsumexp(made)) == pytest.approx(0, abs=1e-12)
        assert np.isfinite(made).all()


@pytest.mark.parametrize(("place", "name"), ENTRIES)
def test_every_setting_matters(place: str, name: str) -> None:
    """One that is not passed on would leave what is made as it is."""

    def numbers(settings: dict[str, Any]) -> Any:
        made = made_of(place, name, settings)
        if place == "optimizer":
            params = jnp.array([1.0, -2.0])
            state = made.init(params)
            for gradient in (jnp.array([0.3, 1e-8]), jnp.array([1e-7, 0.5])):
                updates, state = made.update(gradient, state, params)
            return np.asarray(updates)
        return jax.tree.map(np.asarray, jax.tree.leaves(made)), str(jax.tree.structure(made))

    settings = complete_settings(place, name)
    for key, value in settings.items():
        if isinstance(value, bool):
            other: Any = not value
        elif value is None:
            other = 0.25
        elif isinstance(value, str):
            other = {"of": "reward", "baseline": "pairs"}[key]
        else:
            other = type(value)(value * 0.5 if value else 0.25) if key != "n" else 2 * value
        before, after = numbers(settings), numbers({**settings, key: other})
        assert not equal(before, after), key


def equal(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray):
        return bool(np.array_equal(one, other))
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return bool(one == other)


def test_only_what_an_entry_asks_for_is_passed_to_it() -> None:
    asked: dict[str, Any] = {}

    def nosy(target: Any, key: Any, share: float = 0.5) -> str:
        asked.update(target=target, key=key, share=share)
        return "made"

    role = ROLES["problem.chosen"]
    assert "nosy" not in role.registry
    role.registry["nosy"] = nosy
    try:
        assert list(settings_of(role.registry["nosy"], role.given)) == ["share"]
        assert make(role.registry["nosy"], {"name": "nosy", "share": 0.25}, **AT_HAND) == "made"
        assert asked == {"target": AT_HAND["target"], "key": AT_HAND["key"], "share": 0.25}
    finally:
        del role.registry["nosy"]


@pytest.mark.parametrize(
    ("registry", "kind", "some"),
    [
        (REFERENCES, "family", {"normal_logits", "dirichlet", "zipf", "markov"}),
        (TARGETS, "target", {"normal_logits", "drifted", "tempered"}),
        (POLICIES, "policy", {"autoregressive", "energy_based", "log_linear"}),
        (OPTIMIZERS, "optimiser", {"adam", "adamw", "yogi"}),
        (SCHEDULES, "schedule", {"constant", "constant_schedule", "cosine"}),
    ],
)
def test_an_unknown_name_is_answered_with_all_names(registry: Any, kind: str, some: set[str]) -> None:
    with pytest.raises(ValueError, match=f"^unknown {kind} 'x'; there are ") as caught:
        registry["x"]
    names = str(caught.value).partition("there are ")[2].split(", ")
    assert names == sorted(registry)
    assert some <= set(names)


@given(strategies.ordinary_policies(5), st.floats(-2, 2), st.floats(0, 2), st.integers(0, 99))
def test_a_drifted_reference_by_its_formula(
    reference: np.ndarray, strength: float, noise: float, seed: int
) -> None:
    key = jax.random.key(seed)
    z = np.asarray(jax.random.normal(key, (5,)))
    expected = log_softmax((1 + strength) * reference + noise * z)
    np.testing.assert_allclose(drifted(key, reference, strength, noise), expected, atol=1e-12)


def test_drift_reinforces_smooths_or_is_nothing() -> None:
    def entropy(strength: float) -> float:
        return float(didsim.entropy(drifted(jax.random.key(0), REFERENCE, strength, 0.0)))

    assert entropy(0.5) < entropy(0.0) < entropy(-0.5)
    assert entropy(0.0) == pytest.approx(float(didsim.entropy(REFERENCE)), rel=1e-12)
    assert entropy(-1.0) == pytest.approx(np.log(SPACE.size), rel=1e-12)
    other = drifted(jax.random.key(1), REFERENCE)
    assert float(jnp.abs(other - drifted(jax.random.key(2), REFERENCE)).max()) > 0.01


def test_policies_start_at_the_reference_or_uniform() -> None:
    one: Any = energy_based(REFERENCE)
    np.testing.assert_allclose(one.log_probs(), REFERENCE, atol=1e-14)
    two: Any = autoregressive(REFERENCE, SPACE)
    np.testing.assert_allclose(two.log_probs(), REFERENCE, atol=1e-12)
    assert jax.tree.map(jnp.shape, jax.tree.leaves(two)) == [(SPACE.num_prefixes, SPACE.vocab_size)]
    batch = jnp.stack([REFERENCE, TARGET])
    for make_policy in (energy_based, lambda reference: autoregressive(reference, SPACE)):
        np.testing.assert_allclose(make_policy(batch).log_probs(), batch, atol=1e-12)
    three: Any = log_linear(SPACE, 3)
    np.testing.assert_allclose(three.log_probs(), np.full(SPACE.size, -np.log(SPACE.size)), atol=1e-14)
    assert three.features.shape == (SPACE.size, 3)
    assert log_linear(SPACE).features.shape == (SPACE.size, 16)  # type: ignore[attr-defined]
    assert np.linalg.matrix_rank(three.features) == 3
    np.testing.assert_array_equal(three.features, log_linear(SPACE, 3).features)  # type: ignore[attr-defined]


@pytest.mark.parametrize("features", [0, -1, 2.0, True])
def test_features_are_counted(features: Any) -> None:
    with pytest.raises(ValueError, match=r"^`features` must be an integer of at least 1; got"):
        log_linear(SPACE, features)
