"""LD-DPO and WPO against sums over tokens by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_expit, log_softmax, logsumexp

import didsim
from tests.tables import expectation, table

BETA, ALPHA = 0.7, 0.3
SPACE = didsim.SequenceSpace(3, 3, eos=True)
RNG = np.random.default_rng(0)
P, R, CHOSEN, REJECTED = log_softmax(RNG.normal(size=(4, SPACE.size)), axis=-1)
MAKE = {"ld_dpo": didsim.ld_dpo(BETA, ALPHA, SPACE), "wpo": didsim.wpo(BETA, SPACE)}
PROBLEMS = {
    "contrastive": didsim.Contrastive(CHOSEN, REJECTED),
    "labelled": didsim.Labelled(RNG.normal(size=SPACE.size), CHOSEN, REJECTED),
    "pairs": didsim.Pairs([0, 3, 8, 14], [7, 1, 0, 9], np.array([1.0, 2.0, 0.5, 0.0])),
    "joint": didsim.Joint(log_softmax(RNG.normal(size=SPACE.size**2)).reshape(SPACE.size, -1)),
}


TOKENS = [SPACE.decode(i) for i in range(SPACE.size)]


def log_begins(log_probs: np.ndarray, prefix: tuple[int, ...]) -> float:
    """The log-probability that a sequence begins with a prefix."""
    begins = [tokens[: len(prefix)] == prefix for tokens in TOKENS]
    return float(logsumexp(log_probs[np.array(begins)]))


def log_next(log_probs: np.ndarray, tokens: tuple[int, ...], place: int) -> np.ndarray:
    """The log-probabilities of all next tokens after the first ones."""
    before = tokens[:place]
    found = [log_begins(log_probs, (*before, v)) for v in range(SPACE.vocab_size)]
    return np.array(found) - log_begins(log_probs, before)


def log_weight(log_probs: np.ndarray, i: int) -> float:
    tokens = SPACE.decode(i)
    steps = [log_next(log_probs, tokens, place) for place in range(len(tokens))]
    terms = [step[token] - logsumexp(2 * step) for step, token in zip(steps, tokens, strict=True)]
    return float(np.mean(terms))


def shared_log_ratio(p: np.ndarray, r: np.ndarray, i: int, j: int) -> float:
    """Of the first tokens of `i`, up to the shorter length of `i` and `j`."""
    first = TOKENS[i][: min(len(TOKENS[i]), len(TOKENS[j]))]
    return log_begins(p, first) - log_begins(r, first)


def losses(name: str, p: np.ndarray, r: np.ndarray, held: np.ndarray | None = None) -> np.ndarray:
    """The loss of every pair, as the trainer has it."""
    t = p - r
    if name == "wpo":
        weights = np.array([log_weight(p if held is None else held, i) for i in range(SPACE.size)])
        joint = np.minimum(np.exp(weights[:, None] + weights), 1)
        return -joint * log_expit(BETA * (t[:, None] - t))
    begun = [[log_begins(p, x[:n]) - log_begins(r, x[:n]) for n in range(len(x) + 1)] for x in TOKENS]
    shared = np.array(
        [[one[min(len(x), len(y))] for y in TOKENS] for one, x in zip(begun, TOKENS, strict=True)]
    )
    tail = t[:, None] - shared
    rewards = shared + ALPHA * tail
    return -log_expit(BETA * (rewards - rewards.T))


@pytest.mark.parametrize("kind", PROBLEMS)
@pytest.mark.parametrize("name", MAKE)
def test_population_losses_agree_with_sums_over_tokens(name: str, kind: str) -> None:
    problem = PROBLEMS[kind]
    log_table = table(problem, SPACE.size)
    found, gradient = jax.value_and_grad(
        lambda z: MAKE[name].loss(jax.nn.log_softmax(z), R, problem, SPACE.lengths)
    )(jnp.asarray(P))
    assert float(found) == pytest.approx(expectation(log_table, losses(name, P, R)), rel=1e-12)
    direction, step = RNG.normal(size=SPACE.size), 1e-6
    ahead, behind = (
        expectation(log_table, losses(name, log_softmax(P + s * step * direction), R, P)) for s in (1, -1)
    )
    assert float(gradient @ direction) == pytest.approx((ahead - behind) / (2 * step), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("name", MAKE)
def test_pair_losses_agree_with_the_population_s(name: str) -> None:
    expected = losses(name, P, R)
    for i, j in ((0, 14), (14, 0), (3, 3), (7, 1)):
        if name == "wpo":
            tokens = log_weight(P, i), log_weight(P, j)
        else:
            tokens = shared_log_ratio(P, R, i, j), shared_log_ratio(P, R, j, i)
        found = MAKE[name].pair_loss(
            P[i], P[j], R[i], R[j], chosen_tokens=tokens[0], rejected_tokens=tokens[1]
        )
        assert float(found) == pytest.approx(expected[i, j], rel=1e-12)


@pytest.mark.parametrize("name", MAKE)
def test_near_certain_policies_have_finite_losses_and_slopes(name: str) -> None:
    for spread in (700.0, -700.0):
        z = jnp.zeros(SPACE.size).at[4].set(spread).at[9].set(-spread)
        for problem in PROBLEMS.values():
            value, slope = jax.value_and_grad(
                lambda z: MAKE[name].loss(jax.nn.log_softmax(z), R, problem)  # noqa: B023
            )(z)
            assert np.isfinite(value)
            assert np.isfinite(slope).all()


@pytest.mark.parametrize("name", MAKE)
def test_what_is_not_defined_is_refused_by_name(name: str) -> None:
    make = getattr(didsim, name)
    problem = PROBLEMS["contrastive"]
    with pytest.raises(ValueError, match="`space` must be given to this objective: lengths do not say"):
        make(BETA).loss(P, R, problem, SPACE.lengths)
    with pytest.raises(ValueError, match="`space` must be of 15 sequences; got one of 8"):
        make(BETA, space=didsim.SequenceSpace(2, 3)).loss(P, R, problem)
    with pytest.raises(ValueError, match="`space` must be a SequenceSpace or None; got 3"):
        make(BETA, space=3)
    with pytest.raises(ValueError, match=r"`chosen_tokens` must be given .* single tokens; got None"):
        MAKE[name].pair_loss(-1.0, -1.0, -1.0, -1.0)
    with pytest.raises(ValueError, match="`rejected_tokens` must be finite everywhere; got nan"):
        MAKE[name].pair_loss(-1.0, -1.0, -1.0, -1.0, chosen_tokens=0.1, rejected_tokens=np.nan)


def test_without_a_space_every_sequence_is_one_token() -> None:
    problem = PROBLEMS["contrastive"]
    assert float(didsim.ld_dpo(BETA).loss(P, R, problem)) == pytest.approx(
        float(didsim.dpo(BETA).loss(P, R, problem)), rel=1e-13
    )
    log_weights = P - logsumexp(2 * P)
    weights = np.minimum(np.exp(log_weights[:, None] + log_weights), 1)
    h = BETA * (P - R)
    expected = expectation(table(problem, SPACE.size), -weights * log_expit(h[:, None] - h))
    assert float(didsim.wpo(BETA).loss(P, R, problem)) == pytest.approx(expected, rel=1e-12)


def test_wpo_rests_where_dpo_does() -> None:
    """Its weights do not depend on the order of a pair, and DPO's minimiser is right for every pair."""
    problem = PROBLEMS["contrastive"]
    solution = didsim.solve(MAKE["wpo"], R, problem, SPACE.lengths, starts=1)
    assert bool(solution.certificate.converged)
    np.testing.assert_allclose(
        solution.log_probs, didsim.fixed_point(didsim.dpo(BETA), R, problem), rtol=0, atol=1e-9
    )


def test_a_solution_of_ld_dpo_is_stationary_and_low() -> None:
    problem = PROBLEMS["contrastive"]
    solution = didsim.solve(MAKE["ld_dpo"], R, problem, SPACE.lengths, starts=1)
    known = solution.certificate
    assert not known.unique
    assert bool(known.converged)
    assert float(known.gradient_norm) < 1e-12
    at, log_table = np.asarray(solution.log_probs), table(problem, SPACE.size)
    least = expectation(log_table, losses("ld_dpo", at, R))
    for size in (1e-3, 0.1):
        near = log_softmax(at + size * RNG.normal(size=SPACE.size))
        assert expectation(log_table, losses("ld_dpo", near, R)) >= least
