import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax

from didsim import Contrastive, Labelled, Problem
from tests import papers
from tests.objectives.catalogue_cases import EPS, EXPONENTIAL, baseline, losses_and_gradients, population
from tests.papers import MAKERS, PAPERS, magnitude
from tests.tables import table

MANY = 90
KINDS_OF_SUMS = (
    *("dpo", "robust", "ipo", "slic", "simpo", "orpo", "exo"),
    *("bco", "kto", "apo_down", "discopop", "dpop", "exponential"),
)
LENGTHS_OF_MANY = 1 + np.arange(MANY) % 4


@st.composite
def large_instances(draw: st.DrawFn) -> tuple[str, np.ndarray, np.ndarray, Problem]:
    """A kind of problem over many sequences, with logits of a policy and a reference."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scales = draw(st.lists(st.sampled_from((0.0, 0.3, 1.0, 4.0, 30.0)), min_size=5, max_size=5))
    logits, r, *rest = (scale * rng.normal(size=MANY) for scale in scales)
    kind = draw(st.sampled_from(("contrastive", "labelled")))
    one, two = log_softmax(rest[0]), log_softmax(rest[1])
    problem: Problem = Contrastive(one, two) if kind == "contrastive" else Labelled(rest[2], one, two)
    return kind, logits, log_softmax(r), problem


@settings(max_examples=6)
@given(large_instances(), st.sampled_from((0.05, 0.5, 2.0)))
def test_losses_and_slopes_of_many_sequences_agree_with_all_pairs(
    instance: tuple[str, np.ndarray, np.ndarray, Problem], strength: float
) -> None:
    kind, logits, r, problem = instance
    p, n, log_table = log_softmax(logits), LENGTHS_OF_MANY, table(problem, MANY)
    weights = np.exp(log_table)
    direction = np.random.default_rng(0).normal(size=MANY)
    objectives = {name: MAKERS[name](strength) for name in KINDS_OF_SUMS}
    for name, (loss, gradient) in losses_and_gradients(objectives, logits, r, problem, n).items():
        size = float(magnitude(name, strength, p, r, n).max())
        if name in EXPONENTIAL and not size < 1e100 * (name != "exponential") + 300:
            continue
        z = baseline(name, strength, p, r, log_table)
        expected, error = population(name, strength, p, r, n, log_table, z)
        # Labelled pairs are summed in two parts that nearly cancel if labels are nearly sure.
        parts = 100 if kind == "labelled" else 1
        assert abs(float(loss) - expected) <= parts * error, name
        if name in ("slic", "dpop"):
            continue  # a difference that straddles a kink is no derivative
        step = 1e-5
        ahead, behind = (
            population(name, strength, log_softmax(logits + s * direction), r, n, log_table, z)[0]
            for s in (step, -step)
        )
        with np.errstate(over="ignore"):
            pair = papers.Pair(p[:, None], p, r[:, None], r, n[:, None], n, z)
            gross = float(np.sum(weights * np.abs(PAPERS[name](strength, pair))))
        slope = float(gradient @ direction)
        # A central difference errs by its step squared, and by the loss's rounding over the step.
        bound = 1e-5 * (gross * max(1, strength) ** 3 + 1) + 4 * EPS * gross / step
        assert slope == pytest.approx((ahead - behind) / (2 * step), rel=1e-5, abs=bound), name


@pytest.mark.slow
def test_marginals_and_exponentials_of_thousands_of_labelled_sequences() -> None:
    rng = np.random.default_rng(0)
    reward, first, second, x = rng.normal(size=(4, 4200))
    problem = Labelled(reward, log_softmax(first), log_softmax(second))
    weights = np.exp(table(problem, 4200))
    np.testing.assert_allclose(np.exp(problem.chosen_marginal(4200)), weights.sum(1), rtol=1e-11)
    np.testing.assert_allclose(np.exp(problem.rejected_marginal(4200)), weights.sum(0), rtol=1e-11)
    expected = np.sum(weights * np.exp(x[:, None] - x))
    assert float(problem.expect_exp(jnp.asarray(x))) == pytest.approx(expected, rel=1e-11)
