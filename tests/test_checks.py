import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import didsim
from didsim import _checks
from didsim._registry import Registry

UNIFORM = np.full(4, -np.log(4.0))

SCALAR_CHECKS = {
    "positive": (_checks.positive, "positive and finite", (1e-300, 1, 2.5), (0, -1.0, np.inf, np.nan)),
    "non_negative": (_checks.non_negative, "zero or more and finite", (0, 0.0, 3), (-1e-9, np.inf, np.nan)),
    "number": (_checks.number, "finite", (-3, 0.0, 1e300), (np.inf, -np.inf, np.nan)),
    "at_least_one": (_checks.at_least_one, "at least 1 and finite", (1, 1.5), (0.99, 0, np.inf, np.nan)),
}


def accepted() -> list[tuple[str, float]]:
    return [(name, value) for name, (_, _, good, _) in SCALAR_CHECKS.items() for value in good]


def refused() -> list[tuple[str, float]]:
    return [(name, value) for name, (_, _, _, bad) in SCALAR_CHECKS.items() for value in bad]


@pytest.mark.parametrize(("name", "value"), accepted())
def test_scalar_checks_return_what_they_accept(name: str, value: float) -> None:
    assert float(SCALAR_CHECKS[name][0]("x", value)) == value


@pytest.mark.parametrize(("name", "value"), refused())
def test_scalar_checks_name_the_argument_the_expectation_and_the_value(name: str, value: float) -> None:
    check, expected, _, _ = SCALAR_CHECKS[name]
    with pytest.raises(ValueError, match=f"^`x` must be {expected}; got {float(value)}$"):
        check("x", value)


@pytest.mark.parametrize(("name", "value"), refused())
def test_scalar_checks_hold_under_jit(name: str, value: float) -> None:
    check, expected, _, _ = SCALAR_CHECKS[name]
    checked = eqx.filter_jit(lambda x: check("x", x))
    with pytest.raises(eqx.EquinoxRuntimeError, match=f"`x` must be {expected}"):
        checked(jnp.asarray(float(value)))


@pytest.mark.parametrize(("name", "value"), accepted())
def test_scalar_checks_pass_values_through_under_jit(name: str, value: float) -> None:
    checked = eqx.filter_jit(lambda x: SCALAR_CHECKS[name][0]("x", x))
    assert float(checked(jnp.asarray(float(value)))) == value


def test_a_bad_scalar_raises_under_plain_jit() -> None:
    with pytest.raises(Exception, match="`beta` must be positive and finite"):
        jax.jit(lambda b: didsim.dpo(b).reward.beta)(-1.0)  # type: ignore[attr-defined]


def test_one_bad_scalar_in_a_mapped_batch_raises() -> None:
    with pytest.raises(Exception, match="`x` must be positive and finite"):
        jax.vmap(lambda x: _checks.positive("x", x))(jnp.array([0.5, 1.0, -1.0]))


def test_one_bad_entry_of_an_array_of_scalars_raises() -> None:
    with pytest.raises(ValueError, match=r"`x` must be positive and finite; got \[ ?1\. -1\.\]"):
        _checks.positive("x", jnp.array([1.0, -1.0]))


@pytest.mark.parametrize("value", [0.0, 0.25, 1.0])
def test_within_includes_its_bounds(value: float) -> None:
    assert float(_checks.within("w", value, 0, 1)) == value


@pytest.mark.parametrize("value", [-1e-9, 1.0000001, np.nan, np.inf])
def test_within_names_its_bounds(value: float) -> None:
    with pytest.raises(ValueError, match="`w` must be between 0 and 1; got"):
        _checks.within("w", value, 0, 1)


@pytest.mark.parametrize("value", [0.5, 2, np.float64(0.5), np.float32(0.5), np.int32(2)])
def test_python_and_numpy_numbers_follow_the_arrays_they_meet(value: float) -> None:
    ones = jnp.ones(2, jnp.float32)
    assert (_checks.number("x", value) * ones).dtype == jnp.float32


def test_a_float32_scalar_stays_float32() -> None:
    assert _checks.number("x", jnp.float32(0.5)).dtype == jnp.float32


@pytest.mark.parametrize("value", [jnp.array(1j), jnp.array(True)])
def test_a_scalar_of_another_kind_is_refused(value: jax.Array) -> None:
    with pytest.raises(ValueError, match="`x` must be a real number; got"):
        _checks.number("x", value)


@pytest.mark.parametrize("value", [1, 7, np.int64(3)])
def test_positive_int_returns_a_python_int(value: int) -> None:
    checked = _checks.positive_int("n", value)
    assert type(checked) is int
    assert checked == value


@pytest.mark.parametrize("value", [0, -3, True, 1.0, "2", None, np.float64(2)])
def test_positive_int_refuses_what_is_no_positive_integer(value: object) -> None:
    with pytest.raises(ValueError, match="`n` must be an integer of at least 1; got"):
        _checks.positive_int("n", value)


@pytest.mark.parametrize("value", [np.array([1, 2]), [1, 2], np.array([True]), np.array([1j])])
def test_arrays_must_be_floating_point(value: np.ndarray) -> None:
    with pytest.raises(ValueError, match="`x` must be a floating-point array; got dtype"):
        _checks.float_array("x", value)


def test_arrays_must_have_an_axis() -> None:
    with pytest.raises(ValueError, match=r"`x` must have at least 1 axis .*; got shape \(\)"):
        _checks.float_array("x", 1.0)
    with pytest.raises(ValueError, match=r"`x` must have at least 2 axis .*; got shape \(3,\)"):
        _checks.float_array("x", np.ones(3), min_ndim=2)


@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 3)])
def test_arrays_must_not_be_empty(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"`x` must not be empty; got shape \(\d, ?\d?\)"):
        _checks.float_array("x", np.ones(shape))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_finite_says_what_it_found_and_where(bad: float) -> None:
    values = np.zeros((2, 3))
    values[1, 2] = bad
    with pytest.raises(ValueError, match=rf"`x` must be finite everywhere; got {bad} at index \(1, 2\)"):
        _checks.finite("x", values)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_distribution_keeps_its_dtype(dtype: type) -> None:
    assert _checks.distribution("p", UNIFORM.astype(dtype)).dtype == dtype


def test_a_distribution_may_hold_zeros() -> None:
    assert _checks.distribution("p", np.array([0.0, -np.inf])).shape == (2,)


def test_full_support_says_where_a_zero_is() -> None:
    batch = np.array([[-np.log(2.0)] * 2, [0.0, -np.inf]])
    with pytest.raises(
        ValueError, match=r"`p` must give every sequence a positive probability; .* index \(1, 1\)"
    ):
        _checks.distribution("p", batch, full_support=True)


@pytest.mark.parametrize(
    ("dtype", "off", "good"),
    # The tolerance is the root of machine epsilon: 1.5e-8 and 3.5e-4.
    [
        (np.float64, 1.4e-8, True),
        (np.float64, 1.6e-8, False),
        (np.float32, 3e-4, True),
        (np.float32, 4e-4, False),
    ],
)
def test_normalisation_is_asked_to_the_root_of_machine_epsilon(dtype: type, off: float, good: bool) -> None:
    shifted: np.ndarray = (UNIFORM + off).astype(dtype)
    if good:
        assert _checks.distribution("p", shifted).shape == (4,)
    else:
        with pytest.raises(ValueError, match="`p` must be log-probabilities normalised over the last axis"):
            _checks.distribution("p", shifted)


def test_an_unnormalised_distribution_is_told_its_sum_and_the_remedy() -> None:
    with pytest.raises(ValueError, match=r"got logsumexp 0\.693147\. jax\.nn\.log_softmax can normalise it"):
        _checks.distribution("p", np.zeros(2))


def test_an_unnormalised_distribution_in_a_batch_is_told_where() -> None:
    batch = np.stack([UNIFORM, UNIFORM - 1])
    with pytest.raises(ValueError, match=r"got logsumexp -1 at batch index \(1,\)"):
        _checks.distribution("p", batch)


@pytest.mark.parametrize("bad", [np.full(3, -np.inf), np.array([np.inf, 0.0])])
def test_infinite_totals_are_not_normalised(bad: np.ndarray) -> None:
    with pytest.raises(ValueError, match="`p` must be log-probabilities normalised"):
        _checks.distribution("p", bad)


def test_nan_in_a_distribution_is_told_where() -> None:
    with pytest.raises(ValueError, match=r"`p` must be log-probabilities; got NaN at index \(1,\)"):
        _checks.distribution("p", np.array([0.0, np.nan]))


def test_distributions_under_jit_are_checked_for_shape_and_dtype_only() -> None:
    checked = jax.jit(lambda p: _checks.distribution("p", p))
    assert np.array_equal(checked(jnp.ones(3)), np.ones(3))
    with pytest.raises(ValueError, match="`p` must be a floating-point array"):
        checked(jnp.ones(3, int))


def test_same_sequences_returns_the_broadcast_batch_shape() -> None:
    shape = _checks.same_sequences(a=jnp.ones((2, 1, 3)), b=jnp.ones((5, 3)), c=jnp.ones(3))
    assert shape == (2, 5)


def test_last_axes_must_agree() -> None:
    with pytest.raises(
        ValueError,
        match=r"`a`, `b` must agree in their last axis, sequences; got a of shape \(3,\), b of shape \(1,\)",
    ):
        _checks.same_sequences(a=jnp.ones(3), b=jnp.ones(1))


def test_batch_axes_must_broadcast() -> None:
    with pytest.raises(
        ValueError, match=r"`a`, `b` must broadcast together; got a of shape \(2,\), b of shape \(3,\)"
    ):
        _checks.broadcast(a=(2,), b=(3,))


@pytest.mark.parametrize("value", [0, 3, [0, 3], np.array([[1], [2]])])
def test_indices_in_range_pass(value: object) -> None:
    assert np.array_equal(_checks.indices("i", value, 4), np.asarray(value))


@pytest.mark.parametrize(("value", "got"), [(4, 4), (-1, -1), ([0, -2, 9], -2), ([1, 9], 9)])
def test_indices_out_of_range_are_named(value: object, got: int) -> None:
    with pytest.raises(ValueError, match=rf"`i` must index one of 4 sequences \(0 to 3\); got {got}$"):
        _checks.indices("i", value, 4)


@pytest.mark.parametrize("value", [0.0, [1.0], True])
def test_indices_must_be_integers(value: object) -> None:
    with pytest.raises(ValueError, match="`i` must be integers that index sequences; got dtype"):
        _checks.indices("i", value, 4)


def test_keys_of_any_shape_pass() -> None:
    keys = jax.random.split(jax.random.key(0), (2, 3))
    assert _checks.key("key", keys).shape == (2, 3)


@pytest.mark.parametrize("value", [0, np.zeros(2, np.uint32), jnp.zeros(2, jnp.uint32)])
def test_what_is_no_typed_key_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match=r"`key` must be a typed random key, as jax\.random\.key\(0\) makes"):
        _checks.key("key", value)


def test_a_registry_returns_its_entries() -> None:
    registry = Registry("fruit", {"pear": 1, "apple": 2})
    assert registry["pear"] == 1
    assert set(registry) == {"pear", "apple"}


def test_a_registry_answers_an_unknown_name_with_those_it_knows() -> None:
    registry = Registry("fruit", {"pear": 1, "apple": 2})
    with pytest.raises(ValueError, match=r"^unknown fruit 'plum'; there are apple, pear$"):
        registry["plum"]
    assert "plum" not in registry
    assert registry.get("plum") is None
    with pytest.raises(KeyError, match="unknown fruit 'plum'"):
        registry.pop("plum")


def test_registries_see_what_is_added_to_those_that_they_are_made_of() -> None:
    fruit = Registry("fruit", {"pear": 1})
    food = Registry("food", {"bread": 2}, fruit)
    meal = Registry("meal", {}, food)
    fruit["plum"] = 3
    assert list(meal) == ["pear", "plum", "bread"]
    assert meal["plum"] == food["plum"] == 3
    food["plum"] = 4
    assert (meal["plum"], fruit["plum"]) == (4, 3)
    del food["plum"], fruit["plum"]
    with pytest.raises(ValueError, match=r"^unknown meal 'plum'; there are bread, pear$"):
        meal["plum"]


@pytest.mark.parametrize("value", [1e-45, 1e-39])
def test_a_number_below_the_normal_ones_is_zero_in_a_compiled_program_too(value: float) -> None:
    with pytest.raises(eqx.EquinoxRuntimeError, match="`x` must be positive and finite"):
        jax.block_until_ready(eqx.filter_jit(lambda x: _checks.positive("x", x))(jnp.float32(value)))
    beside = jnp.zeros(2, jnp.float32)
    with pytest.raises(Exception, match="`x` must be positive and finite"):
        jax.block_until_ready(jax.jit(lambda x: _checks.positive("x", x, beside=beside))(value))
    assert float(eqx.filter_jit(lambda x: _checks.positive("x", x))(jnp.float64(value))) == value
