import numpy as np
import pytest

from didsim.diagnostics.resampling import (
    MOST_CLUSTERS,
    interval,
    is_beyond,
    make_bootstrap,
    number,
    ratio,
)


def _means(values: np.ndarray, prompt: np.ndarray, resamples: int = 4000, seed: int = 0) -> np.ndarray:
    bootstrap = make_bootstrap(int(prompt.max()) + 1, resamples, seed)
    totals = bootstrap.totals(bootstrap.cluster[prompt], [("sum", values), ("count", None)])
    return ratio(totals["sum"], totals["count"])


def test_the_spread_is_that_of_drawing_whole_prompts() -> None:
    """Against prompts drawn with replacement, one by one, and against rows drawn alone."""
    random = np.random.default_rng(0)
    prompt = np.repeat(np.arange(60), random.integers(1, 8, 60))
    values = random.normal(size=60)[prompt] + 0.3 * random.normal(size=len(prompt))
    draws = _means(values, prompt)
    assert draws[0] == pytest.approx(values.mean())
    by_hand = []
    for _ in range(4000):
        drawn = random.integers(60, size=60)
        by_hand.append(np.mean(np.concatenate([values[prompt == one] for one in drawn])))
    assert draws[1:].std() == pytest.approx(np.std(by_hand), rel=0.06)
    rows_alone = values.std() / np.sqrt(len(values))
    assert draws[1:].std() > 1.5 * rows_alone


def test_a_ratio_of_sums_by_hand() -> None:
    prompt = np.array([0, 1, 1, 2])
    bootstrap = make_bootstrap(3, 50, 1)
    totals = bootstrap.totals(prompt, [("above", np.array([1.0, 2.0, 3.0, 4.0])), ("count", None)])
    for draw in range(51):
        counts = bootstrap.counts[:, draw]
        above = counts[0] * 1 + counts[1] * 5 + counts[2] * 4
        count = counts[0] + counts[1] * 2 + counts[2]
        assert totals["above"][draw] == above
        assert totals["count"][draw] == count
    assert np.isnan(ratio(totals["above"] * 0, totals["count"] * 0)).all()


def test_prompts_beyond_the_most_clusters_are_put_together_at_random() -> None:
    random = np.random.default_rng(0)
    prompts = 40_000
    assert make_bootstrap(MOST_CLUSTERS, 1, 0).cluster.tolist() == list(range(MOST_CLUSTERS))
    bootstrap = make_bootstrap(prompts, 1000, 0)
    assert len(bootstrap.counts) == MOST_CLUSTERS
    # Prompts in the order of two sources: drawn in turn, every cluster would have as many of each.
    values = np.where(np.arange(prompts) < prompts / 2, 0.0, 1.0) + random.normal(size=prompts)
    spread = _means(values, np.arange(prompts), 2000)[1:].std()
    assert spread == pytest.approx(values.std() / np.sqrt(prompts), rel=0.06)


@pytest.mark.parametrize("prompts", [10, 40])
def test_intervals_of_few_prompts_cover(prompts: int) -> None:
    random = np.random.default_rng(prompts)
    prompt = np.repeat(np.arange(prompts), 3)
    bootstrap = make_bootstrap(prompts, 1000, 0)
    covered = 0
    for _ in range(600):
        values = random.normal(size=prompts)[prompt] + random.normal(size=len(prompt))
        totals = bootstrap.totals(prompt, [("sum", values), ("count", None)])
        low, high = interval(ratio(totals["sum"], totals["count"]), prompts)
        covered += low <= 0 <= high
    assert 0.92 <= covered / 600 <= 0.98


def test_numbers_without_an_interval_say_why() -> None:
    draws = np.arange(101.0)
    few = number(draws, 7, "nats")
    assert (few.value, few.low, few.unit) == (0, None, "nats")
    assert few.no_interval == "it takes 8 prompts; got 7"
    gone = np.where(np.arange(101) % 10 == 1, np.nan, draws)
    assert number(gone, 50, "").no_interval == "too few rows to estimate it from"
    endless = np.where(np.arange(101) > 90, np.inf, draws)
    assert number(endless, 50, "").no_interval == "some resamples have no finite value"
    whole = number(draws, 50, "")
    assert whole.low is not None
    assert whole.high is not None
    assert 1 <= whole.low < 4
    assert 97 < whole.high <= 100


def test_the_largest_of_many_looks_is_rarely_beyond_chance() -> None:
    random = np.random.default_rng(0)
    looks, found = 40, 0
    for _ in range(400):
        noise = random.normal(size=(looks, 1)) + np.concatenate(
            [np.zeros((looks, 1)), random.normal(size=(looks, 200))], axis=1
        )
        top = int(np.argmax(noise[:, 0]))
        found += is_beyond(noise[top], looks)
    assert found / 400 < 0.06
    assert is_beyond(np.append(5.0, 5 + random.normal(size=200)), looks)
    assert not is_beyond(np.append(-5.0, -5 + random.normal(size=200)), looks)
