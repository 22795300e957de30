"""Where a policy goes that its reference nearly never went: the mass on rare and on unseen responses.

The claim: under the power law, the differential information decides how far a policy explores. The abstract
of the paper's second version (arXiv 2505.23761) names policy exploration as a consequence. We call a response
rare if it is among the least likely of the reference, which together have at most a share `rare` of its
mass. DPO's limits for all `β` lie on the geodesic `π_s ∝ reference · q^s`. Along it, the mass on any set `R`
has

    d log π_s(R)/ds = E[log q | R] − E[log q]    under π_s,

since it is a ratio of two sums of `reference · q^s`. (Derived here, and checked by `didsim.theory`.) So a
policy explores at first if and only if the information favours rare responses on average. How much DID
entropy tells is measured.

Limits say nothing of how soon they are reached. With finite pairs, a response in no pair keeps its logit, if
logits are free: unseen responses gain or lose together, and nothing is learned of one against another. Online
pairs are labelled by the reward `β log q`, and drawn from the policy itself or uniformly. All runs are of
gradient descent, which moves a response as fast as it is sampled; Adam would hide that.
"""

from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
import optax
import xarray as xr
from jaxtyping import Array, ArrayLike, Bool
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import spearmanr

import didsim
from didsim import plotting
from experiments.shared.configs import Count, NonNegative, Positive, SpaceConfig
from experiments.shared.wording import number, share, told_each

KINDS = {"reinforcing": 1.0, "neutral": 0.0, "smoothing": -1.0}
"""The sign with which the reference enters the differential information."""

REJECTED = {
    "optimal": "optimal",
    "uniform": "uniform",
    "tempered": "tempered",
    "worst_of_n": "worst of 2",
    "reversed": "reversed",
}
"""Rejected-sampling distributions, as the picture calls them."""

_KIND = "smoothing"
"""The kind of information that finite and online pairs, and all rejected distributions, are shown for."""

_TINY = 1e-12


class Config(SpaceConfig, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of the experiment.

    The reference has normal logits of the given `scale`. The information is
    `log q = ± strength · log reference + noise · z`, with a plus for a reinforcing target, a minus for a
    smoothing one, and without the first term for a neutral one. Limits are at `ratios` of the data's `beta`
    to the one in training. Datasets have `pairs` pairs. `worst_of_n` takes the worst of two draws by `log q`.
    """

    vocab_size: Count = 3
    max_length: Count = 3
    seeds: Count = 32
    beta: Positive = 0.5
    steps: Count = 1000
    learning_rate: Positive = 20.0
    scale: Positive = 2.0
    strength: NonNegative = 0.4
    noise: NonNegative = 0.5
    rare: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.02
    ratios: Annotated[tuple[Positive, ...], msgspec.Meta(min_length=2)] = (0.25, 0.5, 1.0, 2.0, 4.0)
    pairs: tuple[Count, Count] = (30, 300)

    def numbers(self) -> dict[str, int]:
        """Policies at every record, and vectors over the space."""
        size = self.make_space().size
        return {
            "seeds": self.seeds * size * (200 * (_records(self) + 1) // 20 + 300),
            "pairs": 60 * self.seeds * max(self.pairs),
        }


def _records(config: Config) -> int:
    return config.steps // _every(config) + 2


def _every(config: Config) -> int:
    return max(config.steps // 100, 1)


class _Made(NamedTuple):
    """What all parts share.

    Attributes:
        reference: the reference of each seed, `[seeds, sequences]`.
        rare: which responses are rare, of the same shape.
        log_q: the information, `[kinds, seeds, sequences]`, and in the same way the `target`, and the
            `rejected` distribution that teaches it.
        along: the limits at other `β`, `[kinds, ratios, seeds, sequences]`.
        ends: the limits for each rejected distribution, `[rejected, seeds, sequences]`.
        slope: the slope of the log of the rare mass at the reference, `[kinds, seeds]`.
        did_entropy: the entropy of the information, of the same shape.
    """

    reference: Array
    rare: Bool[Array, "seeds sequences"]
    log_q: Array
    target: Array
    rejected: Array
    along: Array
    ends: Array
    slope: Array
    did_entropy: Array


def run(config: Config, progress: bool = False) -> xr.Dataset:
    """Compute limits, and train on population pairs, on finite ones and on online ones."""
    made = jax.jit(_make, static_argnums=0)(config)
    chosen = made.reference
    place = list(KINDS).index(_KIND)
    rejected, log_q, target = made.rejected, made.log_q, made.target
    whole = _descend(config, made.reference, didsim.Contrastive(chosen, rejected), progress and "exploration")
    pairs, seen = _datasets(config, chosen, rejected[place])
    finite = _descend(config, made.reference, pairs, progress and "finite pairs")
    sampler = didsim.OnPolicy(jnp.array([1.0, 0.0])[:, None])
    online = didsim.Online(config.beta * log_q[place], sampler)
    drawn = _descend(config, made.reference, online, progress and "online pairs")
    steps, population = whole
    # NumPy from here on: each new shape would compile.
    rare, unseen, reference = np.asarray(made.rare), ~np.asarray(seen), np.asarray(made.reference)
    whole_path, few_path, online_path = (np.asarray(one) for one in (population, finite[1], drawn[1]))
    ways = {f"{n:,} pairs": few_path[k] for k, n in enumerate(config.pairs)}
    names = ("online, policy", "online, uniform")
    ways |= {"all pairs": whole_path[place], **dict(zip(names, online_path, strict=True))}
    mass = {
        "trained": (("kind", "seed", "step"), _mass(whole_path, rare[:, None])),
        "by_way": (("way", "seed", "step"), _mass(np.stack(list(ways.values())), rare[:, None])),
        "by_ratio": (("kind", "ratio", "seed"), _mass(made.along, rare)),
        "by_rejected": (("rejected", "seed"), _mass(made.ends, rare)),
        "limit": (("kind", "seed"), _mass(target, rare)),
        "start": (("seed",), _mass(reference, rare)),
        "unseen": (("pairs", "seed", "step"), _mass(few_path, unseen[:, :, None])),
        "unseen_of_target": (("pairs", "seed"), _mass(target[place], unseen)),
    }
    change = few_path - reference[:, None]
    # The largest difference of two changes among unseen responses; none if fewer than two are unseen.
    highest, lowest = (np.where(unseen[:, :, None], sign * change, -np.inf).max(-1) for sign in (1.0, -1.0))
    spread = np.maximum(highest + lowest, 0).max(-1)
    nats = {"units": "nats"}
    return xr.Dataset(
        {
            name: (dims, np.asarray(one), {"long_name": _LONG[name], "units": "1"})
            for name, (dims, one) in mass.items()
        }
        | {
            "slope": (
                ("kind", "seed"),
                np.asarray(made.slope),
                {"long_name": "Slope of the log of the rare mass", **nats},
            ),
            "did_entropy": (
                ("kind", "seed"),
                np.asarray(made.did_entropy),
                {"long_name": "DID entropy", **nats},
            ),
            "spread": (
                ("pairs", "seed"),
                spread,
                {"long_name": "Difference of changes among unseen responses", **nats},
            ),
        },
        {
            "kind": list(KINDS),
            "way": list(ways),
            "rejected": list(REJECTED),
            "pairs": ("pairs", list(config.pairs), {"long_name": "Pairs"}),
            "ratio": ("ratio", list(config.ratios), {"long_name": "β of the data / β in training"}),
            "step": ("step", steps, {"long_name": "Step"}),
            "seed": np.arange(config.seeds),
        },
    )


_LONG = {
    "trained": "Mass on rare responses",
    "by_way": "Mass on rare responses",
    "by_ratio": "Mass of the limit on rare responses",
    "by_rejected": "Mass of the limit on rare responses",
    "limit": "Mass of the target on rare responses",
    "start": "Mass of the reference on rare responses",
    "unseen": "Mass on responses in no pair",
    "unseen_of_target": "Mass of the target on responses in no pair",
}


def _make(config: Config) -> _Made:
    size = config.make_space().size
    keys = jax.random.split(jax.random.key(config.seed), (2, config.seeds))
    reference = didsim.normal_logits(keys[0], size, config.scale)
    bumps = config.noise * didsim.normal_logits(keys[1], size)
    signs = config.strength * jnp.asarray(list(KINDS.values()))[:, None, None]
    log_q = jax.nn.log_softmax(signs * reference + bumps, axis=-1)
    rare, target = _rare(reference, config.rare), didsim.bayes_update(reference, log_q)
    place = list(KINDS).index(_KIND)
    on_rare = jax.nn.softmax(jnp.where(rare, reference, -jnp.inf), axis=-1)
    return _Made(
        reference=reference,
        rare=rare,
        log_q=log_q,
        target=target,
        rejected=didsim.optimal_rejected(reference, target, config.beta),
        along=didsim.geodesic(reference, log_q[:, None], jnp.asarray(config.ratios)[:, None]),
        ends=_ends(config, reference, target[place], log_q[place]),
        slope=jnp.sum(on_rare * log_q, axis=-1) - didsim.expectation(reference, log_q),
        did_entropy=didsim.entropy(log_q),
    )


def _rare(reference: Array, share: float) -> Bool[Array, "seeds sequences"]:
    """The least likely responses that together have at most this share; one at least, and not all."""
    order = jnp.argsort(reference, axis=-1)
    total = jnp.cumsum(jnp.take_along_axis(jnp.exp(reference), order, axis=-1), axis=-1)
    places = jnp.arange(reference.shape[-1])
    among = (total <= share) & (places < len(places) - 1) | (places == 0)
    return jnp.take_along_axis(among, jnp.argsort(order, axis=-1), axis=-1)


def _mass(log_probs: ArrayLike, inside: np.ndarray) -> np.ndarray:
    """The probability of a set of responses."""
    return np.sum(np.where(inside, np.exp(np.asarray(log_probs)), 0.0), axis=-1)


def _datasets(config: Config, chosen: Array, rejected: Array) -> tuple[didsim.Pairs, Array]:
    """A dataset of each size for each seed, the small within the large, and the responses in some pair."""
    keys = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), 1), config.seeds)
    most = max(config.pairs)
    drawn = jax.vmap(lambda *two: didsim.Contrastive(*two[:2]).sample(two[2], most))(chosen, rejected, keys)
    kept = jnp.arange(most) < jnp.asarray(config.pairs)[:, None, None]
    shape = (len(config.pairs), config.seeds, most)
    winners, losers = (jnp.broadcast_to(one, shape) for one in (drawn.winners, drawn.losers))
    pairs = didsim.Pairs(winners, losers, jnp.broadcast_to(kept, shape).astype(chosen.dtype))
    responses = jnp.arange(chosen.shape[-1])[:, None]
    hit = (winners[:, :, None] == responses) | (losers[:, :, None] == responses)
    return pairs, (hit & kept[:, :, None]).any(-1)


def _descend(
    config: Config, reference: Array, problem: didsim.Problem, progress: str | bool
) -> tuple[np.ndarray, Array]:
    """The recorded steps, and the policies at these, `[*batch, seeds, records, sequences]`."""
    trained = didsim.train(
        didsim.EnergyBased(reference),
        reference,
        problem,
        didsim.dpo(config.beta),
        optax.sgd(config.learning_rate),
        config.steps,
        record=didsim.Record(_every(config), {"log_probs": lambda s: s.log_probs}),
        progress=progress,
    )
    return trained.steps, trained.metrics["log_probs"]


def _ends(config: Config, reference: Array, target: Array, log_q: Array) -> Array:
    """DPO's limits with chosen responses from the reference, for each rejected distribution."""
    rejected = {
        "optimal": didsim.REJECTED["optimal"](reference, target, config.beta),
        "uniform": didsim.REJECTED["uniform"](reference),
        "tempered": didsim.REJECTED["tempered"](reference),
        "worst_of_n": didsim.REJECTED["worst_of_n"](reference, log_q, 2),
        "reversed": didsim.REJECTED["reversed"](reference, target, config.beta),
    }
    stacked = jnp.stack([rejected[name] for name in REJECTED])
    return didsim.fixed_point(didsim.dpo(config.beta), reference, didsim.Contrastive(reference, stacked))


def _rank(x: np.ndarray, y: np.ndarray) -> float:
    """Spearman's rank correlation; NaN if one of both is constant."""
    if min(np.ptp(x), np.ptp(y)) == 0:
        return float("nan")
    return float(spearmanr(x.ravel(), y.ravel()).statistic)


def _part(x: float) -> str:
    """A share, with its two digits where a percentage would show none."""
    return share(x) if x >= 1e-4 or x == 0 else number(x)


def finding(dataset: xr.Dataset) -> str:
    """How the mass on rare responses changes, what tells it, and what finite and online pairs do."""
    middle = dataset.median("seed")

    grown = xr.apply_ufunc(np.log, dataset["limit"] / dataset["start"])
    right = float((np.sign(dataset["slope"]) == np.sign(grown)).mean())
    rank = _rank(dataset["did_entropy"].values, grown.transpose("kind", "seed").values)
    ends, few = middle["by_way"].isel(step=-1), middle.isel(pairs=0)
    others = middle["by_rejected"].sel(rejected=[name for name in REJECTED if name != "optimal"])
    others = others.assign_coords(rejected=[REJECTED[name] for name in others["rejected"].values])
    return (
        f"Rare responses have {share(float(middle['start']))} of the reference's mass, and at the limit "
        f"{told_each(middle['limit'], _part)}. The slope at the start has the sign of the whole change in "
        f"{share(right)} of instances; DID entropy has a rank correlation of {number(rank)} with the change "
        f"of the log-mass. With the {_KIND} target, other rejected distributions lead to "
        f"{told_each(others, _part)}. After {int(dataset['step'][-1]):,} steps towards it the mass is "
        f"{told_each(ends, _part)}. With {int(few['pairs'])} pairs, responses in no pair have "
        f"{_part(float(few['unseen'][0]))} at the start and {_part(float(few['unseen'][-1]))} at the end, "
        f"where the target has {_part(float(few['unseen_of_target']))}; their log-probabilities change "
        f"alike, to {number(float(dataset['spread'].max()))} nats."
    )


def plot(dataset: xr.Dataset) -> Figure:
    """The rare mass along training, by β, by the rejected distribution, and by the source of pairs."""
    colors = plotting.color_of(list(KINDS))
    with plotting.style():
        figure, ((trained, ratio), (rejected, ways)) = plotting.new_figure(2, 2, height=5.0)
        for kind, color in colors.items():
            one = dataset.sel(kind=kind)
            _band(trained, one["trained"], "step", color=color, label=kind)
            plotting.plot_limit(trained, one["limit"].clip(min=_TINY), color=color)
            _band(ratio, one["by_ratio"], "ratio", color=color, marker="o", markersize=3)
        for name, color in zip(dataset["way"].values, plotting.COLORS[3:], strict=False):
            _band(ways, dataset["by_way"].sel(way=name), "step", color=color, label=str(name))
        plotting.plot_limit(ways, dataset["limit"].sel(kind=_KIND), color="black", label="the target")
        _rows(rejected, dataset)
        for ax in (trained, ways):
            plotting.log_steps(ax, dataset)
            plotting.label_axes(ax, x=dataset["step"])
        ratio.set_xscale("log", base=2)
        ratio.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
        plotting.label_axes(ratio, x=dataset["ratio"])
        start = float(dataset["start"].median())
        for ax in (trained, ratio, ways):
            ax.set_yscale("log")
            ax.axhline(start, color="0.4", linestyle=":", linewidth=0.9)
            plotting.label_axes(ax, y="Mass on rare responses")
        trained.plot([], [], color="0.4", linestyle=":", label="reference")
        trained.plot([], [], color="black", label="exact limit", **plotting.EXACT)
        for ax in (trained, ratio, ways):
            ax.set_ylim(top=1)
        trained.legend(loc="upper left", ncols=2, columnspacing=1.0)
        ways.set_ylim(bottom=ways.get_ylim()[0] / 10)
        ways.legend(loc="lower left")
        titles = ("along training", "the limit by β", "the limit by rejected", "by the source of pairs")
        for ax, letter, title in zip((trained, ratio, rejected, ways), "abcd", titles, strict=True):
            ax.set_title(f"({letter}) {title}")
    return figure


def _band(ax: Axes, values: xr.DataArray, x: str, **options: Any) -> None:
    """A band on a logarithmic axis, where no mass is below what can be shown."""
    plotting.plot_band(ax, values.clip(min=_TINY), x, **options)


def _rows(ax: Axes, dataset: xr.Dataset) -> None:
    """A row for each rejected distribution: the median and 95% of the seeds."""
    names = list(dataset["rejected"].values)[::-1]
    for row, name in enumerate(names):
        values = np.maximum(dataset["by_rejected"].sel(rejected=name), _TINY)
        low, middle, high = np.quantile(values, [0.025, 0.5, 0.975])
        ax.plot([low, high], [row, row], color=plotting.COLORS[2])
        ax.plot(middle, row, "o", color=plotting.COLORS[2], markersize=4)
    limit = float(dataset["limit"].sel(kind=_KIND).median())
    grey: Any = {"color": "0.4", "linestyle": ":", "linewidth": 0.9}
    ax.axvline(float(dataset["start"].median()), ymax=0.86, label="reference", **grey)
    ax.axvline(limit, ymax=0.86, color="black", label="target", **plotting.EXACT)
    ax.set_xscale("log")
    ax.set_yticks(range(len(names)), [REJECTED[name] for name in names])
    ax.set_ylim(-0.6, len(names) + 0.3)
    plotting.label_axes(ax, x="Mass on rare responses")
    ax.legend(loc="upper left", ncols=2)
