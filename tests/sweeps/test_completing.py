import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import didsim
from didsim.sweeps.completing import complete, metrics_of
from tests.sweeps.study_cases import UNIFORM, entry

WRONG_KEYS: list[tuple[dict[str, Any], str]] = [
    ({"stepz": 3}, "`stepz` is not a key of a study; did you mean 'steps'?"),
    ({"optimiser": "adam"}, "`optimiser` is not a key of a study; did you mean 'optimizer'?"),
    ({"sweep": {}}, "`sweep` is not a key of a study; "),
    ({"space": {"vocab": 3}}, "`space.vocab` is not a key of a study; did you mean 'vocab_size'?"),
    ({"record": {"evry": 2}}, "`record.evry` is not a key of a study; did you mean 'every'?"),
    ({"problem": {"reject": 3}}, "`problem.reject` is not a key of a study; did you mean 'rejected'?"),
    (
        {"problem": {"name": "online", "sampl": 3}},
        "`problem.sampl` is not a key of a study; did you mean 'sampler'?",
    ),
    (
        {"problem": {"name": "labelled", "frst": 3}},
        "`problem.frst` is not a key of a study; did you mean 'first'?",
    ),
    # Keys of another kind of problem are none of this one.
    (
        {"problem": {"name": "online", "pairs": 3}},
        "`problem.pairs` is not a key of a study; there are beta, name, sampler",
    ),
    ({"problem": {"name": "contrastive", "beta": 3}}, "`problem.beta` is not a key of a study; there are "),
    ({"policy": {"features": 3}}, "`policy.features` is not a setting of 'energy_based'; it has no settings"),
    (
        {"reference": {"scal": 2}},
        "`reference.scal` is not a setting of 'normal_logits'; did you mean 'scale'?",
    ),
    # What a study passes itself is no setting.
    ({"reference": {"size": 2}}, "`reference.size` is not a setting of 'normal_logits'; there are scale"),
    (
        {"reference": {"name": "zipf", "key": 1}},
        "`reference.key` is not a setting of 'zipf'; there are exponent",
    ),
    (
        {"target": {"name": "drifted", "strenth": 1}},
        "`target.strenth` is not a setting of 'drifted'; did you mean 'strength'?",
    ),
    ({"objective": {"name": "dpo", "tau": 1}}, "`objective.tau` is not a setting of 'dpo'; there are beta"),
    (
        {"objective": {"label_smothing": 1}},
        "`objective.label_smothing` is not a setting of 'dpo'; there are beta",
    ),
    (
        {"optimizer": {"learning_rat": 1}},
        "`optimizer.learning_rat` is not a setting of 'adam'; did you mean 'learning_rate'?",
    ),
    (
        {"problem": {"rejected": {"bta": 1}}},
        "`problem.rejected.bta` is not a setting of 'optimal'; did you mean 'beta'?",
    ),
    (
        {"problem": {"chosen": {"name": "uniform", "beta": 1}}},
        "`problem.chosen.beta` is not a setting of 'uniform'; it has no settings",
    ),
    (
        {"problem": {"name": "labelled", "first": {"name": "tempered", "exponnt": 1}}},
        "`problem.first.exponnt` is not a setting of 'tempered'; did you mean 'exponent'?",
    ),
    (
        {"problem": {"name": "online", "sampler": {"exponentt": 1}}},
        "`problem.sampler.exponentt` is not a setting of 'on_policy'; did you mean 'exponent'?",
    ),
]

WRONG_NAMES: list[tuple[dict[str, Any], str]] = [
    ({"policy": "energy"}, "`policy.name` is unknown: 'energy'; did you mean 'energy_based'?"),
    (
        {"policy": {"name": 3}},
        "`policy.name` is unknown: 3; there are autoregressive, energy_based, log_linear",
    ),
    ({"policy": {"name": ["x"]}}, "`policy.name` is unknown: ['x']; "),
    (
        {"reference": "drifted"},
        "`reference.name` is unknown: 'drifted'; there are dirichlet, markov, normal_logits, zipf",
    ),
    ({"target": "drift"}, "`target.name` is unknown: 'drift'; did you mean 'drifted'?"),
    ({"objective": {"name": "dpoo", "beta": 1}}, "`objective.name` is unknown: 'dpoo'; did you mean 'dpo'?"),
    ({"optimizer": {"name": "lbfgz"}}, "`optimizer.name` is unknown: 'lbfgz'; did you mean 'lbfgs'?"),
    ({"problem": "contrastiv"}, "`problem.name` is unknown: 'contrastiv'; did you mean 'contrastive'?"),
    ({"problem": {"name": 3}}, "`problem.name` is unknown: 3; there are contrastive, labelled, online"),
    (
        {"problem": {"rejected": "optimum"}},
        "`problem.rejected.name` is unknown: 'optimum'; did you mean 'optimal'?",
    ),
    (
        {"problem": {"name": "labelled", "second": "uniforn"}},
        "`problem.second.name` is unknown: 'uniforn'; did you mean 'uniform'?",
    ),
    (
        {"problem": {"name": "online", "sampler": "best"}},
        "`problem.sampler.name` is unknown: 'best'; there are capped_reward_difference, on_policy, pol",
    ),
    (
        {"record": {"metrics": ["js_to_targt"]}},
        "`record.metrics` has an unknown metric 'js_to_targt'; did you mean 'js_to_target'?",
    ),
    (
        {"record": {"also": ["loss"]}},
        "`record.also` has an unknown metric 'loss'; there are fraction_ordered, reward_accuracy",
    ),
    (
        {"record": {"metrics": ["loss"], "also": ["fraction_ordered"]}},
        "`record.also` adds to the standard metrics, and must be empty beside `record.metrics`; got "
        "['fraction_ordered']",
    ),
    ({"schedule": "cosin"}, "`schedule.name` is unknown: 'cosin'; did you mean 'cosine'?"),
    ({"dtype": "float16"}, "`dtype` must be one of float32, float64; got 'float16'"),
]

WRONG_TYPES: list[tuple[dict[str, Any], str]] = [
    ({"space": 3}, "`space`: Expected `object`, got `int`"),
    ({"space": {"vocab_size": 2.0}}, "`space.vocab_size`: Expected `int`, got `float`"),
    ({"space": {"vocab_size": "2"}}, "`space.vocab_size`: Expected `int`, got `str`"),
    ({"space": {"max_length": True}}, "`space.max_length`: Expected `int`, got `bool`"),
    ({"space": {"eos": 1}}, "`space.eos`: Expected `bool`, got `int`"),
    ({"policy": 3}, "`policy`: Expected `str | object`, got `int`"),
    ({"policy": {"name": "log_linear", "features": 2.5}}, "`policy.features`: Expected `int`, got `float`"),
    ({"policy": {"name": "log_linear", "features": True}}, "`policy.features`: Expected `int`, got `bool`"),
    ({"reference": {"scale": "1"}}, "`reference.scale`: Expected `float`, got `str`"),
    ({"reference": {"scale": True}}, "`reference.scale`: Expected `float`, got `bool`"),
    ({"reference": {"scale": [1.0]}}, "`reference.scale`: Expected `float`, got `array`"),
    ({"problem": 3}, "`problem`: Expected `object`, got `int`"),
    ({"problem": {"rejected": 3}}, "`problem.rejected`: Expected `str | object`, got `int`"),
    ({"problem": {"pairs": 1.5}}, "`problem.pairs`: Expected `int | null`, got `float`"),
    ({"problem": {"name": "labelled", "beta": "x"}}, "`problem.beta`: Expected `float | null`, got `str`"),
    (
        {"problem": {"name": "online", "sampler": {"name": "reward_difference", "of": 1}}},
        "`problem.sampler.of`: Expected `str`, got `int`",
    ),
    ({"objective": None}, "`objective`: Expected `str | object`, got `null`"),
    (
        {"objective": {"name": "sft", "length_normalised": 1}, "problem": UNIFORM},
        "`objective.length_normalised`: Expected `bool`, got `int`",
    ),
    ({"optimizer": {"learning_rate": "fast"}}, "`optimizer.learning_rate`: Expected `float`, got `str`"),
    ({"schedule": 3}, "`schedule`: Expected `"),
    ({"steps": 2.5}, "`steps`: Expected `int`, got `float`"),
    ({"steps": True}, "`steps`: Expected `int`, got `bool`"),
    ({"record": 3}, "`record`: Expected `object`, got `int`"),
    ({"record": {"every": 1.0}}, "`record.every`: Expected `int`, got `float`"),
    ({"record": {"metrics": "loss"}}, "`record.metrics`: Expected `array | null`, got `str`"),
    ({"record": {"metrics": ["loss", 3]}}, "`record.metrics[1]`: Expected `str`, got `int`"),
    ({"batch_size": 1.5}, "`batch_size`: Expected `int | null`, got `float`"),
    ({"limit": "yes"}, "`limit`: Expected `bool`, got `str`"),
    ({"seed": 1.0}, "`seed`: Expected `int`, got `float`"),
    ({"seed": True}, "`seed`: Expected `int`, got `bool`"),
]

NAN, INF = float("nan"), float("inf")

WRONG_VALUES: list[tuple[dict[str, Any], str]] = [
    ({"space": {"vocab_size": 0}}, "`space.vocab_size`: Expected `int` >= 1"),
    (
        {"space": {"vocab_size": 1000, "max_length": 100}},
        "`space`: `vocab_size` 1000 and `max_length` 100 make a space too large",
    ),
    (
        {"policy": {"name": "log_linear", "features": 0}},
        "`policy`: `features` must be an integer of at least 1; got 0",
    ),
    ({"reference": "dirichlet"}, "`reference.concentration` must be given to 'dirichlet'"),
    (
        {"reference": {"name": "dirichlet", "concentration": -1}},
        "`reference`: `concentration` must be positive and finite; got -1.0",
    ),
    ({"reference": {"scale": NAN}}, "`reference.scale` must be finite; got nan"),
    ({"target": {"name": "drifted", "strength": INF}}, "`target.strength` must be finite; got inf"),
    ({"target": "zipf"}, "`target.exponent` must be given to 'zipf'"),
    ({"problem": {"pairs": 0}}, "`problem.pairs`: Expected `int` >= 1"),
    ({"problem": {"name": "labelled", "beta": 0}}, "`problem.beta` must be positive; got 0.0"),
    ({"problem": {"name": "online", "beta": NAN}}, "`problem.beta` must be finite; got nan"),
    ({"problem": {"name": "online", "beta": -1.0}}, "`problem.beta` must be positive; got -1.0"),
    (
        {"problem": {"rejected": {"beta": -1}}},
        "`problem.rejected`: `beta` must be positive and finite; got -1.0",
    ),
    ({"problem": {"rejected": "geodesic"}}, "`problem.rejected.position` must be given to 'geodesic'"),
    (
        {"problem": {"chosen": {"name": "worst_of_n", "n": 0.5}}},
        "`problem.chosen`: `n` must be at least 1 and finite; got 0.5",
    ),
    (
        {"problem": {"name": "online", "sampler": {"exponent": -1}}},
        "`problem.sampler`: `exponent` must be zero or more and finite; got -1.0",
    ),
    (
        {"problem": {"name": "online", "sampler": {"name": "reward_difference", "of": "h"}}},
        "`problem.sampler`: `of` must be 'policy' or 'reward'; got 'h'",
    ),
    ({"objective": {"beta": 0}}, "`objective`: `beta` must be positive and finite; got 0.0"),
    ({"objective": {"beta": NAN}}, "`objective.beta` must be finite; got nan"),
    ({"objective": {"name": "cdpo", "label_smoothing": 0.7}}, "`objective`: `label_smoothing` must be"),
    ({"optimizer": "adam"}, "`optimizer.learning_rate` must be given to 'adam'"),
    ({"optimizer": {"learning_rate": 0}}, "`optimizer.learning_rate` must be positive; got 0.0"),
    ({"optimizer": {"learning_rate": -0.1}}, "`optimizer.learning_rate` must be positive; got -0.1"),
    ({"optimizer": {"b2": INF}}, "`optimizer.b2` must be finite; got inf"),
    ({"steps": -1}, "`steps`: Expected `int` >= 0"),
    ({"record": {"every": 0}}, "`record.every`: Expected `int` >= 1"),
    ({"batch_size": 0}, "`batch_size`: Expected `int` >= 1"),
    ({"seed": -1}, "`seed`: Expected `int` >= 0"),
    ({"seed": 2**31}, "`seed`: Expected `int` <= 2147483647"),
    (
        {"record": {"metrics": ["loss", "fraction_ordered"]}, "problem": {"pairs": 3}},
        "`record`: the metric 'fraction_ordered' needs a rejected distribution without zeros",
    ),
    (
        {"record": {"also": ["fraction_ordered"]}, "problem": {"name": "labelled", "pairs": 3}},
        "`record`: the metric 'fraction_ordered' needs a rejected distribution without zeros",
    ),
]


@pytest.mark.parametrize(("tables", "message"), WRONG_KEYS + WRONG_NAMES + WRONG_TYPES + WRONG_VALUES)
def test_what_is_wrong_is_refused_by_its_place(tables: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        complete(tables)


def test_a_message_ends_with_the_nearest_key() -> None:
    """Nothing is left over after what the tables above say, unless they end in the middle of a list."""
    for tables, message in WRONG_KEYS + WRONG_NAMES:
        if message.endswith(("?", "settings")):
            with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
                complete(tables)


def test_a_problems_name_that_is_no_word_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`problem.name` is unknown: \['labelled'\]"):
        complete({"problem": {"name": ["labelled"]}})


def test_a_record_of_no_metrics_is_refused_at_once_or_taken() -> None:
    try:
        config = complete({"record": {"metrics": []}})
    except ValueError as error:
        assert str(error).startswith("`record.metrics`")  # noqa: PT017
    else:
        assert metrics_of(config) == []


@pytest.mark.parametrize("key", ["schedule", "dtype"])
def test_a_wrong_word_is_answered_with_those_that_there_are(key: str) -> None:
    known = {"schedule": "cosine", "dtype": "float32"}[key]
    with pytest.raises(ValueError, match=known):
        complete({key: known[:-1] + "x"})


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "steps": st.one_of(
                st.integers(-2, 10), st.floats(allow_nan=True), st.booleans(), st.text(max_size=3)
            ),
            "seed": st.one_of(
                st.integers(-2, 10), st.integers(2**31 - 2, 2**31 + 2), st.floats(), st.booleans()
            ),
            "batch_size": st.one_of(st.integers(-2, 10), st.none(), st.floats(), st.booleans()),
            "limit": st.one_of(st.integers(0, 1), st.booleans(), st.none()),
        },
    )
)
def test_integers_flags_and_nothing_are_told_apart(tables: dict[str, Any]) -> None:
    def is_int(value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool)

    good = {
        "steps": lambda one: is_int(one) and one >= 0,
        "seed": lambda one: is_int(one) and 0 <= one < 2**31,
        "batch_size": lambda one: one is None or (is_int(one) and one >= 1),
        "limit": lambda one: isinstance(one, bool),
    }
    wrong = [key for key, value in tables.items() if not good[key](value)]
    if wrong:
        with pytest.raises(ValueError, match=f"^`({'|'.join(wrong)})`: Expected"):
            complete(tables)
    else:
        config = complete(tables)
        for key, value in tables.items():
            assert config[key] == value
            assert type(config[key]) is type(value)


@given(
    st.sampled_from((("objective", "beta"), ("reference", "scale"), ("optimizer", "learning_rate"))),
    st.one_of(st.floats(), st.integers(-(10**6), 10**6)),
)
def test_numbers_are_positive_where_they_must_be(place: tuple[str, str], value: float) -> None:
    table, key = place
    least_allowed = value >= 0 if key == "scale" else value > 0
    if least_allowed and value < INF:
        found = complete({table: {key: value}})[table][key]
        assert found == value
        assert type(found) is float
    else:
        with pytest.raises(ValueError, match=rf"^`{table}(\.{key})?`.* {re.escape(str(float(value)))}$"):
            complete({table: {key: value}})


@pytest.mark.parametrize("default", [None, (0.1, 0.2)])
def test_a_parameter_whose_default_no_table_can_hold_is_no_setting(default: Any) -> None:
    def mine(beta: float = 0.1, schedule: Any = default) -> Any:
        return didsim.dpo(beta)

    with entry(didsim.OBJECTIVES, "mine", mine):
        assert complete({"objective": "mine"})["objective"] == {"name": "mine", "beta": 0.1}
        with pytest.raises(ValueError, match=r"^`objective\.schedule` is not a setting of 'mine'"):
            complete({"objective": {"name": "mine", "schedule": 3}})
