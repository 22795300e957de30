import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.special import log_softmax

import didsim
from didsim import families
from didsim.preferences import rejected
from didsim.sweeps.cells import compute
from tests.sweeps.cell_cases import ADAM, EOS, FEW, RECORD_FEW, SPACE, alone, assert_is_run, cells_of, keys_of

SGD = optax.sgd(0.5, momentum=0.5)
RMSPROP = optax.rmsprop(0.1, decay=0.9, eps=1e-8)


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
