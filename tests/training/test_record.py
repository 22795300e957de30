import itertools
import pickle
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.special import log_softmax

import didsim
from didsim.training.metrics import METRICS, Metric
from didsim.training.record import Record, metric_attributes

SIZE, BETA = 6, 0.7
SGD = optax.sgd(0.1)
REFERENCE, CHOSEN, REJECTED, TARGET, START = (
    log_softmax(logits) for logits in np.random.default_rng(1).normal(size=(5, SIZE))
)


def expected(values: np.ndarray, under: np.ndarray) -> float:
    return float(np.sum(np.exp(under) * values))


def divergence(p: np.ndarray, q: np.ndarray) -> float:
    return expected(p - q, p)


@pytest.fixture(scope="module")
def recorded() -> dict[str, float]:
    """The standard metrics of a run of no steps, which measures its start."""
    run = didsim.train(
        didsim.EnergyBased(START),
        REFERENCE,
        didsim.Contrastive(CHOSEN, REJECTED),
        didsim.dpo(BETA),
        optax.sgd(0.1),
        steps=0,
        target=TARGET,
        record=Record(metrics=METRICS),
    )
    assert run.steps.tolist() == [0]
    assert set(run.metrics) == set(METRICS)
    return {name: float(values[0]) for name, values in run.metrics.items()}


def test_divergences_and_entropies(recorded: dict[str, float]) -> None:
    mean = np.logaddexp(START, TARGET) - np.log(2)
    q = log_softmax(START - REFERENCE)
    assert recorded["kl_to_target"] == pytest.approx(divergence(START, TARGET), rel=1e-12)
    assert recorded["kl_from_target"] == pytest.approx(divergence(TARGET, START), rel=1e-12)
    assert recorded["js_to_target"] == pytest.approx(
        (divergence(START, mean) + divergence(TARGET, mean)) / 2, rel=1e-12
    )
    assert recorded["policy_entropy"] == pytest.approx(-expected(START, START), rel=1e-12)
    assert recorded["largest_probability"] == pytest.approx(np.exp(START).max(), rel=1e-12)
    assert recorded["did_entropy"] == pytest.approx(-expected(q, q), rel=1e-12)


def test_likelihoods_and_margins(recorded: dict[str, float]) -> None:
    assert recorded["chosen_logps"] == pytest.approx(expected(START, CHOSEN), rel=1e-12)
    assert recorded["rejected_logps"] == pytest.approx(expected(START, REJECTED), rel=1e-12)
    assert recorded["chosen_displacement"] == pytest.approx(expected(START - REFERENCE, CHOSEN), rel=1e-12)
    assert recorded["rejected_displacement"] == pytest.approx(
        expected(START - REFERENCE, REJECTED), rel=1e-12
    )
    policies = {"learned": START, "reference": REFERENCE, "rejected": REJECTED, "target": TARGET}
    for name, p in policies.items():
        margin = expected(p, CHOSEN) - expected(p, REJECTED)
        assert recorded[f"margin_{name}"] == pytest.approx(margin, rel=1e-12)


def test_sums_over_pairs(recorded: dict[str, float]) -> None:
    h = BETA * (START - REFERENCE)
    loss = margin = accuracy = 0.0
    for i, j in itertools.product(range(SIZE), repeat=2):
        weight = np.exp(CHOSEN[i] + REJECTED[j])
        loss += weight * np.log1p(np.exp(h[j] - h[i]))
        margin += weight * (h[i] - h[j])
        accuracy += weight * (1.0 if h[i] > h[j] else 0.5 if i == j else 0.0)
    ordered = [
        ((START - REFERENCE)[i] - (START - REFERENCE)[j])
        * ((REFERENCE - REJECTED)[i] - (REFERENCE - REJECTED)[j])
        > 0
        for i, j in itertools.combinations(range(SIZE), 2)
    ]
    assert recorded["loss"] == pytest.approx(loss, rel=1e-12)
    assert recorded["reward_margin"] == pytest.approx(margin, rel=1e-12)
    assert recorded["reward_accuracy"] == pytest.approx(accuracy, rel=1e-12)
    assert recorded["fraction_ordered"] == pytest.approx(np.mean(ordered), rel=1e-12)


def test_gradient_norm_by_central_differences(recorded: dict[str, float]) -> None:
    weights = np.exp(CHOSEN)[:, None] * np.exp(REJECTED)[None, :]

    def loss(logits: np.ndarray) -> float:
        h = BETA * (log_softmax(logits) - REFERENCE)
        return float(np.sum(weights * np.logaddexp(0, h[None, :] - h[:, None])))

    step = 1e-5
    slopes = [(loss(START + e) - loss(START - e)) / (2 * step) for e in step * np.eye(SIZE)]
    assert recorded["gradient_norm"] == pytest.approx(np.linalg.norm(slopes), rel=1e-7)


STANDARD = set(METRICS) - {"reward_accuracy", "fraction_ordered"}


def test_without_a_target_its_metrics_are_left_out() -> None:
    assert set(Record().resolve(has_target=False, has_support=True)) == STANDARD - {
        "kl_to_target",
        "kl_from_target",
        "js_to_target",
        "margin_target",
    }
    assert set(Record().resolve(has_target=True, has_support=True)) == STANDARD


def test_a_metric_that_needs_a_target_asks_for_it() -> None:
    record = Record(metrics={"js": METRICS["js_to_target"]})
    with pytest.raises(ValueError, match="`target` must be given for the metric 'js'"):
        record.resolve(has_target=False, has_support=True)


@pytest.mark.parametrize("every", [0, -1, 2.5, True])
def test_every_must_be_a_positive_integer(every: int) -> None:
    with pytest.raises(ValueError, match="`every` must be an integer of at least 1"):
        Record(every=every)


def test_a_metric_must_be_a_function() -> None:
    with pytest.raises(
        ValueError, match="`metrics` must map names to functions of a Snapshot; got 3 for 'x'"
    ):
        Record(metrics={"x": 3})  # type: ignore[dict-item]


def test_metrics_must_be_a_mapping_without_the_name_of_their_axis() -> None:
    with pytest.raises(ValueError, match="`metrics` must be functions of a Snapshot by name"):
        Record(metrics=["loss"])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`metrics` must not use the name 'step'"):
        Record(metrics={"step": METRICS["loss"]})


def test_also_adds_to_the_default_metrics_alone() -> None:
    with pytest.raises(ValueError, match=r"`also` adds to the default metrics.*got \['reward_accuracy'\]"):
        Record(metrics={}, also=("reward_accuracy",))
    with pytest.raises(ValueError, match=r"`also` must be some of .*; got \['loss'\]"):
        Record(also=("loss",))


def test_every_standard_metric_has_a_long_name_and_units() -> None:
    shares = {"loss", "gradient_norm", "largest_probability", "fraction_ordered", "reward_accuracy"}
    for name, metric in METRICS.items():
        attributes = metric_attributes(name, metric)
        assert attributes["units"] == ("1" if name in shares else "nats")
        assert not attributes["long_name"].endswith(".")
    assert metric_attributes("did_entropy", METRICS["did_entropy"])["long_name"] == "DID entropy"


def peak(s: Any) -> jax.Array:
    return s.log_probs.max()


def start_of(record: Record) -> Any:
    """A run of no steps."""
    problem = didsim.Contrastive(CHOSEN, REJECTED)
    policy = didsim.EnergyBased(START)
    return didsim.train(policy, REFERENCE, problem, didsim.dpo(BETA), SGD, steps=0, record=record)


def test_a_metric_of_ones_own_has_its_own_name_and_units() -> None:
    """One that has the name of a standard metric is another metric."""
    own: dict[str, Any] = {"loss": peak, "peak": Metric(peak, "Largest log-probability", "nats")}
    found = start_of(Record(metrics=own)).to_dataset()
    assert found["loss"].attrs == {"long_name": "loss"}
    assert found["peak"].attrs == {"long_name": "Largest log-probability", "units": "nats"}
    assert float(found["loss"][0]) == pytest.approx(START.max(), rel=1e-12)


def test_a_metric_that_is_added_is_recorded_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METRICS, "peak", peak)
    assert "peak" not in start_of(Record()).metrics
    found = start_of(Record(also=("peak",)))
    assert set(found.metrics) == set(start_of(Record()).metrics) | {"peak"}
    assert float(found.metrics["peak"][0]) == pytest.approx(START.max(), rel=1e-12)
    monkeypatch.setitem(METRICS, "peak", lambda s: s.log_probs.min())
    again = start_of(Record(also=("peak",)))
    assert float(again.metrics["peak"][0]) == pytest.approx(START.min(), rel=1e-12)


def test_accuracy_and_margins_of_a_finite_dataset() -> None:
    winners, losers = np.array([0, 1, 2, 2]), np.array([1, 2, 0, 1])
    run = didsim.train(
        didsim.EnergyBased(START),
        REFERENCE,
        didsim.Pairs(winners, losers),
        didsim.dpo(BETA),
        optax.sgd(0.1),
        steps=0,
        record=Record(
            metrics={name: METRICS[name] for name in ("reward_accuracy", "reward_margin", "chosen_logps")}
        ),
    )
    h = BETA * (START - REFERENCE)
    assert float(run.metrics["reward_accuracy"][0]) == np.mean(h[winners] > h[losers])
    assert float(run.metrics["reward_margin"][0]) == pytest.approx(np.mean(h[winners] - h[losers]), rel=1e-12)
    assert float(run.metrics["chosen_logps"][0]) == pytest.approx(START[winners].mean(), rel=1e-12)
    # Some sequences are never rejected, so that what needs their log-probability is left out.
    default = Record().resolve(has_target=False, has_support=False)
    assert not {"js_to_target", "margin_rejected", "fraction_ordered"} & set(default)
    with pytest.raises(
        ValueError, match=r"`problem` must be one that can reject every sequence for .* 'order'"
    ):
        Record(metrics={"order": METRICS["fraction_ordered"]}).resolve(has_target=True, has_support=False)


def test_a_metric_of_ones_own_sees_the_whole_state() -> None:
    def logits(s: Any) -> jax.Array:
        return s.policy.logits

    record = Record(
        metrics={
            "top": lambda s: s.log_probs.max(),
            "log_ratio": lambda s: s.log_probs - s.reference,
            "logits": logits,
        }
    )
    batch = jnp.stack([jnp.asarray(START), jnp.asarray(TARGET)])
    run: Any = didsim.train(
        didsim.EnergyBased(batch),
        REFERENCE,
        didsim.Contrastive(CHOSEN, REJECTED),
        didsim.dpo(BETA),
        optax.sgd(0.1),
        steps=20,
        record=record,
    )
    assert run.metrics["top"].shape == (2, 3)
    assert run.metrics["log_ratio"].shape == (2, 3, SIZE)
    np.testing.assert_array_equal(run.metrics["logits"][:, -1], run.policy.logits)
    np.testing.assert_allclose(run.metrics["log_ratio"][:, 0], batch - REFERENCE, rtol=1e-12)
    assert jax.tree.leaves(run.policy)[0].shape == (2, SIZE)


def test_metrics_can_be_pickled() -> None:
    for name, metric in METRICS.items():
        assert pickle.loads(pickle.dumps(metric)) == metric, name


def test_a_run_can_be_pickled_and_combined_with_another_whatever_it_recorded() -> None:
    def run() -> didsim.Run:
        record = Record(every=1, metrics={"peak": lambda s: s.log_probs.max(), "loss": METRICS["loss"]})
        problem = didsim.Contrastive(CHOSEN, REJECTED)
        return didsim.train(
            didsim.EnergyBased(START), REFERENCE, problem, didsim.dpo(BETA), optax.sgd(0.1), 2, record=record
        )

    first, second = run(), run()
    copy = pickle.loads(pickle.dumps(first))
    assert copy.to_dataset().identical(first.to_dataset())
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), first, second)
    np.testing.assert_array_equal(stacked.metrics["loss"][1], second.metrics["loss"])


def test_own_metrics_beside_the_default_ones_of_pairs() -> None:
    pairs = didsim.Pairs(np.array([0, 1]), np.array([1, 2]))

    def recorded_by(record: Record) -> Any:
        policy = didsim.EnergyBased(START)
        return didsim.train(policy, REFERENCE, pairs, didsim.dpo(BETA), SGD, steps=0, record=record)

    default = set(recorded_by(Record()).metrics)
    assert set(recorded_by(Record(also={"peak": peak})).metrics) == default | {"peak"}
    everything = recorded_by(Record(metrics={**METRICS, "peak": peak}))
    assert set(everything.metrics) == default | {"peak", "reward_accuracy"}
    own = recorded_by(Record(also={"loss": Metric(peak, "Peak", "nats")})).to_dataset()
    assert own["loss"].attrs == {"long_name": "Peak", "units": "nats"}
