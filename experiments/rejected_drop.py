"""How fast the rejected response drops: the ratio of two gradients, and the ratio of what they do.

Feng et al., "Towards analyzing and understanding the limitations of DPO" (arXiv 2404.04626), and Yan et
al., "3D-properties" (arXiv 2406.07327), take the gradient of DPO's loss with respect to probabilities. With
`x_w = π(y_w)/π_ref(y_w)` and `x_l` alike, `|∂L/∂x_l| / |∂L/∂x_w| = x_w/x_l`. The claim: since this ratio
grows without end, DPO lowers the rejected response ever faster than it raises the chosen one. The toy here
is a softmax over a few responses and one pair.

What is exact, derived here. The loss of a pair is `softplus(−h)` with `h = β log(x_w/x_l)`. So
`∂L/∂x_w = −β σ(−h)/x_w` and `∂L/∂x_l = β σ(−h)/x_l`: that is their ratio. For probabilities it is `π_w/π_l`.
But a policy moves along its parameters. With free logits both gradients have the same size, `β σ(−h)`, and
small steps give

    d log π_w : d log π_l = (1 − π_w + π_l) : −(1 + π_w − π_l)

So in log-probability the rejected response falls faster than the chosen one rises by the factor
`(1 + π_w − π_l)/(1 − π_w + π_l)`: more than 1 exactly if the chosen one is likelier, near 1 if both are
unlikely, and without bound only where the chosen one has all mass and can rise no more.
"""

from typing import Annotated, ClassVar

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
import optax
import xarray as xr
from jaxtyping import Array
from matplotlib.figure import Figure

import didsim
from didsim import plotting
from didsim.training.metrics import METRICS, Measure, Metric
from experiments.shared.configs import Count, Positive, SpaceConfig
from experiments.shared.wording import listed, number, share

CASES = {"likely": "both likely", "unlikely": "both unlikely", "rejected": "rejected likelier"}
"""Where the pair comes from, with the words for it."""


class Config(SpaceConfig, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of the experiment.

    The reference has normal logits of the standard deviation `scale`. The pair is drawn from the likelier or
    the less likely quarter of the responses, or has a chosen response from the latter and a rejected one
    from the former. Gradient descent on logits has the rate `learning_rate`.
    """

    least: ClassVar[int] = 8
    vocab_size: Annotated[int, msgspec.Meta(ge=2, lt=2**31)] = 16
    max_length: Count = 1
    seeds: Count = 32
    beta: Positive = 0.1
    scale: Positive = 1.5
    steps: Count = 1000
    every: Count = 10
    learning_rate: Positive = 1.0

    def numbers(self) -> dict[str, int]:
        """Policies, and records of six metrics."""
        runs = len(CASES) * self.seeds
        return {
            "seeds": 40 * runs * self.make_space().size,
            "steps": 12 * runs * (self.steps // self.every + 2),
        }


def _probability_gradients(s: didsim.Snapshot) -> Array:
    """`|∂L/∂π_l| / |∂L/∂π_w|`, with all probabilities as free numbers."""

    def loss(log_probs: Array) -> Array:
        return s.objective.population_loss(log_probs, s.reference, s.problem, s.lengths)

    return _rejected_over_chosen(s, jax.grad(loss)(s.log_probs) / jnp.exp(s.log_probs))


def _logit_gradients(s: didsim.Snapshot) -> Array:
    """The same for free logits."""
    return _rejected_over_chosen(s, s.gradient.logits)


def _rejected_over_chosen(s: didsim.Snapshot, gradient: Array) -> Array:
    chosen, rejected = (jnp.sum(jnp.exp(one) * gradient) for one in (s.chosen, s.rejected))
    return jnp.abs(rejected / chosen)


_RECORDED: dict[str, Measure] = {
    **{name: METRICS[name] for name in ("chosen_logps", "rejected_logps")},
    **{name: METRICS[name] for name in ("chosen_displacement", "rejected_displacement")},
    "probability_gradients": Metric(_probability_gradients, "Gradient ratio in probabilities", "1"),
    "logit_gradients": Metric(_logit_gradients, "Gradient ratio in logits", "1"),
}


def run(config: Config, progress: bool = False) -> xr.Dataset:
    """Train on one pair for each case and seed, in one program."""
    size = config.make_space().size
    keys = jax.random.split(jax.random.key(config.seed), (2, config.seeds))
    logits = didsim.normal_logits(keys[0], size, config.scale)
    reference = -jnp.sort(-logits, axis=-1)  # the likeliest response first
    quarter = size // 4

    def drawn(key: Array) -> Array:
        one, other = jax.random.split(key)
        likely = jax.random.choice(one, quarter, (2,), replace=False)
        unlikely = size - 1 - jax.random.choice(other, quarter, (2,), replace=False)
        return jnp.stack([likely, unlikely, jnp.stack([unlikely[0], likely[1]])])

    pairs = jnp.moveaxis(jax.vmap(drawn)(keys[1]), 1, 0)  # [cases, seeds, 2]
    result = didsim.train(
        didsim.EnergyBased(jnp.broadcast_to(reference, (len(CASES), *reference.shape))),
        reference,
        didsim.Pairs(pairs[..., :1], pairs[..., 1:]),
        didsim.dpo(config.beta),
        optax.sgd(config.learning_rate),
        config.steps,
        record=didsim.Record(config.every, _RECORDED),
        progress=progress and "rejected_drop",
    )
    dataset = result.to_dataset(("case", "seed")).assign_coords(
        case=list(CASES), seed=np.arange(config.seeds)
    )
    chosen, rejected = dataset["chosen_logps"], dataset["rejected_logps"]
    exact = rate_ratio(chosen, rejected)
    between = ((exact * exact.shift(step=1)) ** 0.5).isel(step=slice(1, None))
    rates = -rejected.diff("step") / chosen.diff("step")
    return dataset.assign(
        rate_ratio=rates.assign_attrs(long_name="Fall of rejected over rise of chosen", units="1"),
        rate_formula=between.assign_attrs(
            long_name="Mean of (1 + π_w − π_l)/(1 − π_w + π_l) of two records", units="1"
        ),
    )


def rate_ratio(chosen: xr.DataArray, rejected: xr.DataArray) -> xr.DataArray:
    """`(1 + π_w − π_l)/(1 − π_w + π_l)`, of log-probabilities."""
    apart = np.exp(chosen) - np.exp(rejected)
    return (1 + apart) / (1 - apart)


def finding(dataset: xr.Dataset) -> str:
    """The two ratios of gradients, what the policy does, and how near the formula is."""
    ends = dataset.isel(step=-1).median("seed")
    names = list(CASES)
    gradients = [number(1 / float(ends["probability_gradients"].sel(case=one))) for one in names]
    moved = -ends["rejected_displacement"] / ends["chosen_displacement"]
    moves = [number(float(moved.sel(case=one))) for one in names]
    logits = number(float(np.abs(dataset["logit_gradients"] - 1).max()))
    begin = dataset["rate_ratio"].isel(step=1)
    first = [number(float(begin.sel(case=one).median())) for one in names]
    slower = share(float((begin.sel(case="rejected") < 1).mean()))
    gap = number(float(np.abs(dataset["rate_ratio"] / dataset["rate_formula"] - 1).max()))
    return (
        f"For pairs that are {listed(CASES.values())}, the ratio of the gradients in probabilities, chosen "
        f"over rejected, ends at {listed(gradients)}; in logits it is 1, to within {logits}. What the policy "
        f"does follows neither: per nat that the chosen log-likelihood has risen, the rejected one has "
        f"fallen by {listed(moves)} nats at the end, and in the first steps by {listed(first)}. If the "
        f"rejected response is likelier, the chosen one at first rises faster than the rejected one falls "
        f"in {slower} of the runs. The exact ratio of the two rates, taken between records, is off by at "
        f"most {gap} of the measured one."
    )


def plot(dataset: xr.Dataset) -> Figure:
    """Log-likelihoods of the pair, the ratio of gradients, and the ratio of the moves."""
    looks = plotting.looks_of(list(CASES))
    later = dataset.isel(step=slice(1, None))
    with plotting.style():
        figure, ((chosen, rejected), (gradients, rates)) = plotting.new_figure(2, 2, height=4.7)
        rejected.sharey(chosen)
        for name, look in looks.items():
            one = dataset.sel(case=name)
            # Two of the cases are nearly the same in three of the panels.
            line = {"color": look.color, "linestyle": ":" if name == "rejected" else "-"}
            for ax, variable in ((chosen, "chosen_displacement"), (rejected, "rejected_displacement")):
                plotting.plot_band(ax, one[variable], "step", label=CASES[name], **line)
            plotting.plot_band(gradients, one["probability_gradients"], "step", **line)
            plotting.plot_band(rates, later["rate_ratio"].sel(case=name), "step", **line)
            formula = later["rate_formula"].sel(case=name).median("seed")
            rates.plot(later["step"], formula, color="black", **plotting.EXACT)
        for ax, title in (
            (chosen, "(a) chosen log-likelihood"),
            (rejected, "(b) rejected log-likelihood"),
        ):
            ax.set_title(title)
            plotting.label_axes(ax, x=dataset["step"], y="Change (nats)")
        gradients.axhline(1, color="black", **plotting.EXACT)
        gradients.set_title("(c) gradients, rejected over chosen")
        rates.set_title("(d) moves, rejected over chosen")
        plotting.label_axes(gradients, x=dataset["step"], y="Ratio in probabilities")
        plotting.label_axes(rates, x=dataset["step"], y="Ratio of log-likelihoods")
        for ax in (gradients, rates):
            ax.set_yscale("log")
            ax.tick_params(axis="y", which="minor", left=False)
        for ax in (chosen, rejected, gradients, rates):
            plotting.log_steps(ax, dataset)
        handles, labels = chosen.get_legend_handles_labels()
        (line,) = rates.plot([], [], color="black", **plotting.EXACT)
        figure.legend(
            [*handles, line], [*labels, "(c) in logits, (d) exact"], loc="outside lower center", ncols=4
        )
    return figure
