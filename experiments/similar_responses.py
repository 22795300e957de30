"""Similar chosen and rejected responses send mass to a third one: what the CHES score predicts of it.

Razin et al., "Unintentional unalignment: likelihood displacement in direct preference optimization" (arXiv
2410.08847), train on one pair. The claim: if the chosen and the rejected response have similar embeddings,
both become rarer, and the mass goes to a third response, even one of opposite meaning. The centered hidden
embedding similarity of a pair, `CHES = ⟨φ_w, φ_l⟩ − ‖φ_w‖²`, tells how much. Here a response has the
embedding `φ_y`, and the policy is `π ∝ exp(φ · weights)` (`didsim.LogLinear`), which is their model of
responses of one token, with weights for the hidden state. A set of random features has normal embeddings. The
rejected one is `ρ φ_w + √(1 − ρ²) z`, and the opposite response is `−φ_w`.

What is exact, derived here. The gradient of DPO's loss of one pair is along `Δ = φ_w − φ_l` at all weights.
So every path of gradient descent is `π_s ∝ π_ref exp(s ⟨φ, Δ⟩)` with growing `s`, and:

- It ends with all mass on the response with the largest `⟨φ_y, Δ⟩`, chosen or not. The chosen one is there
  if and only if `⟨φ_w − φ_y, Δ⟩ > 0` for all others.
- `d log π_s(w)/ds = ⟨φ_w − E_π φ, Δ⟩ = −CHES − ⟨E_π φ, Δ⟩`. The score is the slope at the reference, but for
  the mean embedding.
- Gradient flow has `ds/dt = β σ(−β s ‖Δ‖²)`. So `s + (e^(β s ‖Δ‖²) − 1)/(β ‖Δ‖²) = β t` gives `s` after a
  time `t`, and the log-ratio margin of the pair is then `s ‖Δ‖²`.
"""

from typing import Annotated, ClassVar

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
import xarray as xr
from jax.nn import log_softmax
from jaxtyping import Array, Float
from matplotlib.figure import Figure
from scipy.stats import rankdata

import didsim
from didsim import plotting
from experiments.shared.configs import Count, Positive, SpaceConfig
from experiments.shared.wording import number, share

SCORES = {
    "ches": "CHES",
    "slope": "slope at the reference",
    "cosine": "cosine of the pair",
}
"""What may tell the fall of the chosen log-likelihood, with the words for each."""

WINNERS = ("chosen", "opposite", "another")
"""Which response has all mass in the end."""

_CHOSEN, _REJECTED, _OPPOSITE = 0, 1, 2


class Config(SpaceConfig, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of the experiment.

    There is a response for each sequence of the space. Each seed has `instances` sets of `features` random
    features, with a reference whose logits have about the standard deviation `peak`, and pairs of similarity
    `ρ` from −1 to 1. Paths are seen at `looks` margins up to `margin` nats, and at as many times up to
    `time`. Shares are taken in `bins` bins of `ρ`.
    """

    least: ClassVar[int] = 4
    vocab_size: Annotated[int, msgspec.Meta(ge=2, lt=2**31)] = 16
    max_length: Count = 1
    seeds: Count = 32
    instances: Annotated[int, msgspec.Meta(ge=32, lt=2**31)] = 1000
    features: Count = 8
    beta: Positive = 0.1
    peak: Positive = 1.0
    looks: Annotated[int, msgspec.Meta(ge=2, le=1000)] = 15
    margin: Positive = 100.0
    time: Positive = 1e4
    bins: Annotated[int, msgspec.Meta(ge=2, le=100)] = 10

    def numbers(self) -> dict[str, int]:
        """Embeddings, policies along paths, and scores of all instances."""
        size = self.make_space().size
        return {
            "instances": self.seeds * self.instances * (4 * size * self.features + 4 * size + 4 * self.looks)
        }


def run(config: Config, progress: bool = False) -> xr.Dataset:
    """Follow the exact paths of all pairs, and correlate scores with the falls."""
    size = config.make_space().size
    key = jax.random.key(config.seed)
    embeddings, weights, similarity = _instances(config, key, size)
    difference = embeddings[..., _CHOSEN, :] - embeddings[..., _REJECTED, :]
    along = jnp.einsum("sinf,sif->sin", embeddings, difference, precision="highest")
    reference = log_softmax(jnp.einsum("sinf,sif->sin", embeddings, weights, precision="highest"), axis=-1)
    squared = jnp.sum(difference**2, axis=-1)
    margins = np.geomspace(1e-3 * config.margin, config.margin, config.looks)
    times = np.geomspace(1e-5 * config.time, config.time, config.looks)
    positions = {
        "margin": jnp.asarray(margins)[:, None, None] / squared,
        "time": position_at(jnp.asarray(times)[:, None, None], squared, config.beta),
    }
    ches = ches_score(embeddings)
    slope = jnp.sum(jnp.exp(reference) * along, axis=-1) - along[..., _CHOSEN]
    norms = jnp.linalg.norm(embeddings[..., :2, :], axis=-1)
    cosine = (ches + norms[..., 0] ** 2) / (norms[..., 0] * norms[..., 1])
    scores = {"ches": ches, "slope": slope, "cosine": cosine}
    ranks = {name: rankdata(np.asarray(one), axis=-1) for name, one in scores.items()}
    falls = {name: -displacement(reference, along, at) for name, at in positions.items()}
    correlations = {
        name: np.stack([_correlation(one, rankdata(np.asarray(fall), axis=-1)) for one in ranks.values()])
        for name, fall in falls.items()
    }
    edges = np.linspace(-1, 1, config.bins + 1)
    which = np.clip(np.digitize(np.asarray(similarity), edges) - 1, 0, config.bins - 1)
    best = np.asarray(jnp.argmax(along, axis=-1))
    ends = [best == _CHOSEN, best == _OPPOSITE, ~np.isin(best, [_CHOSEN, _OPPOSITE])]
    nats = {"units": "nats"}
    return xr.Dataset(
        {
            **{
                f"correlation_{name}": (
                    ("score", name, "seed"),
                    values,
                    {"long_name": "Rank correlation with the fall", "units": "1"},
                )
                for name, values in correlations.items()
            },
            **{
                f"fallen_{name}": (
                    (name, "seed"),
                    np.asarray(jnp.mean(fall > 0, axis=-1)),
                    {"long_name": "Share of chosen responses that fall", "units": "1"},
                )
                for name, fall in falls.items()
            },
            "share": (
                ("winner", "bin", "seed"),
                np.stack([_shares(one, which, config.bins) for one in ends]),
                {"long_name": "Share of pairs", "units": "1"},
            ),
            "ches": (("seed", "instance"), np.asarray(ches), {"long_name": "CHES score", "units": "1"}),
            "fall": (
                ("seed", "instance"),
                np.asarray(falls["margin"][config.looks // 2]),
                {"long_name": "Fall of the chosen log-likelihood", **nats},
            ),
        },
        {
            "score": list(SCORES),
            "winner": list(WINNERS),
            "margin": ("margin", margins, {"long_name": "Log-ratio margin of the pair", **nats}),
            "time": ("time", times, {"long_name": "Time of gradient flow", "units": "1"}),
            "bin": (
                "bin",
                (edges[1:] + edges[:-1]) / 2,
                {"long_name": "Similarity ρ of the pair", "units": "1"},
            ),
            "seed": np.arange(config.seeds),
        },
    ).assign_attrs(middle=float(margins[config.looks // 2]))


def _instances(config: Config, key: Array, size: int) -> tuple[Array, Array, Array]:
    """Embeddings `[seeds, instances, responses, features]`, reference weights, and similarities."""
    batch = (config.seeds, config.instances)
    one, two, three, four = jax.random.split(key, 4)
    embeddings = jax.random.normal(one, (*batch, size, config.features))
    weights = config.peak * jax.random.normal(two, (*batch, config.features)) / np.sqrt(config.features)
    similarity = jax.random.uniform(three, batch, minval=-1.0, maxval=1.0)
    chosen = embeddings[..., _CHOSEN, :]
    noise = jax.random.normal(four, chosen.shape)
    rho = similarity[..., None]
    embeddings = embeddings.at[..., _REJECTED, :].set(rho * chosen + jnp.sqrt(1 - rho**2) * noise)
    return embeddings.at[..., _OPPOSITE, :].set(-chosen), weights, similarity


def ches_score(embeddings: Float[Array, "*batch responses features"]) -> Float[Array, "*batch"]:
    """`CHES = ⟨φ_w, φ_l⟩ − ‖φ_w‖²` of the first response as chosen and the second as rejected."""
    chosen, rejected = embeddings[..., _CHOSEN, :], embeddings[..., _REJECTED, :]
    return jnp.sum(chosen * (rejected - chosen), axis=-1)


def position_at(time: Float[Array, "..."], squared: Float[Array, "..."], beta: float) -> Float[Array, "..."]:
    """`s` after a time of gradient flow: the root of `s + (e^(β s ‖Δ‖²) − 1)/(β ‖Δ‖²) = β t`, by bisection.

    Args:
        time: `t`, positive.
        squared: `‖Δ‖²`.
        beta: that of DPO.
    """
    rate = beta * squared
    # Each of the two terms alone is at most β t, and s is at least half of the smaller root.
    low = jnp.zeros(jnp.broadcast_shapes(time.shape, squared.shape), rate.dtype)
    high = jnp.minimum(beta * time, jnp.log1p(beta * time * rate) / rate)

    def halve(ends: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], None]:
        low, high = ends
        middle = (low + high) / 2
        above = middle + jnp.expm1(rate * middle) / rate > beta * time
        return (jnp.where(above, low, middle), jnp.where(above, middle, high)), None

    (low, high), _ = jax.lax.scan(halve, (low, high), length=60)
    return (low + high) / 2


def displacement(
    reference: Float[Array, "*batch responses"],
    along: Float[Array, "*batch responses"],
    position: Float[Array, "looks *batch"],
) -> Float[Array, "looks *batch"]:
    """The change of `log π_s(w)` along the path, for the first response as chosen.

    Args:
        reference: log-probabilities of the reference.
        along: `⟨φ_y, Δ⟩` of every response.
        position: `s`.
    """

    def one(at: Array) -> Array:
        moved = didsim.bayes_update(reference, at[..., None] * along)
        return moved[..., _CHOSEN] - reference[..., _CHOSEN]

    return jax.lax.map(one, position)


def _correlation(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Pearson's correlation over the last axis."""
    one, other = (values - values.mean(axis=-1, keepdims=True) for values in (one, other))
    scale = np.sqrt((one**2).sum(axis=-1) * (other**2).sum(axis=-1))
    return np.asarray((one * other).sum(axis=-1) / scale)


def _shares(true: np.ndarray, which: np.ndarray, bins: int) -> np.ndarray:
    """The share of instances in each bin where something is true, `[bins, seeds]`; NaN for an empty bin."""
    inside = which[None] == np.arange(bins)[:, None, None]
    with np.errstate(invalid="ignore"):
        return np.asarray((inside & true).sum(axis=-1) / inside.sum(axis=-1))


def finding(dataset: xr.Dataset) -> str:
    """How well the score tells the fall early and late, and which response has the mass in the end."""
    parts = []
    for name in ("time", "margin"):
        median = dataset[f"correlation_{name}"].median("seed")
        early, late = (
            {one: number(float(median.sel(score=one).isel({name: end}))) for one in SCORES} for end in (0, -1)
        )
        parts.append(
            f"{early['ches']} at the first look and {late['ches']} at the last (the cosine of the pair: "
            f"{early['cosine']} and {late['cosine']})"
        )
    winner = dataset["share"].median("seed")
    ends = {name: [share(float(winner.sel(winner=name)[k])) for k in (0, -1)] for name in WINNERS}
    low, high = (number(float(dataset["bin"][k])) for k in (0, -1))
    fallen = dataset["fallen_margin"].median("seed")
    return (
        f"After the same time of training, the rank correlation of CHES with the fall of the chosen "
        f"log-likelihood over {dataset.sizes['instance']:,} feature sets is {parts[0]}. At the same margin "
        f"it is {parts[1]}. For pairs of similarity {low} the chosen response has all mass in the end in "
        f"{ends['chosen'][0]} of the sets, its opposite in {ends['opposite'][0]}, and another in "
        f"{ends['another'][0]}; for similarity {high} these are {ends['chosen'][1]}, "
        f"{ends['opposite'][1]} and {ends['another'][1]}. The chosen response is rarer than at the start in "
        f"{share(float(fallen[0]))} of all sets at the smallest margin, and in {share(float(fallen[-1]))} at "
        "the largest."
    )


def plot(dataset: xr.Dataset) -> Figure:
    """Rank correlations along training in two ways, the falls by score, and where the mass ends."""
    with plotting.style():
        figure, ((time, margin), (falls, ends)) = plotting.new_figure(2, 2, height=4.7)
        margin.sharey(time)
        for ax, name in ((time, "time"), (margin, "margin")):
            for score, look in plotting.looks_of(list(SCORES)).items():
                one = dataset[f"correlation_{name}"].sel(score=score)
                plotting.plot_band(ax, one, name, color=look.color, label=SCORES[score])
            ax.axhline(0, color="black", linewidth=0.6)
            ax.set_xscale("log")
            plotting.label_axes(ax, x=dataset[name], y=dataset[f"correlation_{name}"])
        time.set_title("(a) after the same time")
        margin.set_title("(b) at the same margin")
        time.legend(loc="lower left", bbox_to_anchor=(0, 0.08))
        few = dataset.isel(seed=0, instance=slice(1000))
        falls.plot(few["ches"], few["fall"], ".", color=plotting.COLORS[0], markersize=2.5, alpha=0.5)
        falls.axhline(0, color="black", linewidth=0.6)
        falls.axvline(0, color="black", linewidth=0.6)
        falls.set_yscale("symlog", linthresh=1)
        falls.set_title(f"(c) one seed, margin {number(dataset.attrs['middle'])} nats")
        plotting.label_axes(falls, x=dataset["ches"], y=dataset["fall"])
        for name, color in zip(WINNERS, plotting.COLORS[2:], strict=False):
            plotting.plot_band(ends, dataset["share"].sel(winner=name), "bin", color=color, label=name)
        ends.set_ylim(-0.03, 1.03)
        ends.set_title("(d) who has all mass in the end")
        ends.legend(loc="best")
        plotting.label_axes(ends, x=dataset["bin"], y=dataset["share"])
    return figure
