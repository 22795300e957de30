import inspect
import re
from typing import Any

import msgspec
import optax
import pytest

import didsim
from didsim.sweeps import makers
from didsim.sweeps.completing import complete, metrics_of
from didsim.sweeps.optimizers import OPTIMIZERS
from didsim.sweeps.study import Study
from didsim.sweeps.tables import leaves
from tests.sweeps.study_cases import UNIFORM, entry


def test_an_empty_study_is_the_one_that_the_signatures_say() -> None:
    assert complete({}) == {
        "space": {"vocab_size": 4, "max_length": 4, "eos": False},
        "policy": {"name": "energy_based"},
        "reference": {"name": "normal_logits", "scale": 1.0},
        "target": {"name": "normal_logits", "scale": 1.0},
        "problem": {
            "name": "contrastive",
            "chosen": {"name": "reference"},
            "rejected": {"name": "optimal", "beta": 0.1},
            "pairs": None,
        },
        "objective": {"name": "dpo", "beta": 0.1},
        "optimizer": {"name": "adam", "learning_rate": 0.1, "b1": 0.9, "b2": 0.999, "eps": 1e-8},
        "schedule": {"name": "constant"},
        "steps": 500,
        "record": {"every": 10, "metrics": None, "also": ()},
        "batch_size": None,
        "limit": False,
        "seed": 0,
        "dtype": "float64",
    }


@pytest.mark.parametrize("name", sorted(didsim.OBJECTIVES))
def test_an_objectives_defaults_are_those_of_its_factory(name: str) -> None:
    found = complete({"objective": name, "problem": UNIFORM})["objective"]
    parameters = inspect.signature(didsim.OBJECTIVES[name]).parameters
    # The study itself passes the space.
    defaults = {key: one.default for key, one in parameters.items() if key != "space"}
    assert found == {"name": name, **defaults}
    for key, value in found.items():
        assert type(value) in (str, bool, float), f"{key} is plain"


DEFAULTS: dict[str, list[tuple[Any, dict[str, Any]]]] = {
    "policy": [
        ("log_linear", {"name": "log_linear", "features": 16}),
        ("autoregressive", {"name": "autoregressive"}),
    ],
    "reference": [
        ({"name": "dirichlet", "concentration": 2}, {"name": "dirichlet", "concentration": 2.0}),
        ({"name": "zipf", "exponent": 1}, {"name": "zipf", "exponent": 1.0}),
        ("markov", {"name": "markov", "scale": 1.0}),
        ({"scale": 2}, {"name": "normal_logits", "scale": 2.0}),
    ],
    "target": [
        ("drifted", {"name": "drifted", "strength": 0.0, "noise": 0.5}),
        ("tempered", {"name": "tempered", "exponent": 0.5}),
    ],
    "optimizer": [
        ({"learning_rate": 1}, {"name": "adam", "learning_rate": 1.0, "b1": 0.9, "b2": 0.999, "eps": 1e-8}),
        ({"name": "sgd", "learning_rate": 1}, {"name": "sgd", "learning_rate": 1.0, "momentum": 0.0}),
        (
            {"name": "rmsprop", "learning_rate": 1},
            {"name": "rmsprop", "learning_rate": 1.0, "decay": 0.9, "eps": 1e-8},
        ),
    ],
    "problem": [
        (
            "labelled",
            {
                "name": "labelled",
                "first": {"name": "reference"},
                "second": {"name": "reference"},
                "beta": 0.1,
                "pairs": None,
            },
        ),
        (
            "online",
            {"name": "online", "sampler": {"name": "on_policy", "exponent": 1.0}, "beta": 0.1},
        ),
        (
            {"name": "online", "sampler": "reward_difference"},
            {"name": "online", "sampler": {"name": "reward_difference", "of": "policy"}, "beta": 0.1},
        ),
        (
            {"rejected": "worst_of_n", "chosen": {"name": "geodesic", "position": 1}},
            {
                "name": "contrastive",
                "chosen": {"name": "geodesic", "position": 1.0},
                "rejected": {"name": "worst_of_n", "n": 4.0},
                "pairs": None,
            },
        ),
    ],
}


@pytest.mark.parametrize(
    ("key", "given", "expected"), [(key, *case) for key, cases in DEFAULTS.items() for case in cases]
)
def test_settings_are_filled_in(key: str, given: Any, expected: dict[str, Any]) -> None:
    found = complete({key: given})[key]
    assert found == expected
    # 1 and 1.0 are equal, but other programs.
    assert {k: type(v) for k, v in leaves(found)} == {k: type(v) for k, v in leaves(expected)}


@pytest.mark.parametrize(
    "tables",
    [
        {},
        {"problem": {"name": "labelled", "beta": 0.3}, "objective": "ipo", "policy": "log_linear"},
        {"problem": "online", "target": "drifted"},
    ],
)
def test_a_study_that_is_complete_stays_as_it_is(tables: dict[str, Any]) -> None:
    first = complete(tables)
    assert complete(first) == first
    # It is plain data, as a store and another process need it.
    assert complete(msgspec.json.decode(msgspec.json.encode(first))) == first


def test_tables_are_not_changed() -> None:
    tables: dict[str, Any] = {"problem": {"rejected": {"name": "optimal"}}, "objective": {"beta": 0.4}}
    complete(tables)
    assert tables == {"problem": {"rejected": {"name": "optimal"}}, "objective": {"beta": 0.4}}


def test_a_name_alone_is_a_table_with_that_name() -> None:
    words: dict[str, Any] = {
        "policy": "autoregressive",
        "reference": "markov",
        "target": "drifted",
        "problem": {"chosen": "target", "rejected": "reversed"},
        "objective": "cdpo",
    }
    tables: dict[str, Any] = {
        "policy": {"name": "autoregressive"},
        "reference": {"name": "markov"},
        "target": {"name": "drifted"},
        "problem": {"name": "contrastive", "chosen": {"name": "target"}, "rejected": {"name": "reversed"}},
        "objective": {"name": "cdpo"},
    }
    assert complete(words) == complete(tables)
    assert complete({"problem": "labelled"}) == complete({"problem": {"name": "labelled"}})


# Tables whose objective has a beta of 0.7, and the place of the beta that they leave out.
LEFT_OUT: list[tuple[dict[str, Any], str]] = [
    ({}, "problem.rejected.beta"),
    ({"problem": {"rejected": "reversed"}}, "problem.rejected.beta"),
    ({"problem": {"chosen": {"name": "perturbed", "noise": 0.1}}}, "problem.chosen.beta"),
    ({"problem": "labelled"}, "problem.beta"),
    ({"problem": {"name": "labelled", "first": "optimal"}}, "problem.first.beta"),
    ({"problem": {"name": "labelled", "second": "perturbed"}}, "problem.second.beta"),
    ({"problem": "online"}, "problem.beta"),
]


@pytest.mark.parametrize(("tables", "place"), LEFT_OUT)
def test_a_beta_that_is_left_out_is_the_objectives(tables: dict[str, Any], place: str) -> None:
    assert dict(leaves(complete({**tables, "objective": {"name": "cdpo", "beta": 0.7}})))[place] == 0.7
    # The objective's own default, where it is not given one.
    assert dict(leaves(complete({**tables, "objective": "simpo"})))[place] == 2.0
    message = f"`{place}` must be given: the objective has no beta to take it from"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        complete({**tables, "objective": "ipo"})


def test_a_beta_that_is_given_stays() -> None:
    for tables, place in LEFT_OUT:
        config = complete({**tables, "objective": {"beta": 0.7}})
        table: dict[str, Any] = config
        *parents, last = place.split(".")
        for parent in parents:
            table = table[parent]
        table[last] = 0.2
        assert dict(leaves(complete({**config, "objective": "ipo"})))[place] == 0.2


def test_metrics_of_a_study_are_those_that_train_would_record() -> None:
    assert metrics_of(complete({})) == [
        name for name in didsim.METRICS if name not in ("reward_accuracy", "fraction_ordered")
    ]
    also = complete({"record": {"also": ["reward_accuracy"]}})
    assert metrics_of(also) == [name for name in didsim.METRICS if name != "fraction_ordered"]
    pairs = complete({"problem": {"pairs": 10}})
    assert metrics_of(pairs) == [
        name
        for name in didsim.METRICS
        if name not in ("reward_accuracy", "fraction_ordered", "margin_rejected")
    ]
    chosen = complete({"record": {"metrics": ["reward_accuracy", "loss", "loss"]}})
    assert sorted(metrics_of(chosen)) == ["loss", "reward_accuracy"]
    assert metrics_of(complete({"record": {"metrics": ["margin_rejected"]}})) == ["margin_rejected"]
    assert len(metrics_of(complete({"problem": "online"}))) == len(didsim.METRICS) - 2


def test_leaves_are_all_values_by_their_places() -> None:
    nested = {"a": {"b": {"c": 1}, "d": [2, 3]}, "e": None, "f": {}}
    assert list(leaves(nested)) == [("a.b.c", 1), ("a.d", [2, 3]), ("e", None)]


def test_a_study_object_is_its_tables() -> None:
    assert complete(msgspec.to_builtins(Study())) == complete({})
    given = Study(steps=7, objective={"name": "ipo", "tau": 0.3}, problem={"name": "labelled", "beta": 1.0})  # type: ignore[arg-type]
    found = complete(msgspec.to_builtins(given))
    assert found["steps"] == 7
    assert found["objective"] == {"name": "ipo", "tau": 0.3, "length_normalised": False}
    assert found["problem"]["beta"] == 1.0
    unnamed = Study(problem={"rejected": "reference"})  # type: ignore[arg-type]
    assert complete(msgspec.to_builtins(unnamed))["problem"]["name"] == "contrastive"
    with pytest.raises(ValueError, match=r"`problem\.name` is unknown: 'nothing'"):
        Study(problem={"name": "nothing"})  # type: ignore[arg-type]


def test_an_objective_of_ones_own() -> None:
    def mine(beta: float = 0.25, strength: float = 3, keep: bool = False, how: str = "so") -> Any:
        if how not in ("so", "otherwise"):
            raise ValueError(f"`how` must be 'so' or 'otherwise'; got {how!r}")
        return didsim.dpo(beta)

    with entry(didsim.OBJECTIVES, "mine", mine):
        config = complete({"objective": "mine"})
        assert config["objective"] == {
            "name": "mine",
            "beta": 0.25,
            "strength": 3.0,
            "keep": False,
            "how": "so",
        }
        assert config["problem"]["rejected"]["beta"] == 0.25
        for table, message in (
            ({"how": "no"}, "`objective`: `how` must be 'so' or 'otherwise'; got 'no'"),
            ({"keep": 1}, "`objective.keep`: Expected `bool`, got `int`"),
            ({"how": 1}, "`objective.how`: Expected `str`, got `int`"),
            ({"strenght": 1}, "`objective.strenght` is not a setting of 'mine'; did you mean 'strength'?"),
            ({"beta": -2}, "`objective`: `beta` must be positive and finite; got -2.0"),
        ):
            with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
                complete({"objective": {"name": "mine", **table}})
    with pytest.raises(ValueError, match=r"^`objective\.name` is unknown: 'mine'"):
        complete({"objective": "mine"})


def test_entries_of_ones_own_in_every_registry() -> None:
    def spiky(key: Any, size: int, height: float = 4.0) -> Any:
        return didsim.normal_logits(key, size, height)

    def mean(reference: Any, target: Any, share: float) -> Any:
        return didsim.geodesic(reference, target - reference, share)

    def slow(learning_rate: Any) -> Any:
        return optax.sgd(learning_rate / 10)

    def here(reference: Any, rank: int = 3) -> Any:
        return didsim.EnergyBased(reference)

    with (
        entry(makers.REFERENCES, "spiky", spiky),
        entry(didsim.REJECTED, "mean", mean),
        entry(OPTIMIZERS, "slow", slow),
        entry(makers.POLICIES, "here", here),
        entry(makers.TARGETS, "also_spiky", spiky),
        entry(didsim.SAMPLERS, "off_policy", didsim.Uniform),
    ):
        config = complete(
            {
                "reference": {"name": "spiky", "height": 2},
                "target": "also_spiky",
                "optimizer": {"name": "slow", "learning_rate": 1},
                "policy": "here",
                "problem": {"chosen": {"name": "mean", "share": 1}},
            }
        )
        assert config["reference"] == {"name": "spiky", "height": 2.0}
        assert config["target"] == {"name": "also_spiky", "height": 4.0}
        assert config["problem"]["chosen"] == {"name": "mean", "share": 1.0}
        assert config["optimizer"] == {"name": "slow", "learning_rate": 1.0}
        assert config["policy"] == {"name": "here", "rank": 3}
        online = complete({"problem": {"name": "online", "sampler": "off_policy"}})
        assert online["problem"]["sampler"] == {"name": "off_policy"}
        with pytest.raises(ValueError, match=r"^`problem.rejected.share` must be given to 'mean'$"):
            complete({"problem": {"rejected": "mean"}})
        with pytest.raises(ValueError, match=r"^`policy.rank`: Expected `int`, got `float`$"):
            complete({"policy": {"name": "here", "rank": 3.5}})


def test_an_optimiser_of_ones_own_without_a_learning_rate() -> None:
    with entry(OPTIMIZERS, "fixed", lambda: optax.sgd(0.1)):
        assert complete({"optimizer": "fixed"})["optimizer"] == {"name": "fixed"}


def test_metrics_of_ones_own_are_recorded_where_they_are_named() -> None:
    def peak(s: Any) -> Any:
        return s.log_probs.max()

    with entry(didsim.METRICS, "peak", peak), entry(didsim.METRICS, "status", peak):
        assert "peak" not in metrics_of(complete({}))
        assert metrics_of(complete({"record": {"also": ["peak"]}})) == [*metrics_of(complete({})), "peak"]
        assert metrics_of(complete({"record": {"metrics": ["peak", "loss"]}})) == ["peak", "loss"]
        with pytest.raises(ValueError, match=r"^`record\.also` has a metric named 'status', which is a name"):
            complete({"record": {"also": ["status"]}})
    with pytest.raises(ValueError, match=r"^`record\.also` has an unknown metric 'peak'"):
        complete({"record": {"also": ["peak"]}})


def test_annotations_may_be_strings() -> None:
    def mine(beta: "float" = 0.1, depth: "int" = 3) -> Any:
        return didsim.dpo(beta)

    with entry(didsim.OBJECTIVES, "mine", mine):
        assert type(complete({"objective": "mine"})["objective"]["depth"]) is int


def test_a_number_that_may_be_none_is_a_setting_that_may_be_left_out() -> None:
    def mine(beta: float = 0.1, bound: float | None = None, depth: int | None = None) -> Any:
        assert bound is None or type(bound) is float
        return didsim.dpo(beta)

    with entry(didsim.OBJECTIVES, "mine", mine):
        assert complete({"objective": "mine"})["objective"] == {"name": "mine", "beta": 0.1}
        given = {"name": "mine", "bound": 3, "depth": 2}
        assert complete({"objective": given})["objective"] == {**given, "beta": 0.1}
