"""The squeezing effect: one step down an unlikely answer, one step up, and whole runs.

The toy is that of Ren and Sutherland, "Learning dynamics of LLM finetuning" (arXiv 2407.10490): a softmax
over 50 classes, flat or peaked, and one gradient step on the log-probability of one class. The claim: a step
*down* an unlikely class of a peaked policy moves the mass to the class that is likeliest already, and most
other classes fall too. They see in this why long off-policy DPO makes all answers but the likeliest rarer.

What is exact, derived here. A step of size `η` down `log π(l)` moves the logits by `η (π − e_l)`. Then, for
all `y ≠ l`, `log π(y)` changes by `η π(y)` less one number for all classes, which is `η (Σ π² − π(l))` to
first order. So the likeliest other class gains most, and a class falls if `π(y) + π(l) < Σ π²`. To first
order a step up has the opposite signs.
For DPO on free logits the claim cannot hold: the normaliser cancels in a pair, so that all answers that are
in no pair keep their ratios (`didsim.theory`, `unseen_keep_their_ratios`). Negative preference optimisation
(NPO) has rejected answers alone, and its gradient is the step down.
"""

from typing import Annotated, ClassVar

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
import optax
import xarray as xr
from jax.nn import log_softmax
from jaxtyping import Array, Float, Int
from matplotlib.figure import Figure

import didsim
from didsim import plotting
from didsim.training.metrics import METRICS, Measure, Metric
from experiments.shared.configs import Count, Positive, SpaceConfig
from experiments.shared.wording import listed, number, share

SHAPES = ("flat", "peaked")
REJECTED = {"likeliest": 0.0, "middle": 0.5, "least likely": 1.0}
"""The class that one step pushes down, with the share of classes that are likelier."""

RUNS = ("dpo", "npo", "sft")
_WORDS = {"dpo": "DPO", "npo": "NPO (rejected alone)", "sft": "SFT (chosen alone)"}


def _first_probability(s: didsim.Snapshot) -> Array:
    """The probability of the class that is likeliest at the start; classes are sorted."""
    return jnp.exp(s.log_probs[0])


_RECORDED: dict[str, Measure] = {
    "first_probability": Metric(_first_probability, "Probability of the class likeliest at the start", "1"),
    **{name: METRICS[name] for name in ("largest_probability", "chosen_displacement")},
}


class Config(SpaceConfig, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of the experiment.

    Logits are normal with the standard deviation `flat` or `peaked`. One step has the size `step_size`; for
    panel (c) the standard deviations are `scales`. Runs of `steps` steps of gradient descent at the rate
    `learning_rate` start at the peaked policy. They have `pairs` pairs of classes from its less likely half.
    """

    least: ClassVar[int] = 4
    vocab_size: Annotated[int, msgspec.Meta(ge=2, lt=2**31)] = 50
    max_length: Count = 1
    seeds: Count = 32
    beta: Positive = 0.1
    flat: Positive = 0.3
    peaked: Positive = 3.0
    step_size: Positive = 1.0
    scales: Annotated[tuple[Positive, ...], msgspec.Meta(min_length=1)] = (0.1, 0.3, 0.5, 1, 1.5, 2, 3, 4, 5)
    pairs: Count = 4
    steps: Count = 300
    every: Count = 1
    learning_rate: Positive = 1.0

    def numbers(self) -> dict[str, int]:
        """Policies of all scales, and records."""
        size = self.make_space().size
        return {
            "seeds": 20 * self.seeds * size * (len(self.scales) + 10),
            "steps": 20 * self.seeds * (self.steps // self.every + 2),
        }


def run(config: Config, progress: bool = False) -> xr.Dataset:
    """One step on flat, peaked and other policies, and runs of three objectives."""
    size = config.make_space().size
    keys = jax.random.split(jax.random.key(config.seed), (2, config.seeds))
    logits = jax.vmap(lambda key: jax.random.normal(key, (size,)))(keys[0])
    logits = -jnp.sort(-logits, axis=-1)  # the likeliest class first
    shapes = log_softmax(jnp.array([config.flat, config.peaked])[:, None, None] * logits, axis=-1)
    least = jnp.full(config.seeds, size - 1)
    changes = jnp.stack([one_step(shapes, least, sign * config.step_size) for sign in (-1, 1)])
    scaled = log_softmax(jnp.array(config.scales)[:, None, None] * logits, axis=-1)
    places = {name: round(part * (size - 1)) for name, part in REJECTED.items()}
    falls = [_falling(scaled, place, config.step_size) for place in places.values()]
    return (
        xr.merge([_runs(config, shapes[1], keys[1], progress)])
        .assign(
            change=(
                ("direction", "shape", "seed", "rank"),
                np.asarray(changes),
                {"long_name": "Change of log-probability", "units": "nats"},
            ),
            falling=(
                ("rejected", "scale", "seed"),
                np.asarray(falls),
                {"long_name": "Share of the others that fall", "units": "1"},
            ),
        )
        .assign_coords(
            direction=["down", "up"],
            shape=list(SHAPES),
            rejected=list(REJECTED),
            seed=np.arange(config.seeds),
            rank=("rank", np.arange(1, size + 1), {"long_name": "Rank of the class", "units": "1"}),
            scale=(
                "scale",
                list(config.scales),
                {"long_name": "Standard deviation of logits", "units": "nats"},
            ),
        )
        .assign_attrs(pairs=_pairs(config))
    )


def one_step(
    log_probs: Float[Array, "*shapes seeds classes"], place: Int[Array, " seeds"], size: float
) -> Float[Array, "*shapes seeds classes"]:
    """What one gradient step on the logits does to log-probabilities.

    Args:
        log_probs: the policy.
        place: the class whose log-probability is pushed.
        size: the size of the step; a negative one pushes down.
    """
    own = jax.nn.one_hot(place, log_probs.shape[-1], dtype=log_probs.dtype)
    return log_softmax(log_probs + size * (own - jnp.exp(log_probs)), axis=-1) - log_probs


def _falling(log_probs: Float[Array, "scales seeds classes"], place: int, size: float) -> Array:
    """The share of other classes that fall in a step down."""
    change = one_step(log_probs, jnp.full(log_probs.shape[1], place), -size)
    others = jnp.arange(log_probs.shape[-1]) != place
    return jnp.mean(change < 0, axis=-1, where=others)


def _pairs(config: Config) -> int:
    """Their number: at most as many as the less likely half has room for."""
    return min(config.pairs, config.make_space().size // 4)


def _runs(config: Config, reference: Array, keys: Array, progress: bool) -> xr.Dataset:
    """The three objectives on pairs of different classes of the less likely half."""
    size, pairs = reference.shape[-1], _pairs(config)
    half = jnp.arange(size - size // 2, size)
    drawn = jax.vmap(lambda key: jax.random.permutation(key, half)[: 2 * pairs])(keys)
    problem = didsim.Pairs(drawn[:, :pairs], drawn[:, pairs:])
    objectives = {"dpo": didsim.dpo(config.beta), "npo": didsim.npo(config.beta), "sft": didsim.sft()}
    parts = []
    for name, objective in objectives.items():
        # DPO's and NPO's steps have the factors beta · σ(…) and 2 σ(…): about beta/2 and 1 at the start.
        rate = config.learning_rate * (2 / config.beta if name == "dpo" else 1.0)
        result = didsim.train(
            didsim.EnergyBased(reference),
            reference,
            problem,
            objective,
            optax.sgd(rate),
            config.steps,
            record=didsim.Record(config.every, _RECORDED),
            progress=progress and f"squeezing: {name}",
        )
        parts.append(result.to_dataset(("seed",)))
    return xr.concat(parts, xr.Variable("objective", list(RUNS)))


def finding(dataset: xr.Dataset) -> str:
    """What one step down does to the likeliest class and to all others, and where whole runs end."""
    down = dataset["change"].sel(direction="down").isel(rank=slice(None, -1))
    top = {shape: number(float(down.sel(shape=shape).isel(rank=0).median())) for shape in SHAPES}
    falls = {shape: share(float((down.sel(shape=shape) < 0).mean())) for shape in SHAPES}
    first = bool((down.argmax("rank") == 0).all())
    up = dataset["change"].sel(direction="up", shape="peaked").isel(rank=slice(None, -1))
    likely = dataset["falling"].sel(rejected="likeliest").median("seed")
    begin = dataset["first_probability"].isel(step=0).median("seed")
    ends = dataset["first_probability"].isel(step=-1).median("seed")
    moved = dataset["chosen_displacement"].isel(step=-1).median("seed")
    runs = listed(f"{number(float(ends.sel(objective=one)))} for {_WORDS[one]}" for one in RUNS)
    chosen = listed(number(float(moved.sel(objective=one))) for one in RUNS)
    risen = [_WORDS[one] for one in RUNS if float(ends.sel(objective=one)) > float(begin[0])]
    squeezed = listed(risen) if risen else "none of the three"
    return (
        f"One step down the least likely class lets {falls['peaked']} of all other classes of a peaked "
        f"policy fall, and {falls['flat']} of a flat one; the likeliest class changes by {top['peaked']} and "
        f"{top['flat']} nats, which is {'the largest change' if first else 'not always the largest change'} "
        f"of all. A step up the same class lets {share(float((up < 0).mean()))} fall. If the step goes down "
        f"the likeliest class itself, at most {share(float(likely.max()))} of the others fall. In runs on "
        f"{dataset.attrs['pairs']} pairs of unlikely classes the likeliest class goes from probability "
        f"{number(float(begin[0]))} to {runs}, and the chosen log-likelihood changes by {chosen} nats. "
        f"So whole runs squeeze mass into the likeliest class for {squeezed}."
    )


def plot(dataset: xr.Dataset) -> Figure:
    """One step down and up by rank, the share of classes that fall, and runs."""
    with plotting.style():
        figure, ((down, up), (falling, runs)) = plotting.new_figure(2, 2, height=4.6)
        up.sharey(down)
        for ax, direction in ((down, "down"), (up, "up")):
            for shape, look in plotting.looks_of(SHAPES).items():
                one = dataset["change"].sel(direction=direction, shape=shape)
                plotting.plot_band(ax, one.isel(rank=slice(-1)), "rank", color=look.color, label=shape)
                last = one.isel(rank=-1)
                ax.plot(last["rank"], last.median(), "o", markersize=3, color=look.color)
            ax.axhline(0, color="black", linewidth=0.6)
            ax.set_xscale("log")
            plotting.label_axes(ax, x=dataset["rank"], y=dataset["change"])
        down.set_title("(a) a step down the last class")
        up.set_title("(b) a step up the last class")
        down.legend(loc="lower left")
        for name, color in zip(REJECTED, plotting.COLORS[2:], strict=False):
            one = dataset["falling"].sel(rejected=name)
            plotting.plot_band(falling, one, "scale", color=color, label=name)
        falling.set_title("(c) a step down the class that is")
        falling.set_ylim(-0.03, 1.03)
        falling.legend(loc="best")
        plotting.label_axes(falling, x=dataset["scale"], y=dataset["falling"])
        for name, look in plotting.looks_of(RUNS).items():
            one = dataset["first_probability"].sel(objective=name)
            plotting.plot_band(runs, one, "step", color=look.color, label=_WORDS[name])
        plotting.log_steps(runs, dataset)
        runs.set_ylim(-0.03, 1.6)
        runs.set_yticks(np.arange(0, 1.1, 0.25))
        runs.set_title("(d) runs from the peaked policy")
        runs.legend(loc="upper left")
        plotting.label_axes(runs, x=dataset["step"], y=dataset["first_probability"])
    return figure
