import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax

import didsim
from didsim.kernels import Logistic
from didsim.rewards import LogOdds

REFERENCE = log_softmax(np.array([0.3, -1.0, 0.5, 0.0]))
TARGET = log_softmax(np.array([-0.2, 0.4, 1.5, -2.0]))
PROBLEM = didsim.Contrastive(REFERENCE, didsim.optimal_rejected(REFERENCE, TARGET, 0.5))


def test_a_batch_of_betas_and_of_references() -> None:
    betas = jnp.array([[0.25], [0.5], [2.0]])
    references = jnp.stack([jnp.asarray(REFERENCE), jnp.asarray(TARGET)])
    learned = didsim.fixed_point(jax.vmap(didsim.dpo)(betas), references, PROBLEM)
    assert learned.shape == (3, 2, 4)
    for k, beta in enumerate((0.25, 0.5, 2.0)):
        for m, reference in enumerate((REFERENCE, TARGET)):
            expected = log_softmax(reference + 0.5 / beta * (TARGET - REFERENCE))
            np.testing.assert_allclose(learned[k, m], expected, rtol=1e-12)


@pytest.mark.parametrize("make", [didsim.ipo, didsim.simpo, didsim.exponential])
def test_a_batch_of_objectives_is_each_of_them(make: object) -> None:
    def build(value: jax.Array) -> didsim.Objective:
        return didsim.simpo(value, gamma=0) if make is didsim.simpo else make(value)  # type: ignore[operator]

    lengths = np.array([1, 2, 2, 3])
    values = jnp.array([0.3, 1.0])
    both = didsim.fixed_point(jax.vmap(build)(values), REFERENCE, PROBLEM, lengths)
    for k, value in enumerate(values):
        np.testing.assert_allclose(
            both[k], didsim.fixed_point(build(value), REFERENCE, PROBLEM, lengths), rtol=1e-12
        )


def test_float32_stays_float32_within_its_rounding() -> None:
    single = REFERENCE.astype(np.float32), TARGET.astype(np.float32)
    problem = didsim.Contrastive(single[0], didsim.optimal_rejected(*single, 0.5))
    learned = didsim.fixed_point(didsim.dpo(0.5), single[0], problem)
    assert learned.dtype == jnp.float32
    # Four roundings of log-probabilities of at most 5 nats, one of them divided by beta.
    bound = np.finfo(np.float32).eps * 5 * (4 + 4 / 0.5)
    assert np.abs(np.asarray(learned, np.float64) - TARGET).max() < bound


def test_simpo_with_long_and_unequal_lengths_is_normalised() -> None:
    size = 200
    reference, chosen, rejected = (
        np.asarray(didsim.normal_logits(jax.random.key(k), size, 3.0)) for k in range(3)
    )
    lengths = np.random.default_rng(0).integers(1, 1000, size)
    learned = didsim.fixed_point(
        didsim.simpo(0.01, gamma=0), reference, didsim.Contrastive(chosen, rejected), lengths
    )
    h = 0.01 * np.asarray(learned) / lengths
    np.testing.assert_allclose(h - h[0], (chosen - rejected) - (chosen - rejected)[0], atol=1e-12)
    assert float(jax.nn.logsumexp(learned)) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("name", ["cdpo", "slic", "simpo"])
def test_a_kernel_without_closed_form_is_refused(name: str) -> None:
    with pytest.raises(NotImplementedError, match=r"`objective` has no closed-form minimiser for its kernel"):
        didsim.fixed_point(didsim.OBJECTIVES[name](), REFERENCE, PROBLEM)


@pytest.mark.parametrize("objective", [didsim.cpo(), didsim.orpo(), didsim.Objective(LogOdds(), Logistic())])
def test_a_likelihood_term_or_odds_are_refused(objective: didsim.Objective) -> None:
    with pytest.raises(NotImplementedError, match="`objective` has no closed-form minimiser"):
        didsim.fixed_point(objective, REFERENCE, PROBLEM)


def test_finite_pairs_are_refused() -> None:
    with pytest.raises(NotImplementedError, match=r"`problem` must be Contrastive or Labelled.*got Pairs"):
        didsim.fixed_point(didsim.dpo(), REFERENCE, didsim.Pairs(np.array([0]), np.array([1])))


def test_what_has_no_full_support_is_refused() -> None:
    holed = np.log(np.array([0.5, 0.5, 0.0, 0.0]), where=np.arange(4) < 2, out=np.full(4, -np.inf))
    with pytest.raises(ValueError, match="`reference` must give every sequence a positive probability"):
        didsim.fixed_point(didsim.dpo(), holed, PROBLEM)
    for problem, name in (
        (didsim.Contrastive(holed, TARGET), "problem.chosen"),
        (didsim.Contrastive(TARGET, holed), "problem.rejected"),
        (didsim.Labelled(TARGET, holed, TARGET), "problem.first"),
        (didsim.Labelled(TARGET, TARGET, holed), "problem.second"),
    ):
        with pytest.raises(ValueError, match=f"`{name}` must give every sequence"):
            didsim.fixed_point(didsim.dpo(), REFERENCE, problem)


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="`problem` is over 4 sequences; it was asked about 3"):
        didsim.fixed_point(didsim.dpo(), log_softmax(np.zeros(3)), PROBLEM)
    with pytest.raises(ValueError, match=r"`lengths` must have one entry for each of 4 sequences"):
        didsim.fixed_point(didsim.dpo(), REFERENCE, PROBLEM, lengths=np.array([1, 2]))
    batched = didsim.Contrastive(np.stack([REFERENCE] * 3), TARGET)
    with pytest.raises(ValueError, match="must broadcast together"):
        didsim.fixed_point(didsim.dpo(), np.stack([REFERENCE] * 2), batched)


def test_the_result_has_the_batch_axes_of_all_arguments() -> None:
    references = np.stack([REFERENCE] * 3)
    for objective in (didsim.dpo(), didsim.ipo(), didsim.reference_free(), didsim.simpo(gamma=0)):
        assert didsim.fixed_point(objective, references, PROBLEM).shape == (3, 4)


def test_a_batch_of_zero_margins_stays_a_batch() -> None:
    with pytest.raises(NotImplementedError, match="`objective` has no closed-form minimiser for its kernel"):
        didsim.fixed_point(didsim.simpo(1.0, gamma=np.zeros(2)), REFERENCE, PROBLEM)


def test_an_objective_must_be_one() -> None:
    with pytest.raises(ValueError, match=r"`objective` must be an Objective, as .* makes; got 'dpo'"):
        didsim.fixed_point("dpo", REFERENCE, PROBLEM)  # type: ignore[arg-type]
