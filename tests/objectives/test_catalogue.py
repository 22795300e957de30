import contextlib
import inspect
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.special import expit, log_expit

import didsim
from didsim import OBJECTIVES, Contrastive, Labelled, Objective, Pairs
from tests import papers
from tests.objectives.catalogue_cases import P, Q, losses
from tests.papers import MAKERS, NAMES, PER_TOKEN, make


def test_defaults_are_those_documented() -> None:
    w, y, rw, rl = (np.float64(x) for x in (-10.0, -12.5, -11.0, -11.5))
    t, u = w - rw, y - rl
    d = 0.1 * (t - u)
    expected = {
        "dpo": -log_expit(d),
        "cdpo": -0.9 * log_expit(d) - 0.1 * log_expit(-d),
        "robust": (-0.9 * log_expit(d / 10) + 0.1 * log_expit(-d / 10)) / 0.8,
        "ipo": (t - u - 5) ** 2,
        "slic": 1 - d,
        "simpo": -log_expit(2 * w / 4 - 2 * y / 5 - 1),
        "orpo": -w / 4 - 0.1 * log_expit(papers.log_odds(w / 4) - papers.log_odds(y / 5)),
        "cpo": -log_expit(0.1 * (w - y)) - w,
        "exo": expit(d) * np.log(expit(d) / 0.999) + expit(-d) * np.log(expit(-d) / 0.001),
        "nca": -log_expit(0.01 * t) - 0.5 * log_expit(-0.01 * t) - 0.5 * log_expit(-0.01 * u),
        "bco": -log_expit(0.01 * t) - log_expit(-0.01 * u),
        "sppo": (t - 500) ** 2 + (u + 500) ** 2,
        "apo_zero": 1 - expit(0.1 * t) + expit(0.1 * u),
        "apo_down": expit(0.1 * t) + 1 - expit(d),
        "discopop": -log_expit(0.5 * d) * expit(-10 * d) + np.exp(-0.5 * d) * expit(10 * d),
        "kto": expit(-0.1 * t) + expit(0.1 * u),
        # Above and below the reference.
        "dpop": -log_expit(0.3 * (t - u)),
        "rdpo": -log_expit(d + 0.01 * 4 - 0.01 * 5),
        "length_normalised_dpo": -log_expit(5 * t / 4 - 5 * u / 5),
        "fdpo_forward_kl": -log_expit(0.1 * (np.exp(-u) - np.exp(-t))),
        "fdpo_js": -log_expit(0.1 * (np.log(2 / (1 + np.exp(-t))) - np.log(2 / (1 + np.exp(-u))))),
        "fdpo_alpha": -log_expit(0.2 * (np.exp(-u / 2) - np.exp(-t / 2))),
        "sft": -w,
        "exponential": np.exp(-d),
        "reference_free": -log_expit(0.1 * (w - y)),
        "dpo_pg": -log_expit(d),
        "alphapo": -log_expit(8 * (np.exp(-y / 20) - np.exp(-w / 16)) - 1),
        "bdpo": -log_expit(0.1 * t - 0.1 * np.log((1 + np.exp(u)) / 2)),
        "chi_po": -log_expit(0.1 * (np.exp(t) + t - np.exp(u) - u)),
        "dpo_rao_kupper": -log_expit(d - np.log(3)),
        "dpo_shift": -log_expit(0.1 * t - 0.075 * u),
        "h_dpo": -log_expit(0.1 * (0.9 * (w - y) - (rw - rl))),
        "npo": -20 * log_expit(-0.1 * u),
        # A single pair is a batch of its own.
        "aot": -log_expit(d),
        "aot_unpaired": -log_expit(d),
        "ld_dpo": -log_expit(0.1 * ((0.3 + 0.5 * (t - 0.3)) - (-0.2 + 0.5 * (u + 0.2)))),
        "wpo": -np.exp(0.3 - 0.5) * log_expit(d),
    }
    assert set(expected) == set(OBJECTIVES)
    tokens = {"ld_dpo": (0.3, -0.2), "wpo": (0.3, -0.5)}
    for name, value in expected.items():
        of_w, of_y = tokens.get(name, (None, None))
        loss = OBJECTIVES[name]().pair_loss(
            w, y, rw, rl, 4, 5, baseline=0.0, chosen_tokens=of_w, rejected_tokens=of_y
        )
        assert float(loss) == pytest.approx(float(value), rel=1e-12), name
    below = didsim.dpop().pair_loss(rw, rl, w, y)
    assert float(below) == pytest.approx(float(-log_expit(0.3 * (u - t - 50 * t))), rel=1e-12)


def test_one_token_each_is_no_length_normalisation() -> None:
    ones = np.ones(3, int)
    for name in PER_TOKEN:
        objective = MAKERS[name](0.5)
        without = objective.loss(P, Q, Contrastive(P, Q))
        assert float(objective.loss(P, Q, Contrastive(P, Q), ones)) == pytest.approx(
            float(without), rel=1e-14
        )
        other = float(objective.loss(P, Q, Contrastive(P, Q), np.array([1, 2, 3])))
        assert abs(other - float(without)) > 1e-3


def test_lengths_do_not_matter_to_the_rest() -> None:
    problem, n = Contrastive(P, Q), np.array([1, 2, 3])
    without, given = (losses(make(0.5), P, Q, problem, lengths) for lengths in (None, n))
    for name, objective in make(0.5).items():
        assert objective.needs_lengths == (name in PER_TOKEN)
        assert objective.needs_lengths or float(given[name]) == float(without[name])
    assert not didsim.simpo(length_normalised=False).needs_lengths
    assert didsim.sft(length_normalised=True).needs_lengths


def test_relations_between_objectives() -> None:
    problem = Labelled(np.array([0.3, 1.0, -1.0]), P, Q)

    def value(objective: Objective) -> float:
        return float(objective.loss(Q, P, problem))

    assert value(didsim.cdpo(0.3, 0.0)) == pytest.approx(value(didsim.dpo(0.3)), rel=1e-14)
    plain = didsim.simpo(0.3, 0, length_normalised=False)
    assert value(plain) == pytest.approx(value(didsim.reference_free(0.3)), rel=1e-14)
    uniform = np.full(3, -np.log(3))
    against_uniform = float(didsim.dpo(0.3).loss(Q, uniform, problem))
    assert value(didsim.reference_free(0.3)) == pytest.approx(against_uniform, rel=1e-13)
    for same in (
        didsim.dpo_shift(0.3, 1.0),
        didsim.bdpo(0.3, 1.0),
        didsim.h_dpo(0.3, 1.0),
        didsim.ld_dpo(0.3, 0.2),  # without a space every sequence is one token
    ):
        assert value(same) == pytest.approx(value(didsim.dpo(0.3)), rel=1e-14)
    near = value(didsim.alphapo(0.3, 0.2, 1e-6))
    assert near == pytest.approx(value(didsim.simpo(0.3, 0.2)), rel=1e-5)
    assert value(didsim.npo(1e-6)) == pytest.approx(
        2e6 * np.log(2) + np.exp(problem.rejected_marginal(3)) @ (Q - P), rel=1e-12
    )
    means = didsim.ipo(0.3, length_normalised=True).loss(Q, P, problem, np.full(3, 2))
    assert float(means) == pytest.approx(value(didsim.ipo(0.15)) / 4 + 0, rel=1e-14)
    likelihood = value(didsim.cpo(0.3, 1.0)) - value(didsim.reference_free(0.3))
    assert value(didsim.cpo(0.3, 3.0)) - value(didsim.reference_free(0.3)) == pytest.approx(3 * likelihood)


@pytest.mark.parametrize("name", NAMES)
def test_registry_holds_every_objective(name: str) -> None:
    assert OBJECTIVES[name] is getattr(didsim, name)
    assert set(OBJECTIVES) == set(NAMES) | set(papers.OTHERS)


def test_an_unknown_objective_is_answered_with_the_known_ones() -> None:
    known = ", ".join(sorted(OBJECTIVES))
    with pytest.raises(ValueError, match=f"^unknown objective 'ppo'; there are {known}$"):
        OBJECTIVES["ppo"]


FIRST = {name: "beta" for name in OBJECTIVES if name != "sft"} | {"ipo": "tau", "orpo": "weight"}


@pytest.mark.parametrize("name", FIRST)
def test_the_first_argument_must_be_positive(name: str) -> None:
    for bad in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match=f"`{FIRST[name]}` must be positive and finite; got {bad}"):
            OBJECTIVES[name](bad)
    problem = Contrastive(jnp.asarray(P), jnp.asarray(Q))
    with pytest.raises(Exception, match=f"`{FIRST[name]}` must be positive and finite"):
        jax.jit(lambda b: OBJECTIVES[name](b).loss(jnp.asarray(P), jnp.asarray(Q), problem))(-1.0)


OTHERS: list[tuple[Callable[..., Objective], str, str, tuple[float, ...]]] = [
    (didsim.cdpo, "label_smoothing", "be between 0 and 0.5", (-0.1, 0.6)),
    (didsim.robust, "label_smoothing", "be between 0 and 0.499999", (-0.1, 0.5)),
    (didsim.exo, "label_smoothing", "be between 1e-30 and 0.499999", (0.0, 0.5)),
    (didsim.simpo, "gamma", "be zero or more and finite", (-1.0,)),
    (didsim.slic, "delta", "be positive and finite", (0.0,)),
    (didsim.cpo, "weight", "be positive and finite", (-2.0, 0.0)),
    (didsim.discopop, "temperature", "be positive and finite", (-2.0, 0.0)),
    (didsim.kto, "desirable_weight", "be positive and finite", (-2.0, 0.0)),
    (didsim.kto, "undesirable_weight", "be positive and finite", (-2.0, 0.0)),
    (didsim.dpop, "weight", "be zero or more and finite", (-1.0,)),
    (didsim.rdpo, "alpha", "be zero or more and finite", (-1.0,)),
    (didsim.fdpo_alpha, "alpha", "be between 1e-06 and 1", (0.0, 1.5)),
    (didsim.alphapo, "gamma", "be zero or more and finite", (-1.0,)),
    (didsim.alphapo, "alpha", "be between 1e-06 and 100", (0.0, -0.5)),
    (didsim.bdpo, "mixture", "be between 1e-06 and 1", (0.0, 1.5)),
    (didsim.dpo_shift, "shift", "be between 0 and 1", (-0.1, 1.5)),
    (didsim.h_dpo, "alpha", "be positive and finite", (-1.0, 0.0)),
    (didsim.aot, "label_smoothing", "be between 0 and 0.5", (-0.1, 0.6)),
    (didsim.aot_unpaired, "label_smoothing", "be between 0 and 0.5", (-0.1, 0.6)),
    (didsim.ld_dpo, "alpha", "be between 0 and 1", (-0.1, 1.5)),
]


@pytest.mark.parametrize(("objective", "argument", "expected", "wrong"), OTHERS)
def test_the_other_arguments_are_checked(
    objective: Callable[..., Objective], argument: str, expected: str, wrong: tuple[float, ...]
) -> None:
    for bad in (*wrong, np.nan):
        with pytest.raises(ValueError, match=f"`{argument}` must {expected}; got {bad}"):
            objective(0.1, **{argument: bad})

    def traced(value: jax.Array) -> jax.Array:
        made = objective(0.1, **{argument: value})
        return made.pair_loss(-1.0, -2.0, -1.0, -1.0, 1, 1, chosen_tokens=-0.5, rejected_tokens=-0.5)

    with pytest.raises(Exception, match=f"`{argument}` must {expected}"):
        jax.jit(traced)(wrong[0])


def test_population_losses_name_wrong_arguments() -> None:
    problem, dpo = Contrastive(P, Q), didsim.dpo()
    zero = np.array([0.0, -np.inf, -np.inf])
    normalised, no_nan = "be log-probabilities normalised", "be log-probabilities; got NaN"
    positive = r"give every sequence{} a positive probability; got zero at index \(1,\)"
    for bad, of_policy, of_reference in (
        (P + 1, normalised, normalised),
        (P * np.nan, no_nan, no_nan),
        (zero, positive.format(""), positive.format(" of a pair")),
    ):
        with pytest.raises(ValueError, match=f"`policy_logps` must {of_policy}"):
            dpo.loss(bad, Q, problem)
        with pytest.raises(ValueError, match=f"`reference` must {of_reference}"):
            dpo.loss(P, bad, problem)
    half = np.log([0.5, 0.5])
    with pytest.raises(ValueError, match="`policy_logps`, `reference` must agree in their last axis"):
        dpo.loss(half, Q, problem)
    with pytest.raises(ValueError, match="`problem` must be over 2 sequences; got one over 3"):
        dpo.loss(half, half, problem)
    with pytest.raises(ValueError, match=r"`losers` must index one of 3 sequences \(0 to 2\); got 3"):
        dpo.loss(P, Q, Pairs(np.array([0]), np.array([3])))


def test_lengths_of_a_space_are_checked() -> None:
    for objective in (didsim.dpo(), didsim.simpo(), didsim.orpo()):
        with pytest.raises(ValueError, match=r"`lengths` must have one entry for each of 3 .* shape \(2,\)"):
            objective.loss(P, Q, Contrastive(P, Q), np.array([1, 2]))
        with pytest.raises(
            ValueError, match="`lengths` must be numbers of tokens, integers of at least 1; got"
        ):
            objective.loss(P, Q, Contrastive(P, Q), np.array([1, 0, 2]))


def test_a_problem_whose_batch_does_not_fit_is_named() -> None:
    p = np.log(np.full((3, 2), 0.5))
    for objective in (didsim.dpo(), didsim.exponential()):
        with pytest.raises(ValueError, match="`policy_logps`, `problem` must broadcast together"):
            objective.loss(p, p, didsim.Contrastive(p[:2], p[:2]))
        with pytest.raises(ValueError, match="`problem` must be a Problem"):
            objective.loss(p, p, p)


def test_what_is_no_number_is_named() -> None:
    for value in ("0.1", None, [[0.1], [0.2, 0.3]], 1j, True, np.zeros(0)):
        with pytest.raises(ValueError, match="`beta` must be a real number; got"):
            didsim.dpo(value)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`length_normalised` must be True or False; got 'no'"):
        didsim.simpo(length_normalised="no")  # type: ignore[arg-type]


def test_lengths_must_be_whole() -> None:
    with pytest.raises(
        ValueError, match="`chosen_lengths` must be numbers of tokens, integers of at least 1"
    ):
        didsim.simpo().pair_loss(-1.0, -2.0, chosen_lengths=1.5, rejected_lengths=2)
    with pytest.raises(
        ValueError, match="`chosen_lengths` must be numbers of tokens, integers of at least 1"
    ):
        didsim.simpo().pair_loss(-1.0, -2.0, chosen_lengths="abc", rejected_lengths=2)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [3e38, 1e20, 1e-20, 1.2e-38])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_parameters_at_the_edge_of_float32_are_refused_or_give_no_nan(name: str, value: float) -> None:
    p, q = (jax.nn.log_softmax(jnp.array(z, jnp.float32)) for z in ([1.0, 0.0, -0.5], [0.0, 0.3, 0.2]))
    losses = []
    for parameter, one in inspect.signature(OBJECTIVES[name]).parameters.items():
        if not isinstance(one.default, float):
            continue
        with contextlib.suppress(ValueError):
            objective = OBJECTIVES[name](**{parameter: value})
            logps = (p[0], p[1], q[0], q[1], 3, 4)
            tokens = {}
            if any(term.needs_tokens for term in objective.terms):
                tokens = {"chosen_tokens": p[0] / 2, "rejected_tokens": p[1] / 2}
            losses.append(objective.pair_loss(*logps, **tokens))
            losses.append(objective.loss(p, q, didsim.Contrastive(q, p), np.array([1, 2, 3])))
    assert not np.isnan(np.array(losses, float)).any()


@pytest.mark.parametrize("value", [2e19, 3e38])
def test_rewards_that_would_overflow_are_refused_at_every_entrance(value: float) -> None:
    p = jnp.log(jnp.array([0.5, 0.3, 0.2], jnp.float32))
    problem, objective = didsim.Contrastive(p, p), didsim.simpo(value)
    message = "must have parameters of at most 1.8e\\+19 in float32, as rewards overflow beyond; got "
    with pytest.raises(ValueError, match=f"`self` {message}"):
        objective.loss(p, p, problem)
    with pytest.raises(ValueError, match=f"`self` {message}"):
        objective.pair_loss(p, p[::-1], chosen_lengths=3, rejected_lengths=4)
    with pytest.raises(ValueError, match=f"`objective` {message}"):
        didsim.solve(objective, p, problem)
    with pytest.raises(ValueError, match=f"`objective` {message}"):
        didsim.train(didsim.EnergyBased(p), p, problem, objective, optax.sgd(0.1), 1)
