"""How many pairs DPO needs: the 1/n law, datasets without a minimiser, and early stopping against ridge."""

from typing import Annotated, Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import msgspec
import numpy as np
import xarray as xr
from jaxtyping import Array, Float, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.progress import track

import didsim
from didsim import plotting
from didsim.estimation.model import fit
from experiments.shared.configs import Count, NonNegative, Positive, SpaceConfig
from experiments.shared.finite import has_minimiser
from experiments.shared.wording import listed, number, share

Counts = Annotated[tuple[Count, ...], msgspec.Meta(min_length=1)]
RULES = ("early stopping", "ridge")
FULL_SHARE = 0.5
"""The divergence is drawn where at least this share of the datasets has a minimiser."""


class Config(SpaceConfig, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of the experiment.

    Both sequences of a pair are drawn from `reference^exponent`, normalised, until they differ. Labels follow
    the reward `beta · log(target/reference)`. `pairs` are the sizes of the datasets. Those in `fitted`, drawn
    with the exponent `along`, are also fitted by a gradient flow that stops, and with a ridge penalty.
    """

    least: ClassVar[int] = 2
    max_length: Count = 3
    seeds: Count = 32
    beta: Positive = 0.5
    exponents: Annotated[tuple[NonNegative, ...], msgspec.Meta(min_length=1, max_length=4)] = (0.0, 1.0, 2.0)
    pairs: Counts = (100, 300, 1_000, 3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000)
    fitted: Annotated[tuple[Count, ...], msgspec.Meta(min_length=1, max_length=4)] = (100, 1_000, 10_000)
    along: NonNegative = 1.0
    times: Annotated[int, msgspec.Meta(ge=2, le=1000)] = 19

    def numbers(self) -> dict[str, int]:
        """Counts of all pairs in each dataset, and the policies along the paths."""
        size = self.make_space().size
        datasets = self.seeds * len(self.exponents) * len(self.pairs)
        return {
            "vocab_size": 20 * size**2,
            "seeds": 10 * datasets * size**2 + 10 * self.seeds * size**2,
            "times": 4 * len(self.fitted) * self.seeds * self.times * size,
        }


class _Population(NamedTuple):
    """Where datasets come from, for each seed. `first` and `second` are the sequences of every pair.

    Attributes:
        first: index of one sequence of each pair.
        second: index of the other.
        drawn: the probability that a pair is drawn.
        wins: the probability that its first sequence wins.
    """

    first: Int[np.ndarray, " pairs"]
    second: Int[np.ndarray, " pairs"]
    drawn: Float[np.ndarray, "seeds pairs"]
    wins: Float[np.ndarray, "seeds pairs"]

    def sample(self, random: np.random.Generator, size: int) -> Int[np.ndarray, "seeds two pairs"]:
        """How often the first and the second sequence win among `size` independent pairs.

        These counts are multinomial, so that a million pairs take as long as a hundred.
        """
        outcomes = np.concatenate([self.drawn * self.wins, self.drawn * (1 - self.wins)], axis=-1)
        counts = random.multinomial(size, outcomes / outcomes.sum(axis=-1, keepdims=True))
        return counts.reshape(len(counts), 2, -1)

    def data(self, counts: Int[np.ndarray, "*batch two pairs"]) -> didsim.Pairs:
        """The same data as weighted pairs, whose labels are the shares of wins."""
        won, total = counts[..., 0, :], counts.sum(axis=-2)
        first, second = (np.broadcast_to(one, total.shape) for one in (self.first, self.second))
        labels = np.where(total > 0, won / np.maximum(total, 1), 0.5)
        return didsim.Pairs(first, second, total.astype(float), win_probs=labels)


def run(config: Config, progress: bool = False) -> xr.Dataset:
    """Draw datasets, solve those that have a minimiser, and follow both kinds of regularisation."""
    size = config.make_space().size
    keys = jax.random.split(jax.random.key(config.seed), (2, config.seeds))
    reference = didsim.normal_logits(keys[0], size)
    target = didsim.bayes_update(reference, didsim.normal_logits(keys[1], size))
    random = np.random.default_rng(config.seed)
    shape = (len(config.exponents), len(config.pairs), config.seeds)
    found, js = np.zeros(shape, bool), np.full(shape, np.nan)
    asymptote = np.empty((len(config.exponents), config.seeds))
    for place, exponent in enumerate(
        track(config.exponents, "finite_data: minimisers", disable=not progress)
    ):
        population = _population(config, reference, target, exponent)
        asymptote[place] = _asymptote(config, population, target)
        counts = np.stack([population.sample(random, pairs) for pairs in config.pairs])
        data = population.data(counts.reshape(-1, *counts.shape[2:]))
        found[place] = has_minimiser(data, size).reshape(shape[1:])
        js[place] = _divergence(config, population, counts, reference, target, found[place])
    dims, nats = ("exponent", "pairs", "seed"), {"units": "nats"}
    dataset = xr.Dataset(
        {
            "found": (dims, found, {"long_name": "Whether there is a minimiser", "units": "1"}),
            "js": (dims, js, {"long_name": "JS(minimiser, target)", **nats}),
            "asymptote": (
                ("exponent", "seed"),
                asymptote,
                {"long_name": "Limit of n · JS(minimiser, target)", **nats},
            ),
            "js_reference": (
                ("seed",),
                np.asarray(didsim.js(reference, target)),
                {"long_name": "JS(reference, target)", **nats},
            ),
        },
        coords={"exponent": list(config.exponents), "pairs": list(config.pairs)},
    )
    return dataset.merge(_regularised(config, reference, target, random, progress))


def _population(config: Config, reference: Array, target: Array, exponent: float) -> _Population:
    sampler = np.exp(np.asarray(didsim.temper(reference, exponent)))
    reward = config.beta * np.asarray(target - reference)
    first, second = np.triu_indices(sampler.shape[-1], 1)
    drawn = sampler[:, first] * sampler[:, second]
    wins = np.asarray(jax.nn.sigmoid(reward[:, first] - reward[:, second]))
    return _Population(first, second, drawn / drawn.sum(axis=-1, keepdims=True), wins)


def _asymptote(config: Config, population: _Population, target: Array) -> Float[np.ndarray, " seeds"]:
    """The limit of `n · E JS(minimiser, target)` for each seed.

    The minimiser's rewards are those of maximum likelihood. So they are nearly normal, with covariance `C/n`,
    where `C` is the pseudo-inverse of the Fisher information of one pair,

        I = Σ_ij drawn(i, j) σ(Δr) σ(−Δr) (e_i − e_j)(e_i − e_j)ᵀ.

    As `π ∝ reference · exp(r/beta)`, an error `δ` of the rewards changes `log π_k` by `(δ_k − π·δ)/beta`. The
    divergence of near policies is `JS = Σ_k π_k (change of log π_k)² / 8`. With `δ` normal its mean is

        (Σ_k π_k C_kk − πᵀ C π) / (8 beta² n).

    (Derived here.)
    """
    weight = population.drawn * population.wins * (1 - population.wins)
    probs = np.exp(np.asarray(target))
    between = np.zeros((*probs.shape, probs.shape[-1]))
    between[:, population.first, population.second] = weight
    between += np.swapaxes(between, -1, -2)
    information = between.sum(axis=-1)[..., None] * np.eye(probs.shape[-1]) - between
    covariance = np.linalg.pinv(information, hermitian=True)
    own = np.einsum("sk,skk->s", probs, covariance)
    mean = np.einsum("sk,skl,sl->s", probs, covariance, probs)
    return np.asarray((own - mean) / (8 * config.beta**2))


def _divergence(
    config: Config,
    population: _Population,
    counts: np.ndarray,
    reference: Array,
    target: Array,
    found: np.ndarray,
) -> Float[np.ndarray, "sizes seeds"]:
    """The divergence of the minimiser from the target; NaN where there is none."""
    js = np.full(found.shape, np.nan)
    if found.any():
        seeds = np.nonzero(found)[1]
        log_probs = didsim.fixed_point(
            didsim.dpo(config.beta), reference[seeds], population.data(counts[found])
        )
        js[found] = didsim.js(log_probs, target[seeds])
    return js


def _regularised(
    config: Config, reference: Array, target: Array, random: np.random.Generator, progress: bool
) -> xr.Dataset:
    """The divergence along early stopping and along ridge, and where held-out pairs would stop.

    A flow that stops at the time `t` compares with the penalty `n/(beta² t) · ‖r‖²/2` on the log-likelihood
    of `n` pairs (see `didsim.gradient_flow`). So both have the axis `t`. A fourth as many pairs are held out.
    """
    population = _population(config, reference, target, config.along)
    objective = didsim.dpo(config.beta)
    times = np.logspace(0.5, 5, config.times)
    shape = (len(RULES), len(config.fitted), config.seeds)
    js, chosen = np.empty((*shape, len(times))), np.empty(shape)
    for size, pairs in enumerate(track(config.fitted, "finite_data: paths", disable=not progress)):
        fitted, kept = population.sample(random, pairs), population.sample(random, max(pairs // 4, 1))
        ridge = _ridge(config, population, fitted, pairs, reference, times)
        for seed in range(config.seeds):
            data, judges = population.data(fitted[seed]), population.data(kept[seed])
            flow = didsim.gradient_flow(objective, reference[seed], data, times)
            for rule, path in enumerate((flow, ridge[:, seed])):
                js[rule, size, seed] = didsim.js(path, target[seed])
                loss = didsim.held_out(objective, path, reference[seed], judges).log_loss
                chosen[rule, size, seed] = js[rule, size, seed, loss.argmin()]
    dims, nats = ("rule", "fitted", "seed"), {"units": "nats"}
    return xr.Dataset(
        {
            "js_path": ((*dims, "time"), js, {"long_name": "JS(regularised, target)", **nats}),
            "js_chosen": (dims, chosen, {"long_name": "JS(chosen by held-out pairs, target)", **nats}),
        },
        coords={
            "rule": list(RULES),
            "fitted": list(config.fitted),
            "time": ("time", times, {"long_name": "Stopping time, or pairs/(β² · ridge)", "units": "1"}),
        },
    )


def _ridge(
    config: Config,
    population: _Population,
    counts: Int[np.ndarray, "seeds two pairs"],
    pairs: int,
    reference: Array,
    times: np.ndarray,
) -> Float[Array, "times seeds sequences"]:
    """The policies whose rewards have the ridge penalty of each time.

    Datasets are weightings of the same wins, and are fitted together, as `didsim.bootstrap` fits resamples.
    """
    winners = np.concatenate([population.first, population.second])
    losers = np.concatenate([population.second, population.first])
    model = didsim.reward_model(didsim.Pairs(winners, losers), ridge=1.0).model
    columns = jnp.asarray(counts.reshape(len(counts), -1).T, float)
    start, policies = jnp.zeros((reference.shape[-1], len(counts))), []
    for time in times:
        strength = jnp.asarray(pairs / (config.beta**2 * time))
        found = fit(eqx.tree_at(lambda one: one.ridge, model, strength), start, columns)
        if not bool(found.converged.all()):
            raise FloatingPointError(f"no fit was found at the ridge {float(strength):.3g}")
        start = found.z
        policies.append(didsim.kl_optimum(found.z.T, reference, config.beta))
    return jnp.stack(policies)


def finding(dataset: xr.Dataset) -> str:
    """When there is a minimiser, the measured law against the exact one, and what regularisation gains."""
    laws = {exponent: _law(dataset.sel(exponent=exponent)) for exponent in dataset["exponent"].values}
    known = {exponent: law for exponent, law in laws.items() if law is not None}
    most = int(dataset["pairs"].max())
    needed = listed(
        f"{f'over {most:,}' if law is None else f'{law.needed:,}'} for {_sampler(exponent)}"
        for exponent, law in laws.items()
    )
    text = (
        "How many pairs it takes until every dataset has a minimiser depends on what pairs are drawn from: "
        f"{needed}. "
    )
    if known:
        slopes, ratios = (
            listed(f"{value:.2f} for {_sampler(exponent)}".replace("-", "−") for exponent, value in values)
            for values in (
                [(exponent, law.slope) for exponent, law in known.items()],
                [(exponent, law.ratio) for exponent, law in known.items()],
            )
        )
        text += (
            "From there on its divergence from the target is a power of the number of pairs, with exponent "
            f"{slopes}. At {most:,} pairs it is, in the mean, this multiple of the exact asymptote: "
            f"{ratios}. "
        )
    sizes = listed(f"{size:,}" for size in dataset["fitted"].values)
    stopped, ridge = (
        listed(number(float(one)) for one in dataset["js_chosen"].sel(rule=rule).median("seed"))
        for rule in RULES
    )
    return (
        f"{text}On {sizes} pairs early stopping, chosen by held-out pairs, ends {stopped} nats from the "
        f"target, and ridge {ridge}; the reference is {number(float(dataset['js_reference'].median()))} nats "
        f"away. At equal times both differ by {share(float(_difference(dataset['js_path'])))}, in the median."
    )


class _Law(NamedTuple):
    """How the divergence falls where every dataset has a minimiser.

    Attributes:
        needed: the least number of pairs from which every dataset has one.
        slope: the exponent of the power of the number of pairs that the median divergence follows.
        ratio: the divergence with the most pairs, as a multiple of the asymptote, in the mean.
    """

    needed: int
    slope: float
    ratio: float


def _law(one: xr.Dataset) -> _Law | None:
    """The law of one sampler; None if fewer than two sizes have a minimiser in every dataset."""
    one = one.sortby("pairs")
    first = len(one["pairs"]) - int(one["found"].all("seed")[::-1].cumprod("pairs").sum())
    sizes, complete = one["pairs"].values[first:], one["js"][first:]
    if len(sizes) < 2:
        return None
    slope, _ = np.polyfit(np.log(sizes), np.log(complete.median("seed")), 1)
    ratio = (complete[-1] * sizes[-1] / one["asymptote"]).mean("seed")
    return _Law(int(sizes[0]), float(slope), float(ratio))


def _difference(js: xr.DataArray) -> xr.DataArray:
    """How far the divergences along both paths are apart, as a share of their mean, in the median."""
    return (abs(js.diff("rule").isel(rule=0)) / js.mean("rule")).median()


def _sampler(exponent: float) -> str:
    """What pairs are drawn from, in words."""
    known = {0.0: "the uniform distribution", 1.0: "the reference", 2.0: "the reference squared"}
    return known.get(exponent, f"the reference to the power {exponent:g}")


def plot(dataset: xr.Dataset) -> Figure:
    """The divergence against the number of pairs, the share without a minimiser, and regularised paths."""
    with plotting.style():
        figure, axes = plotting.new_figure(2, 2, height=4.4)
        (law, none), (path, chosen) = axes
        _plot_law(law, none, dataset)
        _plot_paths(path, chosen, dataset)
        for ax, letter in zip(axes.flat, "abcd", strict=True):
            ax.set_title(f"({letter}) {ax.get_title('left')}")
    return figure


def _plot_law(law: Axes, none: Axes, dataset: xr.Dataset) -> None:
    dots: dict[str, Any] = {"marker": "o", "markersize": 2.5}
    for exponent, look in plotting.looks_of(dataset["exponent"].values).items():
        one = dataset.sel(exponent=exponent)
        found = one["found"].mean("seed")
        label = _sampler(exponent).removeprefix("the ").removesuffix(" distribution")
        none.plot(one["pairs"], 1 - found, color=look.color, **dots)
        law.plot([], [], color=look.color, label=label, **dots)
        drawn = one["js"].isel(pairs=np.flatnonzero(found >= FULL_SHARE))
        if drawn.sizes["pairs"]:
            plotting.plot_band(law, drawn, "pairs", color=look.color, **dots)
            expected = float(one["asymptote"].median("seed")) / drawn["pairs"]
            law.plot(drawn["pairs"], expected, color="black", zorder=3, **plotting.EXACT)
    law.plot([], [], color="black", label="exact asymptote", **plotting.EXACT)
    for ax, title, label in (
        (law, "the minimiser", "JS to the target (nats)"),
        (none, "datasets without one", "Share"),
    ):
        ax.set_xscale("log")
        ax.set_xlim(float(dataset["pairs"].min()) / 1.4, float(dataset["pairs"].max()) * 1.4)
        ax.set_title(title)
        plotting.label_axes(ax, x="Pairs", y=label)
    law.set_yscale("log")
    law.legend(loc="lower left", title="pairs from", title_fontsize=7, alignment="left")
    none.set_ylim(-0.04, 1.04)
    none.yaxis.set_major_formatter(lambda part, _: f"{100 * part:.0f}%")


def _plot_paths(path: Axes, chosen: Axes, dataset: xr.Dataset) -> None:
    marks = {RULES[0]: ("o", 0.87), RULES[1]: ("s", 1.15)}
    for size, look in plotting.looks_of(dataset["fitted"].values).items():
        one = dataset["js_path"].sel(fitted=size)
        options: dict[str, Any] = {"color": look.color}
        plotting.plot_band(path, one.sel(rule=RULES[0]), "time", label=f"{size:,} pairs", **options)
        path.plot(one["time"], one.sel(rule=RULES[1]).median("seed"), linestyle=":", **options)
        for rule, (mark, shift) in marks.items():
            low, middle, high = (
                dataset["js_chosen"].sel(fitted=size, rule=rule).quantile([0.025, 0.5, 0.975], "seed")
            )
            ends = [[middle - low], [high - middle]]
            face = "white" if mark == "s" else look.color
            chosen.errorbar(shift * size, middle, ends, fmt=mark, markersize=4, mfc=face, **options)
    for (rule, (mark, _)), line in zip(marks.items(), ("-", ":"), strict=True):
        path.plot([], [], color="black", linestyle=line, label=rule)
        face = "white" if mark == "s" else "black"
        chosen.plot([], [], mark, color="black", mfc=face, markersize=4, label=rule)
    chosen.axhline(float(dataset["js_reference"].median()), color="black", linestyle=":", label="reference")
    for ax, title in ((path, "along regularisation"), (chosen, "chosen by held-out pairs")):
        ax.set_xscale("log")
        ax.set_yscale("log")
        ax.set_title(title)
        bottom, top = ax.get_ylim()
        ax.set_ylim(bottom / (top / bottom) ** 0.25, top)
        ax.legend(loc="lower left")
        plotting.label_axes(ax, x=dataset["time"] if ax is path else "Pairs", y="JS to the target (nats)")
