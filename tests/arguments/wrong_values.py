"""Values that almost no argument may have: each is given in place of every argument of every function."""

import datetime
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

WRONG: dict[str, Callable[[], Any]] = {
    "None": lambda: None,
    "a word": lambda: "a",
    "no word": lambda: "",
    "bytes": lambda: b"a",
    "an object": object,
    "an exception": lambda: ValueError("a"),
    "an empty table": dict,
    "a table": lambda: {"a": 1.0},
    "an empty list": list,
    "an empty tuple": tuple,
    "a list of words": lambda: ["a", "b", "c"],
    "a list of None": lambda: [None, None, None],
    "a ragged list": lambda: [[0.0], [0.0, 1.0]],
    "a set": lambda: {0.0, 1.0},
    "a generator": lambda: (one for one in (0.0, 1.0)),
    "NaN": lambda: float("nan"),
    "infinity": lambda: float("inf"),
    "minus infinity": lambda: float("-inf"),
    "-1": lambda: -1,
    "0": lambda: 0,
    "0.5": lambda: 0.5,
    "2**70": lambda: 2**70,
    "10**400": lambda: 10**400,
    "True": lambda: True,
    "a complex number": lambda: 1j,
    "a function": lambda: lambda *_, **__: None,
    "a class": lambda: int,
    "a date": lambda: datetime.date(2026, 1, 1),
    "a path": lambda: Path("a"),
    "an empty array": lambda: np.zeros((3, 0)),
    "an array of float16": lambda: np.zeros(3, np.float16),
    "an array of booleans": lambda: np.ones(3, bool),
    "an array of words": lambda: np.array(["a", "b", "c"]),
    "an array of objects": lambda: np.array([None, object(), "a"], object),
    "an array of dates": lambda: np.array(["2026-01-01"] * 3, "datetime64[D]"),
    "an array of complex numbers": lambda: np.ones(3, complex),
    "an array of NaN": lambda: np.full(3, np.nan),
    "an array of the wrong length": lambda: np.full(7, -np.log(7.0)),
    "an array of one number": lambda: np.zeros(1),
    "an array of no axes": lambda: np.array(np.nan),
    "an array of too many axes": lambda: np.zeros((2, 5, 7, 11)),
    "numbers that are not log-probabilities": lambda: np.array([0.5, 0.3, 0.3]),
    "raw random bits": lambda: np.zeros(2, np.uint32),
    "an empty array of keys": lambda: jax.random.split(jax.random.key(0), 0),
    "a traced array's shape": lambda: jax.ShapeDtypeStruct((3,), jnp.float64),
}
