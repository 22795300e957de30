"""Rejected responses that break the power law in five ways: the error, what predicts it, and a test for it.

The claim, stated before any run: the worse three policies obey the power law `reference/rejected ∝
(target/reference)^beta`, the further DPO ends from the target; the spread of the exponent over pairs and the
share of pairs out of log-margin order should tell how far. (Won et al., arXiv 2505.23761, on the law and the
order.) Chosen responses come from the reference. Rejected ones depart from the optimal distribution by

- noise in log space, `optimal · exp(noise · z)`;
- a wrong temperature, `optimal^exponent`;
- the worst of `n` draws from the reference, by `log(target/reference)`;
- a mixture of the optimal distribution with the uniform one;
- dependent pairs: both marginals are right, but a chosen and a rejected response have traits `t` that go
  together, `joint(i, j) ∝ reference(i) optimal(j) exp(coupling · t_i t_j) a_i b_j`, where Sinkhorn's
  iteration finds the `a` and `b` that keep the marginals. The correlation of the two traits is stated.

**The limit of dependent pairs (derived here).** `exp(coupling · t_i t_j)` is the same for `(i, j)` and
`(j, i)`, so it cancels in the odds `joint(i, j)/joint(j, i)`. Preferences still are those of a reward,
`log(reference a) − log(optimal b)`, and DPO ends at `reference · exp(reward/beta)`, normalised. Without `a`
and `b` nothing would be lost. (The check `symmetric_selection` of `didsim check` is this statement.)

**What the error is to second order (derived here).** Let `r` be the reward of the pairs, and
`e = r/beta − log(target/reference)`. DPO ends at `target · exp(e)`, normalised. For small `e` the JS
divergence to the target is `Var_target(e)/8`.

**A test from pairs.** Given reference and target, let `u = log(target/reference)`. Under the law with any
exponent `b`, of the pair `{i, j}` the response `i` is chosen with probability `σ(b (u_i − u_j))`. Let `b` be
the maximum of the likelihood, `S_y` the number of pairs that `y` won beyond expectation, and `L` the
Laplacian of the graph whose edges are pairs, of weight `σ (1 − σ)`. Rao's score test against every reward of
a Bradley–Terry model is `SᵀL⁺S`; under the law it tends to a χ² of `rank(L) − 1` degrees of freedom. Without
the target there is nothing to test: any reward obeys the law for some target.
"""

from functools import partial
from typing import Annotated, Any, ClassVar

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
import xarray as xr
from jaxtyping import Array
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import chi2, rankdata

import didsim
from didsim import plotting
from experiments.shared.configs import Count, Positive, SpaceConfig
from experiments.shared.wording import listed, number, share

DEPARTURES = ("noise", "temperature", "worst of n", "mixture", "dependent")
DIAGNOSTICS = {
    "spread": ("Spread of the exponent", "1"),
    "unordered": ("Share of pairs out of order", "1"),
    "residual": ("Residual of the law", "nats"),
    "of_marginals": ("Var$(e)$/8 by the marginals", "nats"),
    "of_odds": ("Var$(e)$/8 by the odds", "nats"),
}
ROWS = ("spread", "out of order", "residual", "Var, marginals", "Var, odds")
"""The diagnostics in the words of a narrow axis."""

_ROUNDING = 1e-9
"""Diagnostics and errors that differ by less count as equal."""

Five = Annotated[tuple[Positive, ...], msgspec.Meta(min_length=5, max_length=5)]


class Config(SpaceConfig, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of the experiment.

    Reference and target have random logits. Each departure has five levels. The test is run at the third one,
    and on pairs that obey the law: `repeats` datasets of each size in `pairs` for each seed.
    """

    least: ClassVar[int] = 2
    vocab_size: Count = 3
    max_length: Count = 3
    seeds: Count = 32
    beta: Positive = 0.5
    noises: Five = (0.05, 0.1, 0.2, 0.4, 0.8)
    exponents: Five = (0.9, 0.8, 0.6, 0.4, 0.2)
    draws: Five = (1.5, 2.0, 4.0, 8.0, 16.0)
    weights: Annotated[
        tuple[Annotated[float, msgspec.Meta(gt=0, le=1)], ...], msgspec.Meta(min_length=5, max_length=5)
    ] = (0.05, 0.1, 0.2, 0.4, 0.8)
    couplings: Five = (0.1, 0.2, 0.4, 0.8, 1.6)
    pairs: Annotated[tuple[Count, ...], msgspec.Meta(min_length=1)] = (100, 400, 2000, 10000)
    repeats: Count = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.draws) < 1:
            raise ValueError(f"`draws` must be 1 or more; got {self.draws}")

    def numbers(self) -> dict[str, int]:
        """Tables of all pairs, for each instance and for each dataset of one size."""
        square = self.make_space().size ** 2
        return {"seeds": 60 * self.seeds * square, "repeats": 60 * self.repeats * self.seeds * square}


def run(config: Config, progress: bool = False) -> xr.Dataset:
    """Find the error and the diagnostics of every departure, and run the test."""
    del progress  # All of it takes a few seconds.
    size = config.make_space().size
    keys = jax.random.split(jax.random.key(config.seed), (4, config.seeds))
    reference, target = didsim.normal_logits(keys[:2], size)
    optimal = didsim.optimal_rejected(reference, target, config.beta)
    rejected = _rejected(config, keys[2], reference, target, optimal)
    traits = jax.vmap(lambda key: jax.random.normal(key, (size,)))(keys[3])
    tables, correlation = _dependent(jnp.asarray(config.couplings)[:, None], reference, optimal, traits)
    joint = jnp.concatenate([reference[:, :, None] + rejected[..., None, :], tables[None]])
    rejected = jnp.concatenate([rejected, jnp.broadcast_to(optimal, (1, 5, *optimal.shape))])
    reward = _reward(joint)
    error = didsim.js(jax.nn.log_softmax(reference + reward / config.beta), target)
    measured = _diagnostics(config.beta, reference, target, rejected, reward)
    found = {name: np.asarray(measured[name]) for name in DIAGNOSTICS}
    cells = ("departure", "level", "seed")
    nats = {"units": "nats"}
    data: dict[str, Any] = {"js": (cells, np.asarray(error), {"long_name": "JS to the target", **nats})}
    for name, values in found.items():
        words, units = DIAGNOSTICS[name]
        about = {"long_name": words, "units": units}
        data[name] = (cells, np.asarray(values), about)
    ranks = _rank_correlations(np.asarray(error), found)
    data["rank_correlation"] = (
        ("part", "diagnostic", "seed"),
        ranks,
        {"long_name": "Rank correlation with the error", "units": "1"},
    )
    data["trait_correlation"] = (
        ("level", "seed"),
        np.asarray(correlation),
        {"long_name": "Correlation of the traits of a pair", "units": "1"},
    )
    independent = reference[:, :, None] + optimal[:, None, :]
    tested = np.asarray(jnp.concatenate([independent[None], joint[:, 2]]))
    data["rejects"] = (
        ("data", "pairs", "seed"),
        _rejections(config, tested, np.asarray(target - reference)),
        {"long_name": "Share of datasets on which the law is rejected at 5%", "units": "1"},
    )
    return xr.Dataset(
        data,
        {
            "departure": list(DEPARTURES),
            "diagnostic": list(DIAGNOSTICS),
            "part": ["all", "independent"],
            "data": ["the law", *DEPARTURES],
            "pairs": ("pairs", np.sort(config.pairs), {"long_name": "Pairs", "units": "1"}),
            "seed": np.arange(config.seeds),
        },
    )


@partial(jax.jit, static_argnums=0)
def _rejected(config: Config, keys: Array, reference: Array, target: Array, optimal: Array) -> Array:
    """The distributions of the four departures with independent pairs, `[4, 5, seeds, sequences]`."""

    def noisy(noise: Array) -> Array:
        one = didsim.REJECTED["perturbed"]
        return jax.vmap(lambda key, r, t: one(key, r, t, config.beta, noise))(keys, reference, target)

    def worst(n: Array) -> Array:
        return didsim.worst_of_n(reference, target - reference, n)

    return jnp.stack(
        [
            jax.vmap(noisy)(jnp.asarray(config.noises)),
            didsim.temper(optimal, jnp.asarray(config.exponents)[:, None]),
            jax.vmap(worst)(jnp.asarray(config.draws)),
            didsim.mixture(
                jnp.full_like(optimal, -jnp.log(optimal.shape[-1])),
                optimal,
                jnp.asarray(config.weights)[:, None],
            ),
        ]
    )


@jax.jit
def _dependent(coupling: Array, chosen: Array, rejected: Array, trait: Array) -> tuple[Array, Array]:
    """Log-tables of dependent pairs with the given marginals, and the correlation of the traits."""
    kernel = coupling[..., None, None] * trait[:, :, None] * trait[:, None, :]

    def scale(_: int, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        left = chosen - jax.nn.logsumexp(kernel + ends[1][..., None, :], axis=-1)
        return left, rejected - jax.nn.logsumexp(kernel + left[..., :, None], axis=-2)

    start = jnp.zeros((*coupling.shape[:-1], *chosen.shape)), jnp.zeros((*coupling.shape[:-1], *chosen.shape))
    left, right = jax.lax.fori_loop(0, 500, scale, start)
    tables = kernel + left[..., :, None] + right[..., None, :]

    def standard(p: Array) -> Array:
        centred = trait - didsim.expectation(p, trait)[:, None]
        return centred / jnp.sqrt(didsim.expectation(p, centred**2))[:, None]

    one, other = standard(chosen), standard(rejected)
    return tables, jnp.einsum("lsij,si,sj->ls", jnp.exp(tables), one, other)


def _reward(joint: Array) -> Array:
    """The reward whose Bradley–Terry model the pairs follow: the mean of log-odds against all responses."""
    return jnp.mean(joint - jnp.swapaxes(joint, -1, -2), axis=-1)


@partial(jax.jit, static_argnums=0)
def _diagnostics(
    beta: float, reference: Array, target: Array, rejected: Array, reward: Array
) -> dict[str, Array]:
    """What could predict the error. All but the last see the marginals alone."""
    first, second = np.triu_indices(reference.shape[-1], k=1)
    exponents = didsim.pair_exponent(target, reference, rejected, first, second)
    low, high = jnp.quantile(exponents, jnp.array([0.25, 0.75]), axis=-1)

    def predicted(reward: Array) -> Array:
        off = reward / beta - (target - reference)
        return didsim.expectation(target, (off - didsim.expectation(target, off)[..., None]) ** 2) / 8

    return {
        "spread": high - low,
        "unordered": 1 - didsim.check_order(target, reference, rejected).fraction,
        "residual": didsim.fit_power_law(target, reference, rejected).residual,
        "of_marginals": predicted(reference - rejected),
        "of_odds": predicted(reward),
    }


def _rank_correlations(error: np.ndarray, found: dict[str, np.ndarray]) -> np.ndarray:
    """Spearman's correlation over all departures and levels of a seed: of all, and of independent pairs.

    It is NaN for a diagnostic that is the same everywhere.
    """

    def ranks(values: np.ndarray) -> np.ndarray:
        ranked = rankdata(np.round(values / _ROUNDING).reshape(-1, values.shape[-1]), axis=0)
        centred = ranked - ranked.mean(axis=0)
        sizes = np.linalg.norm(centred, axis=0)
        return np.asarray(centred / np.where(sizes > 0, sizes, np.nan))

    return np.array(
        [
            [(ranks(error[part]) * ranks(values[part])).sum(axis=0) for values in found.values()]
            for part in (slice(None), slice(4))
        ]
    )


def _rejections(config: Config, tables: np.ndarray, u: np.ndarray) -> np.ndarray:
    """The share of datasets that reject the law at 5%, for each kind of pairs, size and seed."""
    random = np.random.default_rng(config.seed)
    kinds, seeds, size, _ = tables.shape
    shares = np.exp(tables).reshape(kinds, seeds, 1, size**2)
    shares = shares / shares.sum(axis=-1, keepdims=True)
    rates = []
    for pairs in np.sort(config.pairs):
        wins = random.multinomial(pairs, np.broadcast_to(shares, (kinds, seeds, config.repeats, size**2)))
        statistic, rank = score_test(jnp.asarray(wins.reshape(-1, seeds, config.repeats, size, size)), u)
        rates.append((chi2.sf(statistic, np.maximum(rank - 1, 1)) < 0.05).mean(axis=-1))
    return np.stack(rates, axis=1)


@jax.jit
def score_test(wins: Array, u: Array) -> tuple[Array, Array]:
    """The statistic of the test of the module's docstring, and the rank of `L`.

    Args:
        wins: how often `i` was chosen over `j`, `[kinds, seeds, repeats, sequences, sequences]`.
        u: `log(target/reference)`, `[seeds, sequences]`.
    """
    distance = (u[:, :, None] - u[:, None, :])[:, None]
    wins = wins.astype(u.dtype)
    met = wins + jnp.swapaxes(wins, -1, -2)

    def newton(_: int, b: Array) -> Array:
        p = jax.nn.sigmoid(b[..., None, None] * distance)
        slope = jnp.sum((wins - met * p) * distance, axis=(-2, -1)) / 2
        bend = jnp.sum(met * p * (1 - p) * distance**2, axis=(-2, -1)) / 2
        return b + jnp.clip(slope / jnp.where(bend > 0, bend, 1), -1, 1)

    b = jax.lax.fori_loop(0, 30, newton, jnp.zeros(wins.shape[:-2]))
    p = jax.nn.sigmoid(b[..., None, None] * distance)
    beyond = jnp.sum(wins - met * p, axis=-1)
    weights = met * p * (1 - p) * (1 - jnp.eye(u.shape[-1]))
    values, vectors = jnp.linalg.eigh(jnp.eye(u.shape[-1]) * jnp.sum(weights, axis=-1)[..., None] - weights)
    kept = values > 1e-9 * values[..., -1:]
    along = jnp.einsum("...yk,...y->...k", vectors, beyond)
    return jnp.sum(jnp.where(kept, along**2 / jnp.where(kept, values, 1), 0), axis=-1), kept.sum(axis=-1)


def finding(dataset: xr.Dataset) -> str:
    """The errors of all departures, which diagnostic ranks them best, and what the test sees."""
    middle = dataset["js"].median("seed")
    errors = listed(
        f"{number(float(middle.sel(departure=name)[0]))} to {number(float(middle.sel(departure=name)[-1]))} "
        f"({name})"
        for name in DEPARTURES
    )
    ranks = dataset["rank_correlation"].median("seed")

    def told(part: str) -> str:
        order = ranks.sel(part=part).sortby(ranks.sel(part=part), ascending=False)
        return listed(
            f"{number(float(one))} (`{one['diagnostic'].item()}`)"
            for one in (order.isel(diagnostic=place) for place in range(order.sizes["diagnostic"]))
        )

    blind = float(dataset["residual"].sel(departure="dependent").max())
    most = float(middle.sel(departure="dependent").max())
    correlation = float(dataset["trait_correlation"].isel(level=-1).median())
    rejects = dataset["rejects"].mean("seed")
    law = rejects.sel(data="the law")
    few, many = (int(dataset["pairs"][place]) for place in (0, -1))
    power = listed(f"{share(float(rejects.sel(data=name, pairs=many)))} ({name})" for name in DEPARTURES)
    return (
        f"From the mildest level to the strongest, the median error in nats goes from {errors}. The rank "
        f"correlation with the error, over all departures, is {told('all')}; without dependent pairs it is "
        f"{told('independent')}. Marginals cannot see dependent pairs: they leave a residual of at most "
        f"{number(blind)} nats, while the median error reaches {number(most)} nats (traits then correlate by "
        f"{number(correlation)}). The test at 5% rejects pairs that obey the law in "
        f"{share(float(law.min()))} to {share(float(law.max()))} of datasets, by their size of {few:,} to "
        f"{many:,}. At the third level and {many:,} pairs it rejects {power}."
    )


def plot(dataset: xr.Dataset) -> Figure:
    """The error against two diagnostics, rank correlations, and the rates of the test."""
    with plotting.style():
        figure, axes = plotting.new_figure(2, 2, height=5.2)
        (spread, predicted), (ranks, test) = axes
        for ax, name in ((spread, "spread"), (predicted, "of_odds")):
            _scatter(ax, dataset, name)
        ends, heights = predicted.get_xlim(), predicted.get_ylim()
        predicted.plot(ends, ends, color="black", label="equal", zorder=3, **plotting.EXACT)
        predicted.set(xlim=ends, ylim=heights)
        predicted.legend(loc="lower right")
        spread.plot([], [], "<", color="0.3", markersize=3.5, label="zero")
        spread.legend(loc="lower right")
        shown = dataset["rank_correlation"]
        count = len(DIAGNOSTICS)
        for part, shift, face in (("all", -0.15, plotting.COLORS[0]), ("independent", 0.15, "white")):
            plotting.plot_intervals(
                ranks,
                shown.sel(part=part),
                "diagnostic",
                marks=[{"markerfacecolor": face}] * count,
                places=[place + shift for place in range(count)],
            )
            words = "all departures" if part == "all" else "independent pairs"
            ranks.plot([], [], "o", color=plotting.COLORS[0], mfc=face, markersize=3.6, label=words)
        ranks.set_yticks(range(count), ROWS)
        ranks.set_xlim(-0.55, 1.05)
        ranks.legend(loc="lower left", handletextpad=0.1)
        looks = plotting.looks_of(list(DEPARTURES))
        for name in DEPARTURES:
            rates = dataset["rejects"].sel(data=name).mean("seed")
            test.plot(
                dataset["pairs"], rates, marker="o", markersize=2.5, color=looks[name].color, label=name
            )
        law = dataset["rejects"].sel(data="the law").mean("seed")
        test.plot(dataset["pairs"], law, ":", marker="s", markersize=2.5, color="black", label="the law")
        test.axhline(0.05, color="black", label="5%", **plotting.EXACT)
        test.set_xscale("log")
        test.set_ylim(-0.03, 1.03)
        test.yaxis.set_major_formatter(lambda part, _: f"{100 * part:.0f}%")
        plotting.label_axes(test, x=dataset["pairs"], y="Datasets that reject the law")
        titles = ("a common diagnostic", "second order, of odds", "ranks of the error", "test, third level")
        for ax, letter, title in zip(axes.flat, "abcd", titles, strict=True):
            ax.set_title(f"({letter}) {title}")
        handles, words = test.get_legend_handles_labels()
        figure.legend(handles, words, loc="outside lower center", ncols=4)
    return figure


def _scatter(ax: Axes, dataset: xr.Dataset, name: str) -> None:
    """The error against a diagnostic, a dot for each level and seed; a triangle at the edge for a zero."""
    ax.set_xscale("log")
    ax.set_yscale("log")
    for departure, look in plotting.looks_of(list(DEPARTURES)).items():
        one = dataset.sel(departure=departure)
        x, y = one[name].values.ravel(), one["js"].values.ravel()
        seen = x > _ROUNDING
        options: dict[str, Any] = {"linestyle": "", "color": look.color, "markeredgewidth": 0, "alpha": 0.5}
        ax.plot(x[seen], y[seen], marker="o", markersize=2.4, **options)
        if not seen.all():
            edge: Any = {"transform": ax.get_yaxis_transform(), "clip_on": False}
            ax.plot(np.full((~seen).sum(), 0.01), y[~seen], marker="<", markersize=3.5, **options, **edge)
    plotting.label_axes(ax, x=dataset[name], y=dataset["js"])
