"""Arguments that were once taken in silence, or refused by an error of Python's: instances by hand."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import didsim
from didsim import _checks, objectives, preferences
from tests.arguments.of_pairs import PROBLEMS
from tests.arguments.test_wrong_arguments import CALLS

P = np.log([0.5, 0.3, 0.2])
THAT_RUN = (
    "solve",
    "fixed_point",
    "train",
    "check_all",
    "run_sweep",
    "open_results",
    "export",
    "toml",
)


@pytest.mark.parametrize(
    "name", [name for name in CALLS if not name.endswith(THAT_RUN) and "plotting" not in name]
)
def test_valid_calls_are_accepted(name: str) -> None:
    """Otherwise a wrong argument could be refused for the fault of another."""
    if "theory.exact" in name or "theory.claim" in name:
        assert callable(CALLS[name]())
    else:
        CALLS[name]()


@pytest.mark.parametrize("name", PROBLEMS)
def test_a_constant_loss_has_its_own_value_for_an_expectation(name: str) -> None:
    """The pairs' probabilities add up to one."""
    x = jnp.array([0.0, 1.0, 2.0])
    assert float(PROBLEMS[name].expect(lambda d: jnp.full_like(d, 2.5), x)) == pytest.approx(2.5)
    # All sequences with one number: the loss at a difference of zero.
    assert float(PROBLEMS[name].expect(lambda d: 2.5 + d, jnp.full(3, 7.0))) == pytest.approx(2.5)


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("x", [7.0, jnp.array(7.0), jnp.array([7.0]), jnp.zeros((3, 1))])
def test_one_number_is_not_taken_for_that_of_every_sequence(name: str, x: Any) -> None:
    with pytest.raises(ValueError, match="`x`"):
        PROBLEMS[name].expect(jnp.square, x)
    with pytest.raises(ValueError, match="`x`"):
        PROBLEMS[name].expect_exp(x)
    with pytest.raises(ValueError, match="`y`"):
        PROBLEMS[name].expect_across(jnp.square, jnp.zeros(3), x)


@pytest.mark.parametrize("place", range(3))
@pytest.mark.parametrize("size", [1, 2, 5])
def test_nan_is_in_no_order(place: int, size: int) -> None:
    """Under `jit`, where values of distributions are not checked."""
    p, q = jax.nn.log_softmax(jnp.arange(size * 1.0)), jax.nn.log_softmax(jnp.zeros(size))
    three = [p, q, jax.nn.log_softmax(-jnp.arange(size * 1.0))]
    assert bool(jax.jit(didsim.check_order)(*three).ordered)
    three[place] = jnp.full(size, jnp.nan)
    report = jax.jit(didsim.check_order)(*three)
    assert not bool(report.ordered)
    assert float(report.fraction) == 0
    three[place] = [p, q, three[0]][place].at[0].set(jnp.nan)
    assert not bool(jax.jit(didsim.check_order)(*three).ordered)
    assert not bool(jax.jit(didsim.fit_power_law)(*three).holds)


class _Named(preferences.Sampler):
    mode: str

    def __call__(self, reward: Any, log_probs: Any, implicit_reward: Any) -> Any:
        return didsim.Uniform()(reward, log_probs, implicit_reward)


class _NamedInStatic(preferences.Sampler):
    mode: str = eqx.field(static=True)

    def __call__(self, reward: Any, log_probs: Any, implicit_reward: Any) -> Any:
        return didsim.Uniform()(reward, log_probs, implicit_reward)


class _Shaped(objectives.Kernel):
    shape: Any

    def __call__(self, difference: Any) -> Any:
        return difference


@pytest.mark.parametrize("field", ["a", None, jnp.tanh, True, object()])
def test_fields_that_are_no_arrays_are_named(field: Any) -> None:
    term = objectives.Pair(objectives.LogRatio(jnp.array(0.1)), _Shaped(field))
    if field is None:
        assert didsim.Objective(term).batch_shape == ()
        return
    with pytest.raises(ValueError, match=r"`terms` must hold arrays .* in \.kernel\.shape\. .*static=True"):
        didsim.Objective(term)
    with pytest.raises(ValueError, match=r"`sampler` must hold arrays .* in \.mode\. .*static=True"):
        didsim.Online(P, _Named(field))
    assert didsim.Online(P, _NamedInStatic("a")).batch_shape == ()


@pytest.mark.parametrize("huge", [10**400, -(10**400)])
def test_integers_beyond_any_float_are_refused_as_infinite(huge: int) -> None:
    with pytest.raises(ValueError, match="`x` must be finite; got"):
        _checks.number("x", huge)


def test_batch_axes_that_do_not_fit_are_named_as_they_were_given() -> None:
    batch, other = np.broadcast_to(P, (5, 3)), np.full(7, 0.5)
    spread = didsim.Contrastive(batch, batch)
    for name, call in {
        "beta": lambda: didsim.optimal_rejected(batch, batch, other),
        "position": lambda: didsim.REJECTED["geodesic"](batch, batch, position=other),
        "exponent": lambda: didsim.REJECTED["tempered"](batch, other),
        "noise": lambda: didsim.REJECTED["perturbed"](jax.random.key(0), batch, batch, 0.5, other),
        "s": lambda: didsim.information.geodesic(batch, batch, other),
        "weight": lambda: didsim.mixture(batch, batch, other),
        "offset": lambda: didsim.Contrastive(batch, batch).expect(
            jnp.square, jnp.zeros(3), jnp.asarray(other)
        ),
        "x": lambda: spread.expect(jnp.square, jnp.zeros((7, 3))),
    }.items():
        with pytest.raises(ValueError, match=f"`{name}`.* must broadcast together"):
            call()


@pytest.mark.parametrize("context", [None, 0, 2, 10])
def test_one_sequence_needs_no_table_of_the_space(context: int | None) -> None:
    space = didsim.SequenceSpace(vocab_size=2, max_length=8)
    shorter = space if context is None else didsim.SequenceSpace(2, min(context + 1, 8))
    logits = np.random.default_rng(0).normal(size=(shorter.num_prefixes, 2))
    policy = didsim.Autoregressive(logits, space, context)
    tokens = (0, 1, 1, 0, 1, 0, 0, 1)
    found = policy.log_prob(tokens)
    assert not {"sequences", "prefixes"} & vars(space).keys()
    expected = 0.0
    for k, token in enumerate(tokens):
        seen = tokens[max(0, k - (8 if context is None else context)) : k]
        # Prefixes are ordered by length, and those of one length as binary numbers.
        row = 2 ** len(seen) - 1 + int("0" + "".join(map(str, seen)), 2)
        expected += logits[row, token] - np.logaddexp.reduce(logits[row])
    assert float(found) == pytest.approx(expected, rel=1e-12)
    assert float(found) == pytest.approx(float(policy.log_probs()[space.index(tokens)]), rel=1e-12)
    with pytest.raises(ValueError, match="`tokens` must be one sequence"):
        policy.log_prob([tokens, tokens])
