"""Cells of blocks against runs that are put together here, one by one, from the library's own parts."""

import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.special import log_softmax

import didsim
from didsim import families
from didsim.preferences import rejected
from didsim.sweeps import cells as cells_module
from didsim.sweeps import makers
from didsim.sweeps.cells import compute
from didsim.sweeps.study import complete
from tests.training.test_train import counted_compilations

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
SGD = optax.sgd(0.5, momentum=0.5)
RMSPROP = optax.rmsprop(0.1, decay=0.9, eps=1e-8)


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


def assert_moves(found: dict[str, np.ndarray]) -> None:
    """Training changes something, and cells differ, so that a comparison says something."""
    entropies = found["policy_entropy"]
    assert (np.abs(np.diff(entropies, axis=1)) > 1e-6).any(axis=1).all()
    assert len({float(one) for one in found["js_to_target"][:, -1]}) == len(entropies)


def test_contrastive_pairs_by_hand() -> None:
    settings = [(3, 0.2, 0.5, 0.05, 0.8), (7, 1.5, 2.0, 0.3, 0.9)]
    cells = cells_of(
        {},
        *(
            {
                "seed": seed,
                "objective": {"beta": beta},
                "reference": {"scale": scale},
                "optimizer": {"learning_rate": rate, "b1": b1},
            }
            for seed, beta, scale, rate, b1 in settings
        ),
    )
    found = compute(cells, 2)
    assert_moves(found)
    assert set(found) == {"steps", "diverged_at"} | set(didsim.METRICS) - {
        "reward_accuracy",
        "fraction_ordered",
    }
    seed, beta, scale, rate, b1 = settings[1]
    keys = keys_of(seed)
    reference = didsim.normal_logits(keys.reference, SPACE.size, scale)
    target = didsim.normal_logits(keys.target, SPACE.size)
    run = alone(
        didsim.EnergyBased(reference),
        reference,
        didsim.Contrastive(reference, didsim.optimal_rejected(reference, target, beta)),
        didsim.dpo(beta),
        optax.adam(rate, b1=b1),
        target=target,
    )
    assert_is_run(found, 1, run)


def test_an_autoregressive_policy_with_endings_and_a_cosine_schedule_by_hand() -> None:
    """SimPO looks at lengths, and each distribution draws with a key of its own."""
    settings = [(1, 2.0, 0.2), (5, 0.5, 0.1)]
    cells = cells_of(
        {
            "space": {"vocab_size": 3, "max_length": 2, "eos": True},
            "policy": "autoregressive",
            "reference": "markov",
            "target": {"name": "dirichlet", "concentration": 2.0},
            "schedule": "cosine",
            "record": FEW,
        },
        *(
            {
                "seed": seed,
                "objective": {"name": "simpo", "beta": beta},
                "optimizer": {"learning_rate": rate},
                "problem": {"chosen": {"name": "perturbed", "noise": 0.1}, "rejected": "perturbed"},
            }
            for seed, beta, rate in settings
        ),
    )
    found = compute(cells, 2)
    assert_moves(found)
    seed, beta, rate = settings[1]
    keys = keys_of(seed)
    reference = didsim.markov(keys.reference, EOS)
    target = didsim.dirichlet(keys.target, EOS.size, 2.0)
    chosen = rejected.perturbed_rejected(keys.chosen, reference, target, beta, 0.1)
    lost = rejected.perturbed_rejected(keys.rejected, reference, target, beta, 0.5)
    schedule = jnp.array([rate * (1 + np.cos(np.pi * step / 5)) / 2 for step in range(5)])
    run = alone(
        didsim.Autoregressive.from_log_probs(reference, EOS),
        reference,
        didsim.Contrastive(chosen, lost),
        didsim.simpo(beta),
        optax.adam(lambda count: schedule[count]),
        target=target,
        lengths=EOS.lengths,
        record=RECORD_FEW,
    )
    assert_is_run(found, 1, run)


def test_labelled_pairs_of_a_log_linear_policy_by_hand() -> None:
    settings = [(0, 0.7, 3.0, 0.3), (2, 2.0, 2.0, 0.5)]
    cells = cells_of(
        {"policy": {"name": "log_linear", "features": 3}, "target": "drifted", "record": FEW},
        *(
            {
                "seed": seed,
                "objective": {"name": "ipo", "tau": tau},
                "optimizer": {"name": "sgd", "learning_rate": 0.5, "momentum": 0.5},
                "problem": {
                    "name": "labelled",
                    "first": {"name": "worst_of_n", "n": n},
                    "second": {"name": "perturbed", "beta": 0.4},
                    "beta": beta,
                },
            }
            for seed, beta, n, tau in settings
        ),
    )
    found = compute(cells, 2)
    assert_moves(found)
    features = jax.random.normal(jax.random.key(0), (SPACE.size, 3))
    for number, (seed, beta, n, tau) in enumerate(settings):
        keys = keys_of(seed)
        reference = didsim.normal_logits(keys.reference, SPACE.size)
        z = jax.random.normal(keys.target, (SPACE.size,))
        target = jnp.asarray(log_softmax(np.asarray(reference + 0.5 * z)))
        first = families.worst_of_n(reference, target - reference, n)
        second = rejected.perturbed_rejected(keys.second, reference, target, 0.4)
        run = alone(
            didsim.LogLinear(features, np.zeros(3)),
            reference,
            didsim.Labelled(beta * (target - reference), first, second),
            didsim.ipo(tau),
            SGD,
            target=target,
            record=RECORD_FEW,
        )
        assert_is_run(found, number, run)


def test_online_pairs_by_hand() -> None:
    problem = {"name": "online", "sampler": {"name": "reward_difference", "of": "reward"}}
    cells = cells_of(
        {"problem": problem, "record": FEW},
        *(
            {"seed": seed, "objective": {"name": "cdpo", "beta": beta, "label_smoothing": 0.2}}
            for seed, beta in ((4, 0.5), (6, 0.3))
        ),
    )
    found = compute(cells, 2)
    assert_moves(found)
    for number, (seed, beta) in enumerate(((4, 0.5), (6, 0.3))):
        reference, target = (didsim.normal_logits(key, SPACE.size) for key in keys_of(seed)[:2])
        run = alone(
            didsim.EnergyBased(reference),
            reference,
            didsim.Online(beta * (target - reference), didsim.RewardDifference("reward")),
            didsim.cdpo(beta, 0.2),
            ADAM,
            target=target,
            record=RECORD_FEW,
        )
        assert_is_run(found, number, run)


@pytest.mark.parametrize(("name", "batch_size"), [("contrastive", None), ("labelled", 4)])
def test_finite_pairs_and_minibatches_of_them_by_hand(name: str, batch_size: int | None) -> None:
    cells = cells_of(
        {
            "record": FEW,
            "batch_size": batch_size,
            "reference": {"name": "zipf", "exponent": 1.0},
            "target": {"name": "tempered", "exponent": 3.0},
            "objective": {"beta": 0.5},
            "optimizer": {"name": "rmsprop", "learning_rate": 0.1},
        },
        *({"seed": seed, "problem": {"name": name, "pairs": 20}} for seed in (11, 12)),
    )
    found = compute(cells, 2)
    assert_moves(found)
    for number, seed in enumerate((11, 12)):
        keys = keys_of(seed)
        reference = didsim.zipf(SPACE.size, 1.0, keys.reference)
        target = jnp.asarray(log_softmax(3 * np.asarray(reference)))
        population: didsim.Problem
        if name == "contrastive":
            population = didsim.Contrastive(reference, didsim.optimal_rejected(reference, target, 0.5))
        else:
            population = didsim.Labelled(0.5 * (target - reference), reference, reference)
        run = alone(
            didsim.EnergyBased(reference),
            reference,
            population.sample(keys.pairs, 20),
            didsim.dpo(0.5),
            RMSPROP,
            target=target,
            record=RECORD_FEW,
            batch_size=batch_size,
            # An array of one key, which is that of the run; of a lone key each run would get a part.
            key=None if batch_size is None else keys.training[None],
        )
        assert_is_run(found, number, run)


def test_minibatches_of_online_pairs_by_hand() -> None:
    settings = [(0, 0.1), (8, 0.3)]
    cells = cells_of(
        {
            "record": FEW,
            "batch_size": 6,
            "problem": {"name": "online", "sampler": {"exponent": 0.7}},
            "objective": {"name": "exponential", "beta": 0.5},
        },
        *({"seed": seed, "optimizer": {"learning_rate": rate}} for seed, rate in settings),
    )
    found = compute(cells, 2)
    assert_moves(found)
    seed, rate = settings[1]
    keys = keys_of(seed)
    reference, target = (didsim.normal_logits(key, SPACE.size) for key in keys[:2])
    run = alone(
        didsim.EnergyBased(reference),
        reference,
        didsim.Online(0.5 * (target - reference), didsim.OnPolicy(0.7)),
        didsim.exponential(0.5),
        optax.adam(rate),
        target=target,
        record=RECORD_FEW,
        batch_size=6,
        key=keys.training[None],
    )
    assert_is_run(found, 1, run)


def test_float32_by_hand() -> None:
    cells = cells_of(
        {
            "dtype": "float32",
            "record": FEW,
            "objective": {"beta": 0.5},
            "target": {"name": "dirichlet", "concentration": 1.0},
        },
        {"seed": 0},
        {"seed": 1},
    )
    found = compute(cells, 2)
    assert_moves(found)
    for number, seed in enumerate((0, 1)):
        with jax.enable_x64(False):
            keys = keys_of(seed)
            reference = didsim.normal_logits(keys.reference, SPACE.size)
            target = didsim.dirichlet(keys.target, SPACE.size, 1.0)
            assert reference.dtype == jnp.float32
            run = alone(
                didsim.EnergyBased(reference),
                reference,
                didsim.Contrastive(reference, didsim.optimal_rejected(reference, target, 0.5)),
                didsim.dpo(0.5),
                ADAM,
                target=target,
                record=RECORD_FEW,
            )
        assert run.metrics["loss"].dtype == jnp.float32
        # A number of size 1 has an error of 1e-7, and Adam divides by gradients, of 0.01 and less.
        assert_is_run(found, number, run, rtol=1e-4, atol=1e-5)
    # And the dtype of whoever calls is as it was.
    assert jnp.zeros(1).dtype == jnp.float64


# Limits.

LIMITS: dict[str, tuple[dict[str, Any], didsim.Objective, Callable[[Any, Any], didsim.Problem]]] = {
    "dpo": (
        {"objective": {"beta": 0.5}, "problem": {"rejected": {"name": "optimal", "beta": 0.2}}},
        didsim.dpo(0.5),
        lambda p, q: didsim.Contrastive(p, didsim.optimal_rejected(p, q, 0.2)),
    ),
    "simpo": (
        {"objective": {"name": "simpo", "beta": 0.5, "gamma": 0}, "problem": "labelled"},
        didsim.simpo(0.5, 0.0),
        lambda p, q: didsim.Labelled(0.5 * (q - p), p, p),
    ),
    "sft": (
        {"objective": "sft", "problem": {"chosen": "tempered", "rejected": "uniform"}},
        didsim.sft(),
        lambda p, q: didsim.Contrastive(jax.nn.log_softmax(0.5 * p), p),
    ),
    "dpo_pg": (
        {"objective": "dpo_pg"},
        didsim.dpo_pg(0.1),
        lambda p, q: didsim.Contrastive(p, didsim.optimal_rejected(p, q, 0.1)),
    ),
}


@pytest.mark.parametrize("name", LIMITS)
def test_limits_are_those_of_fixed_point(name: str) -> None:
    """Without steps, the policy at the end is that at the start."""
    tables, objective, make_problem = LIMITS[name]
    space = {"vocab_size": 3, "max_length": 2, "eos": True}
    rest = {"record": {"metrics": ["js_to_target"]}, "limit": True, "steps": 0, "space": space}
    found = compute(cells_of({**tables, **rest}, {"seed": 0}, {"seed": 5}), 2)
    assert set(found) == {"steps", "diverged_at", "js_to_target", "js_limit", "js_to_limit"}
    assert found["steps"].tolist() == [0]
    for number, seed in enumerate((0, 5)):
        reference, target = (didsim.normal_logits(key, EOS.size) for key in keys_of(seed)[:2])
        js_limit = js_to_limit = np.nan
        try:
            limit = didsim.fixed_point(objective, reference, make_problem(reference, target), EOS.lengths)
        except didsim.NoMinimiserError:
            assert name == "dpo_pg", "a gradient rule minimises nothing, and all others something"
        else:
            js_limit, js_to_limit = float(didsim.js(limit, target)), float(didsim.js(reference, limit))
            assert js_limit > 1e-3
            assert js_to_limit > 1e-3
        np.testing.assert_allclose(found["js_limit"][number], js_limit, rtol=1e-8)
        np.testing.assert_allclose(found["js_to_limit"][number], js_to_limit, rtol=1e-8)
        at_start = float(didsim.js(reference, target))
        assert float(found["js_to_target"][number, 0]) == pytest.approx(at_start, rel=1e-12)


def test_the_distance_to_the_limit_is_that_of_the_policy_at_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """DPO's limit at the beta of the optimal rejected distribution is the target."""
    tables = {"record": {"every": 4, "metrics": ["js_to_target"]}, "limit": True}
    betas = [{"seed": k, "objective": {"beta": beta}} for k, beta in enumerate((0.1, 0.7, 0.4))]
    found = compute(cells_of(tables, *betas), 3)
    np.testing.assert_allclose(found["js_limit"], 0, atol=1e-14)
    np.testing.assert_allclose(found["js_to_limit"], found["js_to_target"][:, -1], rtol=1e-7)
    assert (np.diff(found["js_to_target"], axis=1) < -1e-4).all()
    # Two at once, and the third one twice.
    monkeypatch.setattr(cells_module, "_SOLVED_AT_ONCE", 2 * SPACE.size**3)
    parts = compute(cells_of(tables, *betas), 3)
    for name, values in found.items():
        np.testing.assert_allclose(parts[name], values, rtol=1e-10, atol=1e-14, err_msg=name)


def test_a_cell_without_a_limit_leaves_those_of_the_others() -> None:
    """Of two sequences, pairs have a limit if either wins at least once; by hand, in closed form."""
    tables: dict[str, Any] = {
        "space": {"vocab_size": 2, "max_length": 1},
        "record": {"every": 5, "metrics": ["loss"]},
        "limit": True,
        "problem": {"pairs": 8},
    }
    found = compute(cells_of({**tables, "objective": {"beta": 0.5}}, *({"seed": k} for k in range(6))), 6)
    expected = []
    for seed in range(6):
        keys = keys_of(seed)
        reference, target = (didsim.normal_logits(key, 2) for key in keys[:2])
        population = didsim.Contrastive(reference, didsim.optimal_rejected(reference, target, 0.5))
        pairs = population.sample(keys.pairs, 8)
        winners, losers = np.asarray(pairs.winners), np.asarray(pairs.losers)
        wins = int((winners < losers).sum()), int((winners > losers).sum())
        if min(wins) == 0:
            expected.append(np.nan)
            continue
        # The mean of softplus(∓beta · d) is least where beta · d is the log of the ratio of wins.
        limit = log_softmax(np.asarray(reference) + np.array([np.log(wins[0] / wins[1]) / 0.5, 0.0]))
        expected.append(float(didsim.js(limit, target)))
    assert 0 < np.isnan(expected).sum() < 6, "there are both"
    assert np.isfinite(found["loss"]).all()
    np.testing.assert_array_equal(np.isnan(found["js_to_limit"]), np.isnan(expected))
    np.testing.assert_allclose(found["js_limit"], expected, rtol=1e-6)
    # Newton's method, as the rest, is compiled once.
    cells = cells_of({**tables, "objective": {"beta": 0.4}}, *({"seed": k} for k in range(6, 12)))
    with counted_compilations() as compiled:
        other = compute(cells, 6)
    assert compiled == []
    assert not np.array_equal(other["loss"], found["loss"])


# Blocks.


def rates(*values: float) -> list[dict[str, Any]]:
    tables: dict[str, Any] = {
        "objective": {"name": "exponential", "beta": 1.0},
        "steps": 12,
        "record": {"every": 1, "metrics": FEW["metrics"]},
        "limit": True,
    }
    return cells_of(
        tables,
        *({"seed": k, "optimizer": {"name": "sgd", "learning_rate": one}} for k, one in enumerate(values)),
    )


def test_a_cell_that_diverges_leaves_the_others_alone() -> None:
    fine = compute(rates(0.1, 0.3, 0.2), 3)
    mixed = compute(rates(0.1, 1e6, 0.2), 3)
    assert fine["diverged_at"].tolist() == [-1, -1, -1]
    step = int(mixed["diverged_at"][1])
    assert mixed["diverged_at"].tolist() == [-1, step, -1]
    assert 0 < step < 12
    for name, values in mixed.items():
        if name in ("steps", "diverged_at"):
            continue
        for other in (0, 2):
            np.testing.assert_array_equal(values[other], fine[name][other], err_msg=name)
            assert np.isfinite(values[other]).all(), name
        if name in ("js_limit", "js_to_limit"):
            continue
        assert np.isfinite(values[1, :step]).all(), name
        assert np.isnan(values[1, step + 1 :]).all(), name
    # The limit is that of the instance, however the way there went.
    np.testing.assert_allclose(mixed["js_limit"], fine["js_limit"], rtol=1e-12)
    # The same run of `train`, told to raise.
    keys = keys_of(1)
    reference, target = (didsim.normal_logits(key, SPACE.size) for key in keys[:2])
    problem = didsim.Contrastive(reference, didsim.optimal_rejected(reference, target, 1.0))
    with pytest.raises(didsim.DivergenceError) as caught:
        didsim.train(
            didsim.EnergyBased(reference),
            reference,
            problem,
            didsim.exponential(1.0),
            optax.sgd(1e6),
            12,
            record=didsim.Record(1, RECORD_FEW.metrics),
            target=target,
        )
    assert caught.value.step == step
    records = len(caught.value.run.steps)
    assert np.isfinite(mixed["loss"][1]).sum() == records
    np.testing.assert_allclose(mixed["loss"][1, :records], caught.value.run.metrics["loss"], rtol=1e-9)


@pytest.fixture(scope="module")
def four() -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """Four cells that differ in everything that no program depends on, and their results in one block."""
    tables: dict[str, Any] = {
        "record": FEW,
        "limit": True,
        "reference": {"name": "dirichlet", "concentration": 1.5},
        "target": {"name": "drifted"},
        "batch_size": 3,
        "schedule": "cosine",
    }
    changes: list[dict[str, Any]] = [
        {"seed": 0},
        {"seed": 2**31 - 1, "objective": {"beta": 0.7}},
        {"seed": 0, "optimizer": {"learning_rate": 0.02, "b2": 0.9, "eps": 1e-6}},
        {
            "seed": 5,
            "reference": {"name": "dirichlet", "concentration": 3},
            "target": {"name": "drifted", "strength": -0.3, "noise": 1.0},
            "problem": {"rejected": {"name": "optimal", "beta": 0.3}},
        },
    ]
    cells = cells_of(tables, *changes)
    return cells, compute(cells, 4)


def assert_same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    assert set(one) == set(other)
    for name, values in one.items():
        np.testing.assert_array_equal(values, other[name], err_msg=name)


def test_a_block_again_gives_the_same_bits(four: tuple[list[dict[str, Any]], dict[str, np.ndarray]]) -> None:
    cells, found = four
    assert len({float(one) for one in found["js_to_target"][:, -1]}) == 4
    assert_same(compute(cells, 4), found)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_fewer_cells_than_the_block_has_room_for(
    four: tuple[list[dict[str, Any]], dict[str, np.ndarray]], number: int
) -> None:
    cells, found = four
    with counted_compilations() as compiled:
        fewer = compute(cells[:number], 4)
    assert compiled == []
    for name, values in fewer.items():
        assert len(values) == (len(found["steps"]) if name == "steps" else number)
    assert_same(fewer, {name: one if name == "steps" else one[:number] for name, one in found.items()})


def test_cells_do_not_depend_on_their_places(
    four: tuple[list[dict[str, Any]], dict[str, np.ndarray]],
) -> None:
    cells, found = four
    for order in itertools.islice(itertools.permutations(range(4)), 5, 24, 6):
        moved = compute([cells[k] for k in order], 4)
        for name, values in moved.items():
            expected = found[name] if name == "steps" else found[name][list(order)]
            np.testing.assert_allclose(values, expected, rtol=1e-9, atol=1e-12, err_msg=name)


def test_cells_on_their_own_in_two_threads_are_the_same(
    four: tuple[list[dict[str, Any]], dict[str, np.ndarray]],
) -> None:
    cells, found = four
    with ThreadPoolExecutor(2) as pool:
        alone = list(pool.map(lambda cell: compute([cell], 1), cells))
    assert_same(compute(cells[1:2], 1), alone[1])
    for number, one in enumerate(alone):
        for name, values in one.items():
            expected = found[name] if name == "steps" else found[name][number : number + 1]
            np.testing.assert_allclose(values, expected, rtol=1e-8, atol=1e-11, err_msg=name)


def test_new_numbers_and_seeds_compile_nothing(
    four: tuple[list[dict[str, Any]], dict[str, np.ndarray]],
) -> None:
    cells, found = four
    changes: Sequence[dict[str, Any]] = [
        {"seed": 17},
        {"objective": {"beta": 0.33}},
        {"optimizer": {"name": "adam", "learning_rate": 0.033, "b1": 0.77, "b2": 0.8, "eps": 1e-7}},
        {"reference": {"name": "dirichlet", "concentration": 0.77}},
        {"target": {"name": "drifted", "strength": 0.11, "noise": 0.22}},
        {"problem": {**cells[0]["problem"], "rejected": {"name": "optimal", "beta": 0.44}}},
    ]
    for change in changes:
        with counted_compilations() as compiled:
            other = compute([complete({**cell, **change}) for cell in cells], 4)
        assert compiled == [], change
        assert not np.array_equal(other["js_to_target"], found["js_to_target"]), change
    with counted_compilations() as compiled:
        compute([complete({**cell, "steps": 6, "limit": False}) for cell in cells], 4)
    assert compiled, "the listener sees a compilation when there is one"


# Entries of one's own.


def test_an_objective_and_a_distribution_of_ones_own() -> None:
    def halved(beta: float = 0.1, factor: float = 0.5) -> didsim.Objective:
        return didsim.dpo(beta * factor)

    def blunt(reference: Any, target: Any, share: float = 0.5) -> Any:
        return jax.nn.log_softmax(share * reference - (1 - share) * target)

    didsim.OBJECTIVES["halved"] = halved
    didsim.REJECTED["blunt"] = blunt
    try:
        cells = cells_of(
            {"objective": {"name": "halved", "beta": 1.0}, "record": FEW},
            {"problem": {"rejected": "blunt"}},
            {"problem": {"rejected": {"name": "blunt", "share": 0.9}}, "seed": 4},
        )
        found = compute(cells, 2)
    finally:
        del didsim.OBJECTIVES["halved"], didsim.REJECTED["blunt"]
    reference, target = (didsim.normal_logits(key, SPACE.size) for key in keys_of(4)[:2])
    problem = didsim.Contrastive(reference, jax.nn.log_softmax(0.9 * reference - 0.1 * target))
    policy = didsim.EnergyBased(reference)
    run = alone(policy, reference, problem, didsim.dpo(0.5), ADAM, target=target, record=RECORD_FEW)
    assert_is_run(found, 1, run)


def test_a_distribution_of_ones_own_that_is_none_is_a_value_error() -> None:
    didsim.REJECTED["lost"] = lambda reference, by=0.0: reference + by
    try:
        good, bad = cells_of(
            {"record": FEW},
            {"problem": {"rejected": "lost"}},
            {"problem": {"rejected": {"name": "lost", "by": 0.1}}},
        )
        with pytest.raises(ValueError, match="`rejected` must be log-probabilities normalised"):
            compute([good, bad], 2)
        assert np.isfinite(compute([good, good], 2)["loss"]).all()
    finally:
        del didsim.REJECTED["lost"]


def test_a_name_with_another_entry_is_another_program() -> None:
    def tempered(exponent: float) -> Any:
        return lambda reference: jax.nn.log_softmax(exponent * reference)

    found = []
    for exponent in (0.5, 2.0):
        didsim.REJECTED["mine"] = tempered(exponent)
        try:
            found.append(compute(cells_of({"record": FEW}, {"problem": {"rejected": "mine"}}), 1)["loss"])
        finally:
            del didsim.REJECTED["mine"]
    assert not np.array_equal(found[0], found[1])


def test_a_policy_of_ones_own_has_the_numbers_of_its_cell() -> None:
    assert "sharp" not in makers.POLICIES
    makers.POLICIES["sharp"] = lambda reference, scale=1.0: didsim.EnergyBased(scale * reference)
    try:
        changes = [{"policy": {"name": "sharp", "scale": scale}} for scale in (1.0, 2.0)]
        found = compute(cells_of({"record": FEW}, *changes), 2)
    finally:
        del makers.POLICIES["sharp"]
    reference = didsim.normal_logits(keys_of(0).reference, SPACE.size)
    starts = [float(didsim.entropy(jax.nn.log_softmax(scale * reference))) for scale in (1.0, 2.0)]
    np.testing.assert_allclose(found["policy_entropy"][:, 0], starts, rtol=1e-12)


def test_a_metric_of_ones_own_that_is_replaced_is_compiled_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def peak(s: Any) -> jax.Array:
        return s.log_probs.max()

    monkeypatch.setitem(didsim.METRICS, "peak", peak)
    cell = complete({**SMALL, "record": {"every": 5, "metrics": ["peak"]}})
    reference = didsim.normal_logits(keys_of(0).reference, SPACE.size)
    assert compute([cell], 1)["peak"][0, 0] == pytest.approx(float(reference.max()), rel=1e-12)
    monkeypatch.setitem(didsim.METRICS, "peak", lambda s: s.log_probs.min())
    assert compute([cell], 1)["peak"][0, 0] == pytest.approx(float(reference.min()), rel=1e-12)
