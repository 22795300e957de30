"""LAPACK on one thread, while a solver runs."""

import importlib
import threading
from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from threadpoolctl import ThreadpoolController

import didsim
from didsim.fixed_points.blas import on_one_thread


def _threads() -> set[int]:
    scipy.linalg.inv(np.eye(2))  # loads its library
    return {library["num_threads"] for library in ThreadpoolController().select(user_api="blas").info()}


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    with ThreadpoolController().limit(limits=2, user_api="blas"):
        yield


def test_one_thread_inside_and_as_many_as_before_outside() -> None:
    with on_one_thread():
        assert _threads() == {1}
        with on_one_thread():
            assert _threads() == {1}
        assert _threads() == {1}
    assert _threads() == {2}


def test_threads_come_back_after_an_error() -> None:
    with pytest.raises(ZeroDivisionError), on_one_thread():
        raise ZeroDivisionError
    assert _threads() == {2}


def test_contexts_that_overlap_leave_no_limit_behind() -> None:
    entered, may_leave = threading.Event(), threading.Event()

    def stay() -> None:
        with on_one_thread():
            entered.set()
            may_leave.wait(60)

    other = threading.Thread(target=stay)
    with on_one_thread():
        other.start()
        assert entered.wait(60)
        assert _threads() == {1}
    assert _threads() == {2}
    may_leave.set()
    other.join()
    assert _threads() == {2}
    with on_one_thread():
        assert _threads() == {1}
    assert _threads() == {2}


def test_a_solver_has_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    module = importlib.import_module("didsim.fixed_points.solve")

    def watched(*given: Any) -> Any:
        seen.append(_threads())
        return free(*given)

    free = module._free
    monkeypatch.setattr(module, "_free", watched)
    uniform = jnp.log(jnp.full(3, 1 / 3))
    didsim.solve(didsim.cdpo(0.5, 0.1), uniform, didsim.Contrastive(uniform, uniform))
    assert seen == [{1}]
    assert _threads() == {2}
