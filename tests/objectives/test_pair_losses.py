import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import ArrayLike
from scipy.special import log_softmax

import didsim
from didsim import Contrastive
from tests import papers
from tests.objectives.catalogue_cases import EPS, EPS32, EXPONENTIAL, P, Q
from tests.papers import (
    BASELINES,
    MAKERS,
    NAMES,
    PAPERS,
    PER_TOKEN,
    REFERENCE_FREE,
    magnitude,
    make,
    rounding,
)
from tests.strategies import betas

LOGPS = st.one_of(st.floats(-60, -0.01), st.sampled_from((-1400.0, -700.0, -1e-9)))


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data(), strength=betas)
def test_pair_losses_agree_with_the_formula_of_their_paper(
    name: str, data: st.DataObject, strength: float
) -> None:
    w, y, rw, rl = (np.array(data.draw(st.lists(LOGPS, min_size=3, max_size=3))) for _ in range(4))
    nw, nl = (np.array(data.draw(st.lists(st.integers(1, 40), min_size=3, max_size=3))) for _ in range(2))
    z = data.draw(st.sampled_from((0.0, 0.7, 30.0))) if name in BASELINES else 0.0
    result = MAKERS[name](strength).pair_loss(w, y, rw, rl, nw, nl, baseline=z)
    with np.errstate(over="ignore", invalid="ignore"):
        expected = PAPERS[name](strength, papers.Pair(w, y, rw, rl, nw, nl, z))
        sizes = magnitude(name, strength, w, rw, nw), magnitude(name, strength, y, rl, nl)
        error = EPS * rounding(name, strength, np.maximum(*sizes) + z) + 1e-12 * np.abs(expected)
    # Exponentials that overflow have nothing to compare.
    compared = np.isfinite(error)
    assert compared.all() or name in EXPONENTIAL
    assert (np.abs(result - expected) <= error)[compared].all()


@pytest.mark.parametrize("name", NAMES)
def test_pair_losses_take_python_numbers(name: str) -> None:
    result = MAKERS[name](0.1).pair_loss(-10.0, -12.5, -11.0, -11.5, 4, 5, baseline=0.05)
    w, y, rw, rl = (np.float64(x) for x in (-10.0, -12.5, -11.0, -11.5))
    given = papers.Pair(w, y, rw, rl, 4, 5, 0.05)
    assert float(result) == pytest.approx(float(PAPERS[name](0.1, given)), rel=1e-13)


def test_the_baseline_of_a_batch_of_pairs_is_that_of_its_sequences() -> None:
    w, y = np.array([-3.0, -4.0, -2.0]), np.array([-3.5, -9.0, -1.0])
    rw, rl = np.array([-3.5, -4.5, -4.0]), np.array([-3.0, -5.0, -6.0])
    lower = np.array([-6.0, -7.0, -7.0])
    for chosen in (w, lower):
        mean = 0.6 * (np.mean(chosen - rw) + np.mean(y - rl)) / 2
        for name, z in {"kto": max(0.0, mean), "bco": mean}.items():
            expected = PAPERS[name](0.6, papers.Pair(chosen, y, rw, rl, 1, 1, z))
            np.testing.assert_allclose(MAKERS[name](0.6).pair_loss(chosen, y, rw, rl), expected, rtol=1e-13)
    assert mean < 0  # so that it was held at zero


def test_the_baseline_must_be_one_number() -> None:
    for name in BASELINES:
        with pytest.raises(ValueError, match=r"`baseline` must be one number; got shape \(2,\)"):
            MAKERS[name](0.5).pair_loss(-1.0, -2.0, -1.0, -1.0, baseline=np.zeros(2))
        with pytest.raises(ValueError, match="`baseline` must be finite; got nan"):
            MAKERS[name](0.5).pair_loss(-1.0, -2.0, -1.0, -1.0, baseline=np.nan)
    assert [name for name, objective in make(0.5).items() if objective.has_baseline] == list(BASELINES)


@pytest.mark.parametrize("name", NAMES)
def test_pair_losses_broadcast_and_map(name: str) -> None:
    rng = np.random.default_rng(0)
    w, y = -30 * rng.random((4, 1)), -30 * rng.random(3)
    objective = MAKERS[name](0.3)

    def pair_loss(w: ArrayLike, y: ArrayLike) -> jax.Array:
        return objective.pair_loss(w, y, -10.0, -12.0, np.array([2, 3, 4]), 5, baseline=0.2)

    batch = pair_loss(w, y)
    assert batch.shape == (4, 3)
    one = PAPERS[name](0.3, papers.Pair(w[1, 0], y[2], -10.0, -12.0, 4, 5, 0.2))
    assert float(batch[1, 2]) == pytest.approx(float(one), rel=1e-11)
    np.testing.assert_allclose(jax.jit(pair_loss)(w, y), batch, rtol=1e-12)
    mapped = jax.vmap(lambda w: pair_loss(w, y))(jnp.asarray(w))
    np.testing.assert_allclose(mapped, batch, rtol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_pair_losses_are_finite_where_the_policy_is_sure(name: str) -> None:
    w = np.array([0.0, -1e-300, -1e-17, -700.0, -1400.0])
    objective = MAKERS[name](0.5)
    arguments = (w[:, None], w, np.full(5, -1.0), np.full(5, -1.0), np.ones(5, int), np.ones(5, int))
    if name in EXPONENTIAL:
        arguments = (w[:, None] / 2, w / 2, *arguments[2:])
    assert np.isfinite(objective.pair_loss(*arguments)).all()
    gradient = jax.grad(lambda w: objective.pair_loss(w, *arguments[1:]).sum())(jnp.asarray(arguments[0]))
    # The odds of a policy that is sure move by up to the inverse of the smallest normal number.
    assert not np.isnan(gradient).any()


@given(st.data(), st.sampled_from((0.05, 0.5, 2.0)))
def test_pair_losses_in_float32(data: st.DataObject, strength: float) -> None:
    logps = st.lists(st.floats(-30, -0.125, width=32), min_size=3, max_size=3)
    w, y, rw, rl = (np.array(data.draw(logps), np.float32) for _ in range(4))
    n = np.array([1, 3, 30])
    wide = papers.Pair(w.astype(float), y.astype(float), rw.astype(float), rl.astype(float), n, n[::-1], 0.5)
    for name, objective in make(strength).items():
        result = objective.pair_loss(w, y, rw, rl, n, n[::-1], baseline=0.5)
        assert result.dtype == jnp.float32
        expected = PAPERS[name](strength, wide)
        size = np.maximum(
            magnitude(name, strength, wide.w, wide.ref_w, n),
            magnitude(name, strength, wide.l, wide.ref_l, n[::-1]),
        )
        with np.errstate(over="ignore"):
            # A loss is good to 8 eps of itself on top.
            error = EPS32 * (rounding(name, strength, size + 0.5) + 8 * np.abs(expected)) + 1e-37
        assert (np.abs(result - expected) <= error)[error < 1e30].all(), name


@pytest.mark.parametrize("name", [name for name in NAMES if name not in REFERENCE_FREE])
def test_a_missing_reference_is_named(name: str) -> None:
    objective = MAKERS[name](0.5)
    with pytest.raises(
        ValueError, match=r"`ref_chosen_logps` must be given .* uses the reference .* got None"
    ):
        objective.pair_loss(-1.0, -2.0)
    with pytest.raises(ValueError, match="`ref_rejected_logps` must be given to this objective"):
        objective.pair_loss(-1.0, -2.0, -1.0)


@pytest.mark.parametrize("name", PER_TOKEN)
def test_missing_lengths_are_named(name: str) -> None:
    objective = MAKERS[name](0.5)
    with pytest.raises(ValueError, match=r"`chosen_lengths` must be given .* number of tokens; got None"):
        objective.pair_loss(-1.0, -2.0, -1.0, -1.0)
    with pytest.raises(ValueError, match="`rejected_lengths` must be given to this objective"):
        objective.pair_loss(-1.0, -2.0, -1.0, -1.0, chosen_lengths=3)


@pytest.mark.parametrize("name", [name for name in REFERENCE_FREE if name not in PER_TOKEN])
def test_what_is_not_needed_need_not_be_given(name: str) -> None:
    result = MAKERS[name](0.5).pair_loss(-1.0, -2.0)
    expected = PAPERS[name](0.5, papers.Pair(np.float64(-1), np.float64(-2), 0, 0, 1, 1))
    assert float(result) == pytest.approx(float(expected), rel=1e-14)


def test_log_probabilities_of_pairs_are_checked() -> None:
    dpo = didsim.dpo()
    names = ("chosen_logps", "rejected_logps", "ref_chosen_logps", "ref_rejected_logps")
    for place, name in enumerate(names):
        for bad, expected in {
            np.nan: "be finite everywhere; got nan",
            -np.inf: "be finite everywhere; got -inf",
            0.5: "be log-probabilities, at most 0; got 0.5",
        }.items():
            arguments = [np.array([-1.0, -2.0]) for _ in names]
            arguments[place][1] = bad
            with pytest.raises(ValueError, match=f"`{name}` must {expected}"):
                dpo.pair_loss(*arguments)
    with pytest.raises(ValueError, match="`chosen_logps` must be a floating-point array; got dtype int"):
        dpo.pair_loss(np.array([-1]), -1.0, -1.0, -1.0)
    with pytest.raises(ValueError, match="`rejected_logps` must not be empty"):
        dpo.pair_loss(-1.0, np.zeros(0), -1.0, -1.0)
    with pytest.raises(ValueError, match=r"must broadcast together; got chosen_logps of shape \(2,\)"):
        dpo.pair_loss(-np.ones(2), -np.ones(3), -1.0, -1.0)


def test_lengths_of_pairs_are_checked() -> None:
    for bad in (0, -1, np.array([1, 0])):
        with pytest.raises(
            ValueError, match="`chosen_lengths` must be numbers of tokens, integers of at least 1; got"
        ):
            didsim.simpo().pair_loss(-1.0, -2.0, chosen_lengths=bad, rejected_lengths=1)
        with pytest.raises(
            ValueError, match="`rejected_lengths` must be numbers of tokens, integers of at least 1; got"
        ):
            didsim.orpo().pair_loss(-1.0, -2.0, chosen_lengths=1, rejected_lengths=bad)
    with pytest.raises(ValueError, match=r"must broadcast together; .*rejected_lengths of shape \(2,\)"):
        didsim.simpo().pair_loss(
            -np.ones(3), -1.0, chosen_lengths=np.array(1), rejected_lengths=np.array([1, 2])
        )


@pytest.mark.parametrize("name", ["kto", "bco"])
def test_batches_as_large_as_the_space_keep_their_own_baselines(name: str) -> None:
    p = log_softmax(np.random.default_rng(0).normal(size=(3, 3)), -1)
    objective = MAKERS[name](0.5)
    batch = objective.loss(p, Q, Contrastive(P, Q))
    for k in range(3):
        assert float(batch[k]) == pytest.approx(float(objective.loss(p[k], Q, Contrastive(P, Q))), rel=1e-13)


@pytest.mark.parametrize("name", ["kto", "bco"])
def test_no_gradient_passes_through_the_baseline_of_a_batch_of_pairs(name: str) -> None:
    w, y, ref = jnp.array([-0.5, -1.0]), jnp.array([-2.0, -1.0]), -2.5
    objective = MAKERS[name](1.0)
    held = float((jnp.mean(w - ref) + jnp.mean(y - ref)) / 2)
    free = jax.grad(lambda w: objective.pair_loss(w, y, ref, ref).sum())(w)
    fixed = jax.grad(lambda w: objective.pair_loss(w, y, ref, ref, baseline=held).sum())(w)
    np.testing.assert_allclose(free, fixed, rtol=1e-13)
