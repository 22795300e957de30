import jax
import jax.numpy as jnp
import numpy as np
import pytest

from didsim._batches import as_runs, batched

BATCH = (2, 3)


@pytest.mark.parametrize("own", [(), (3,), (1,), (2, 1), (1, 3), (2, 3)])
@pytest.mark.parametrize("event", [(), (4,), (4, 5)])
def test_each_run_has_the_entry_of_its_index(own: tuple[int, ...], event: tuple[int, ...]) -> None:
    array = np.random.default_rng(0).normal(size=(*own, *event))
    runs = as_runs(array, BATCH, len(event))
    assert runs.shape == (6, *event)
    for k, index in enumerate((i, j) for i in range(2) for j in range(3)):
        # An axis of length one has the same entry for all indices; missing axes are the first ones.
        entry = tuple(i if n > 1 else 0 for i, n in zip(index[2 - len(own) :], own, strict=True))
        np.testing.assert_array_equal(runs[k], array[entry])
    assert batched(runs, BATCH).shape == (*BATCH, *event)
    np.testing.assert_array_equal(batched(runs, BATCH), np.broadcast_to(array, (*BATCH, *event)))


def test_no_batch_axes_are_one_run() -> None:
    assert as_runs(jnp.arange(4.0), (), 1).shape == (1, 4)
    assert batched(jnp.arange(4.0)[None], ()).shape == (4,)


def test_a_batch_without_entries_has_no_runs() -> None:
    assert as_runs(jnp.ones(4), (0, 3), 1).shape == (0, 4)
    assert batched(jnp.ones((0, 4)), (0, 3)).shape == (0, 3, 4)


def test_trees_keep_their_structure_and_dtypes() -> None:
    keys = jax.random.split(jax.random.key(0), 3)
    tree = {"number": 0.5, "counts": np.arange(3, dtype=np.int32), "keys": keys, "nothing": None}
    runs = as_runs(tree, BATCH, 0)
    assert runs["nothing"] is None
    assert runs["number"].weak_type
    assert runs["counts"].dtype == jnp.int32
    assert runs["counts"].tolist() == [0, 1, 2, 0, 1, 2]
    data = np.asarray(jax.random.key_data(keys))
    np.testing.assert_array_equal(jax.random.key_data(runs["keys"]), np.concatenate([data, data]))


def test_axes_that_do_not_broadcast_are_an_error() -> None:
    with pytest.raises(ValueError, match="broadcast"):
        as_runs(jnp.ones((4, 5)), BATCH, 1)
