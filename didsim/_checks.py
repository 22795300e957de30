"""Argument checks. A wrong value raises `ValueError` with its name, what was expected and what was given.

Shapes and dtypes are always checked. Values are checked if they are known at the call. Under `jit`, `vmap` or
`grad` they are not known; `equinox.error_if` then checks the values of numbers when the program runs. Values
of distributions are not checked there, since this would cost as much as the functions themselves.
"""

import contextlib
import math
import numbers
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy.special import logsumexp

Shape = tuple[int, ...]
_DTYPES = ("float32", "float64")


def known(value: Any) -> bool:
    """Whether the value is known, not traced by a JAX transformation."""
    return not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(value))


def at_once() -> contextlib.AbstractContextManager[None]:
    """A context in which what is known is computed at once, and so stays known, inside `jit` as well."""
    # Elsewhere it is computed at once anyway. There JAX's context would only slow compilation down: it
    # compiles every constant of a program as a program of its own.
    is_inside_jit = not known(jnp.zeros(()))
    return jax.ensure_compile_time_eval() if is_inside_jit else contextlib.nullcontext()


def instance(name: str, value: Any, kind: type, expected: str) -> None:
    """Raise `ValueError` unless the value is an instance of `kind`."""
    if not isinstance(value, kind):
        raise ValueError(f"`{name}` must be {expected}; got {value!r}")


def function(name: str, value: Any, expected: str = "a function") -> None:
    """Raise `ValueError` unless the value can be called."""
    if not callable(value):
        raise ValueError(f"`{name}` must be {expected}; got {value!r}")


def flag(name: str, value: Any) -> bool:
    """The value, which must be True or False."""
    instance(name, value, bool, "True or False")
    return bool(value)


def one_of(name: str, value: Any, options: Iterable[str]) -> None:
    """Raise `ValueError` unless the value is one of some words."""
    options = list(options)
    if not isinstance(value, str) or value not in options:
        raise ValueError(f"`{name}` must be {' or '.join(map(repr, options))}; got {value!r}")


def words(name: str, value: Any) -> tuple[str, ...]:
    """The value as a tuple of words. One word alone is not taken for its letters."""
    try:
        listed = tuple(value)
    except TypeError:
        listed = (None,)
    is_list = not isinstance(value, str | bytes | Mapping | Array)
    if not is_list or not all(isinstance(word, str) for word in listed):
        raise ValueError(f"`{name}` must be a list of words; got {value!r}")
    return listed


def _array(name: str, value: Any, expected: str, kind: Any) -> Array:
    """The value as an array whose dtype is of one kind."""
    try:
        array = jnp.asarray(value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"`{name}` must be {expected}; got {value!r}") from None
    if not jnp.issubdtype(array.dtype, kind):
        raise ValueError(f"`{name}` must be {expected}; got dtype {array.dtype}")
    _supported(name, array.dtype)
    return array


def _supported(name: str, dtype: Any) -> None:
    """Raise for a floating-point dtype other than float32 and float64: exact values need their digits."""
    if jnp.issubdtype(dtype, jnp.floating) and jnp.dtype(dtype).name not in _DTYPES:
        raise ValueError(f"`{name}` must have dtype {' or '.join(_DTYPES)}; got {jnp.dtype(dtype).name}")


def float_array(name: str, value: Any, *, min_ndim: int = 1) -> Float[Array, "..."]:
    """The value as a floating-point array that is not empty and has at least `min_ndim` axes."""
    array = _array(name, value, "a floating-point array", jnp.floating)
    if array.ndim < min_ndim:
        raise ValueError(
            f"`{name}` must have at least {min_ndim} axis (sequences come last); got shape {array.shape}"
        )
    if array.size == 0:
        raise ValueError(f"`{name}` must not be empty; got shape {array.shape}")
    return array


def numbers_given(name: str, value: Any) -> np.ndarray:
    """The value as a NumPy array of real numbers, of any shape; NaN and infinity are numbers here."""
    array = _array(name, value, "an array of real numbers", jnp.number)
    if jnp.issubdtype(array.dtype, jnp.complexfloating):
        raise ValueError(f"`{name}` must be an array of real numbers; got dtype {array.dtype}")
    return np.asarray(value)


def numeric_fields(name: str, module: Any) -> None:
    """Raise `ValueError` unless all fields of a module, but for static ones, hold arrays or numbers."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(module):
        if isinstance(leaf, bool) or not isinstance(leaf, Array | np.ndarray | np.generic | numbers.Real):
            field = jax.tree_util.keystr(path)
            raise ValueError(
                f"`{name}` must hold arrays and numbers in its fields; got {leaf!r} in {field}. A field of "
                "another kind is declared as eqx.field(static=True)"
            )


def finite(name: str, value: Any, *, min_ndim: int = 1) -> Float[Array, "..."]:
    """The value as a floating-point array without NaN or infinity."""
    array = float_array(name, value, min_ndim=min_ndim)
    if known(value):
        given = np.asarray(value)
        bad = ~np.isfinite(given)
        if bad.any():
            where = tuple(int(k) for k in np.argwhere(bad)[0])
            raise ValueError(f"`{name}` must be finite everywhere; got {given[where]} at index {where}")
    return array


def distribution(name: str, value: Any, *, full_support: bool = False) -> Float[Array, "*batch sequences"]:
    """The value as log-probabilities, normalised over the last axis.

    `logsumexp` must be 0 to within the square root of machine epsilon.
    """
    log_probs = float_array(name, value)
    if not known(value):
        return log_probs
    array = np.asarray(value)
    if np.isnan(array).any():
        where = tuple(int(k) for k in np.argwhere(np.isnan(array))[0])
        raise ValueError(f"`{name}` must be log-probabilities; got NaN at index {where}")
    total = np.asarray(logsumexp(array, axis=-1))
    tolerance = float(np.sqrt(jnp.finfo(log_probs.dtype).eps))
    off = ~(np.abs(total) <= tolerance)
    if off.any():
        where = tuple(int(k) for k in np.argwhere(off)[0])
        raise ValueError(
            f"`{name}` must be log-probabilities normalised over the last axis "
            f"(logsumexp 0 to within {tolerance:.1e}); got logsumexp {total[where]:.6g}"
            + (f" at batch index {where}" if where else "")
            + ". jax.nn.log_softmax can normalise it."
        )
    if full_support and np.isneginf(array).any():
        where = tuple(int(k) for k in np.argwhere(np.isneginf(array))[0])
        raise ValueError(
            f"`{name}` must give every sequence a positive probability; got zero at index {where}. Leave "
            "sequences that cannot occur out of the space, or give them a small probability"
        )
    return log_probs


def same_sequences(**arrays: Array) -> Shape:
    """The common batch shape of arrays. Their last axes must agree, and all other axes must broadcast."""
    shapes = {name: array.shape for name, array in arrays.items()}
    if len({shape[-1] for shape in shapes.values()}) > 1:
        raise ValueError(f"{_names(shapes)} must agree in their last axis, sequences; {_got(shapes)}")
    return broadcast(**{name: shape[:-1] for name, shape in shapes.items()})


def broadcast(**shapes: Shape) -> Shape:
    """The shape to which all the named shapes broadcast."""
    try:
        return np.broadcast_shapes(*shapes.values())
    except ValueError:
        raise ValueError(f"{_names(shapes)} must broadcast together; {_got(shapes)}") from None


def positive(name: str, value: Any, beside: Array | None = None) -> Array:
    """The value as a positive, finite number, or an array of such numbers."""
    return _number(name, value, "positive and finite", lambda x, xp: (x > 0) & xp.isfinite(x), beside)


def non_negative(name: str, value: Any, beside: Array | None = None) -> Array:
    """The value as a finite number of at least 0, or an array of such numbers."""
    return _number(name, value, "zero or more and finite", lambda x, xp: (x >= 0) & xp.isfinite(x), beside)


def at_least_one(name: str, value: Any, beside: Array | None = None) -> Array:
    """The value as a finite number of at least 1, or an array of such numbers."""
    return _number(name, value, "at least 1 and finite", lambda x, xp: (x >= 1) & xp.isfinite(x), beside)


def number(name: str, value: Any, beside: Array | None = None) -> Array:
    """The value as a finite number, or an array of such numbers."""
    return _number(name, value, "finite", lambda x, xp: xp.isfinite(x), beside)


def within(name: str, value: Any, low: float, high: float) -> Array:
    """The value as a number between two bounds, both included, or an array of such numbers."""
    return _number(name, value, f"between {low} and {high}", lambda x, xp: (x >= low) & (x <= high))


def _number(
    name: str, value: Any, expected: str, good: Callable[[Any, Any], Any], beside: Array | None = None
) -> Array:
    """The value as an array of real numbers.

    A Python number gives a weakly typed array. In operations it takes the dtype of the other array: that of
    `beside`, if it is given. A number is checked as it is used, rounded to its dtype.
    """
    value = python_number(value)
    # What is known stays known under `jit`, so that a second check of it needs no run.
    with at_once() if known(value) else contextlib.nullcontext():
        array = _array(name, value, "a real number", jnp.number)
        if jnp.issubdtype(array.dtype, jnp.complexfloating):
            raise ValueError(f"`{name}` must be a real number; got dtype {array.dtype}")
        if array.size == 0:
            raise ValueError(f"`{name}` must be a real number; got shape {array.shape}")
        array = array * 1.0 if jnp.issubdtype(array.dtype, jnp.integer) else array
    if not known(value):
        return eqx.error_if(array, ~good(_flushed(array, beside), jnp), f"`{name}` must be {expected}")
    given = np.asarray(value)
    # In double precision, as bounds would be rounded to the dtype of an array of float16.
    if not np.all(good(given.astype(float), np)):
        raise ValueError(f"`{name}` must be {expected}; got {given}")
    dtype = array.dtype if beside is None else jnp.result_type(array, beside)
    rounded = _rounded(given, dtype)
    if not np.all(good(rounded.astype(float), np)):
        raise ValueError(f"`{name}` must be {expected} in {dtype}; got {given}, which rounds to {rounded}")
    return array


def _flushed(array: Array, beside: Array | None) -> Array:
    """A number of a compiled program, in the dtype in which it is used, with zero for one below the normal.

    The program may take such a number for zero or not, as its parts are fused.
    """
    used = array if beside is None else array.astype(jnp.result_type(array, beside))
    return jnp.where(jnp.abs(used) < jnp.finfo(used.dtype).tiny, 0, used)


def dtypes(name: str, tree: Any) -> None:
    """Raise if a number of a tree has a floating-point dtype other than float32 and float64."""
    for leaf in jax.tree.leaves(tree):
        _supported(name, jnp.result_type(leaf))


def parameters(name: str, tree: Any, dtype: Any) -> None:
    """Raise if a number of a tree has an unsupported dtype, or is too large or too small for `dtype`.

    A number that rounds to zero is too small. One is too large if its square overflows: so would a reward
    that it multiplies, and the difference of two such rewards is NaN.
    """
    dtypes(name, tree)
    most = float(np.sqrt(float(jnp.finfo(dtype).max)))
    for leaf in jax.tree.leaves(tree):
        if known(leaf) and jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            given = np.asarray(leaf)
            rounded = _rounded(given, dtype)
            off = np.isfinite(given) & (~np.isfinite(rounded) | ((rounded == 0) & (given != 0)))
            if off.any():
                raise ValueError(
                    f"`{name}` must have parameters that {jnp.dtype(dtype)} can hold; got "
                    f"{given[off].flat[0]}, which rounds to {rounded[off].flat[0]}"
                )
            if (large := np.isfinite(given) & (np.abs(given) > most)).any():
                raise ValueError(
                    f"`{name}` must have parameters of at most {most:.2g} in {jnp.dtype(dtype)}, as rewards "
                    f"overflow beyond; got {given[large].flat[0]}"
                )


def _rounded(given: np.ndarray, dtype: Any) -> np.ndarray:
    """Numbers as a compiled program sees them, to which those below the smallest normal one are zero."""
    with np.errstate(over="ignore", under="ignore"):
        rounded = given.astype(dtype)
    return np.where(np.abs(rounded) < jnp.finfo(dtype).tiny, np.zeros((), dtype), rounded)


def python_number(value: Any) -> Any:
    """A real number as a float, which JAX types weakly; any other value as it is."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return value
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf  # type: ignore[operator]


def single(name: str, array: Array) -> Array:
    """The array, which must have no axes."""
    if array.ndim:
        raise ValueError(f"`{name}` must be one number; got shape {array.shape}")
    return array


def optional_number(name: str, value: Any) -> Array | None:
    """None, or the value as a finite number or an array of such numbers."""
    return None if value is None else number(name, value)


def real(name: str, value: Any, check: Callable[[str, Any], Array]) -> float:
    """The value as one Python number, which `check` (`positive`, `non_negative`, `number`) accepts."""
    if not known(value):
        raise ValueError(f"`{name}` must be known at the call; got a traced array")
    single(name, check(name, value))
    return float(value)


def integer(name: str, value: Any, least: int, most: int | None = None) -> int:
    """The value as a Python integer of at least `least` and, if given, at most `most`."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise ValueError(f"`{name}` must be an integer of at least {least}; got {value!r}")
    if most is not None and value > most:
        raise ValueError(f"`{name}` must be an integer of at most {most}; got {value!r}")
    return int(value)


def positive_int(name: str, value: Any) -> int:
    """The value as a Python integer of at least 1."""
    return integer(name, value, 1)


def count(name: str, value: Any, least: int = 1) -> int:
    """The value as a number of sequences, pairs or steps, which are counted in 32 bits."""
    return integer(name, value, least, 2**31 - 1)


def booleans(name: str, value: Any) -> Array:
    """The value as an array of True and False."""
    return _array(name, value, "True or False for each pair", np.bool_)


def indices(name: str, value: Any, size: int) -> Array:
    """The value as an array of integers from 0 to `size − 1`."""
    array = _array(name, value, "integers that index sequences", jnp.integer)
    if known(value) and array.size:
        given = np.asarray(value)
        low, high = int(given.min()), int(given.max())
        if low < 0 or high >= size:
            raise ValueError(
                f"`{name}` must index one of {size} sequences (0 to {size - 1}); "
                f"got {low if low < 0 else high}"
            )
    return array


def lengths(name: str, value: Any) -> Array:
    """The value as an array of numbers of tokens, which are integers of at least 1."""
    array = _array(name, value, "numbers of tokens, integers of at least 1", jnp.integer)
    if array.size == 0 or (known(value) and not np.all(np.asarray(value) >= 1)):
        raise ValueError(f"`{name}` must be numbers of tokens, integers of at least 1; got {value!r}")
    if known(value) and np.max(np.asarray(value)) > (most := jnp.iinfo(array.dtype).max):
        raise ValueError(
            f"`{name}` must be numbers of tokens, at most {most}; got {np.max(np.asarray(value))}"
        )
    return array


def one_key(name: str, value: Any) -> Array:
    """The value, which must be a single typed random key."""
    if key(name, value).ndim:
        raise ValueError(f"`{name}` must be one random key; got an array of shape {value.shape}")
    return value


def key(name: str, value: Any) -> Array:
    """The value, which must be a typed random key or an array of such keys."""
    if not (isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key)):
        raise ValueError(f"`{name}` must be a typed random key, as jax.random.key(0) makes; got {value!r}")
    if not value.size:
        raise ValueError(f"`{name}` must be at least one random key; got an array of shape {value.shape}")
    return value


def _names(shapes: Mapping[str, Shape]) -> str:
    return ", ".join(f"`{name}`" for name in shapes)


def _got(shapes: Mapping[str, Shape]) -> str:
    return "got " + ", ".join(f"{name} of shape {shape}" for name, shape in shapes.items())
