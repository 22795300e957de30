import jax
import jax.numpy as jnp
import optax
import pytest

import didsim
from didsim.training.progress import progress_bar, tick


@jax.jit
def count_to_50(number: jax.Array) -> jax.Array:
    def step(total: jax.Array, k: jax.Array) -> tuple[jax.Array, None]:
        jax.debug.callback(tick, number, k)
        return total + k, None

    return jax.lax.scan(step, jnp.zeros((), int), jnp.arange(1, 51))[0]


def test_a_bar_has_its_label_and_counts_to_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("my run", 50) as number:
        assert number is not None
        count_to_50(number)
    out = capsys.readouterr().out
    assert "my run" in out
    assert "50/50" in out


def test_without_a_bar_there_is_no_number_and_no_output(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar(False, 50) as number:
        assert number is None
    assert capsys.readouterr().out == ""


def test_a_bar_of_steps_that_come_out_of_order_does_not_go_back(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar(True, 50) as number:
        assert number is not None
        tick(number, jnp.array(50))
        tick(number, jnp.array(20))
    assert "training" in (out := capsys.readouterr().out)
    assert "50/50" in out


def test_a_late_call_for_a_bar_that_is_gone_does_nothing() -> None:
    with progress_bar(True, 5) as number:
        assert number is not None
    tick(number, jnp.array(5))


def test_training_shows_a_bar_when_asked(capsys: pytest.CaptureFixture[str]) -> None:
    p = jnp.log(jnp.array([0.6, 0.4]))
    problem = didsim.Contrastive(p, p)
    for progress in (False, "two sequences"):
        didsim.train(didsim.EnergyBased(p), p, problem, didsim.dpo(), optax.sgd(0.1), 30, progress=progress)
        out = capsys.readouterr().out
        assert ("two sequences" in out and "30/30" in out) if progress else out == ""
