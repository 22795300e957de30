"""What DPO does to a few pairs: it fits them, forgets the target, and grows ever surer."""

import dataclasses
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
import optax
import xarray as xr
from jaxtyping import Array, Float
from matplotlib.figure import Figure
from rich.progress import track

import didsim
from didsim import plotting
from experiments.shared.configs import Count, Positive, SpaceConfig
from experiments.shared.finite import has_minimiser
from experiments.shared.wording import number, share

RECORDED = ("chosen_displacement", "rejected_displacement", "js_to_target")
MEASURES = {
    "log_loss": ("Log loss", "nats"),
    "accuracy": ("Accuracy", "1"),
    "slope": ("Calibration slope", "1"),
}
PARTS = ("fitted", "held out")
_RECORDS = 500
_LOOKS = 40
"""About as many of the records are judged, evenly in the logarithm of the step."""


class Config(SpaceConfig, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of the experiment.

    Reference and target have random logits. Chosen responses come from the reference, and rejected ones from
    the distribution for which DPO's population optimum is the target. `pairs` are the sizes of the datasets.
    Adam with a constant `learning_rate` trains for `steps` steps on all pairs at once. Policies are judged on
    `held_out` further pairs. `weights` is the number of weights of
    `didsim.kl_to_reference`, at which the first `solved` seeds are solved.
    """

    seeds: Count = 32
    beta: Positive = 0.1
    steps: Count = 5000
    learning_rate: Positive = 0.03
    pairs: Annotated[tuple[Count, ...], msgspec.Meta(min_length=1, max_length=4)] = (60, 2000)
    held_out: Count = 2000
    weights: Annotated[int, msgspec.Meta(ge=2, le=100)] = 5
    solved: Count = 8

    def numbers(self) -> dict[str, int]:
        """Policies of all looks, pairs, and Hessians of the solver."""
        size = self.make_space().size
        looks = 2 * _RECORDS + self.weights
        return {
            "seeds": self.seeds * size * looks + 10 * self.seeds * size**2,
            "pairs": 20 * self.seeds * max(self.pairs),
            "held_out": 10 * (self.seeds + looks) * self.held_out,
        }


def run(config: Config, progress: bool = False) -> xr.Dataset:
    """Train on datasets of each size, and find the minimisers with a divergence from the reference."""
    size = config.make_space().size
    keys = jax.random.split(jax.random.key(config.seed), (4, config.seeds))
    reference, target = didsim.normal_logits(keys[0], size), didsim.normal_logits(keys[1], size)
    rejected = didsim.optimal_rejected(reference, target, config.beta)
    population = didsim.Contrastive(reference, rejected)
    kept = _samples(reference, rejected, keys[2], config.held_out)
    parts = []
    for place, pairs in enumerate(track(config.pairs, "overfitting", disable=not progress)):
        own = jax.vmap(lambda key, place=place: jax.random.fold_in(key, place))(keys[3])
        parts.append(_of_size(config, reference, target, _samples(reference, rejected, own, pairs), kept))
    truth = didsim.dpo(config.beta).population_loss(target, reference, population, None)
    nats = {"units": "nats"}
    return (
        xr.concat(parts, "pairs")
        .assign_coords(pairs=list(config.pairs), part=list(PARTS))
        .assign(
            log_loss_limit=(
                "seed",
                np.asarray(truth),
                {"long_name": "Expected log loss of the target", **nats},
            ),
            accuracy_limit=(
                "seed",
                _accuracy(reference, rejected, target - reference),
                {"long_name": "Expected accuracy of the target", "units": "1"},
            ),
        )
    )


def _samples(reference: Array, rejected: Array, keys: Array, pairs: int) -> didsim.Pairs:
    """A dataset for each seed."""

    def sample(chosen: Array, rejected: Array, key: Array) -> didsim.Pairs:
        return didsim.Contrastive(chosen, rejected).sample(key, pairs)

    return jax.vmap(sample)(reference, rejected, keys)


def _accuracy(chosen: Array, rejected: Array, score: Array) -> Float[np.ndarray, " seeds"]:
    """The expected share of pairs that a score ranks rightly, and a half of those with equal scores."""
    right = (1 + jnp.sign(score[:, :, None] - score[:, None, :])) / 2
    return np.asarray(np.einsum("si,sj,sij->s", np.exp(chosen), np.exp(rejected), right))


def _of_size(
    config: Config, reference: Array, target: Array, data: didsim.Pairs, kept: didsim.Pairs
) -> xr.Dataset:
    """The runs on one dataset for each seed."""
    objective = didsim.dpo(config.beta)
    run = didsim.train(
        didsim.EnergyBased(reference),
        reference,
        data,
        objective,
        optax.adam(config.learning_rate),
        config.steps,
        record=didsim.Record(
            max(config.steps // _RECORDS, 1),
            {**{name: didsim.METRICS[name] for name in RECORDED}, "log_probs": lambda s: s.log_probs},
        ),
        target=target,
    )
    scalars = dataclasses.replace(run, metrics={name: run.metrics[name] for name in RECORDED})
    looks = np.unique(np.r_[0, np.geomspace(1, len(run.steps) - 1, _LOOKS).round().astype(int)])
    trained = scalars.to_dataset(("seed",)).isel(step=looks)
    policies = np.asarray(run.metrics["log_probs"])[:, looks]
    weights = np.logspace(0, -4, config.weights)
    few = slice(config.solved)
    path = didsim.solve_path(
        lambda weight: objective + didsim.kl_to_reference(weight),
        reference[few],
        didsim.Pairs(data.winners[few], data.losers[few]),
        over={"weight": weights},
    )
    solved = np.moveaxis(np.asarray(path.log_probs), 0, 1)
    found = {"long_name": "Whether DPO has a minimiser", "units": "1"}
    nats = {"units": "nats"}
    return (
        trained[list(RECORDED)]
        .assign(
            **_judged(objective, policies, reference, data, kept, ("seed", "step")),
            **_judged(objective, solved, reference, data, kept, ("solved", "weight")),
            js_solved=(
                ("solved", "weight"),
                np.asarray(didsim.js(solved, target[few, None])),
                {"long_name": "JS(regularised, target)", **nats},
            ),
            found=(("seed",), has_minimiser(data, reference.shape[-1]), found),
        )
        .assign_coords(weight=("weight", weights, {"long_name": "Weight of the KL divergence", "units": "1"}))
    )


def _judged(
    objective: didsim.Objective,
    policies: np.ndarray,
    reference: Array,
    data: didsim.Pairs,
    kept: didsim.Pairs,
    dims: tuple[str, str],
) -> dict[str, Any]:
    """The log loss, accuracy and calibration slope of policies on the pairs fitted, and on those held out."""
    rows = [
        [
            didsim.held_out(
                objective,
                policies[seed],
                reference[seed],
                didsim.Pairs(pairs.winners[seed], pairs.losers[seed]),
            )
            for pairs in (data, kept)
        ]
        for seed in range(len(policies))
    ]
    values = np.array(rows)  # [seeds, parts, measures, policies]
    (runs, along), suffix = dims, "" if "step" in dims else "_solved"
    return {
        f"{name}{suffix}": ((runs, "part", along), values[:, :, place], {"long_name": text, "units": units})
        for place, (name, (text, units)) in enumerate(MEASURES.items())
    }


def finding(dataset: xr.Dataset) -> str:
    """How far chosen likelihoods go, what held-out pairs say, and what a penalty does."""
    medians = dataset.median(("seed", "solved"))
    few, many = medians.isel(pairs=0), medians.isel(pairs=-1)
    chosen, js = few["chosen_displacement"], many["js_to_target"]
    top, kept = chosen.idxmax("step"), few.sel(part="held out")
    last, best = kept.isel(step=-1), kept.isel(weight=kept["log_loss_solved"].argmin("weight"))
    numbers = {"top": chosen.max(), "fall": -chosen[-1], "slope": last["slope"], "loss": last["log_loss"]}
    found = share(float(dataset["found"].isel(pairs=0).mean()))
    told = {name: number(float(one)) for name, one in numbers.items()}
    return (
        f"On {int(few['pairs']):,} pairs the chosen log-likelihood rises by {told['top']} nats at step "
        f"{int(top):,} and is {told['fall']} nats below its start at step {int(chosen['step'][-1]):,}. No "
        f"end is near: {found} of these datasets have a minimiser. "
        f"The policy then ranks {share(float(last['accuracy']))} of held-out pairs rightly (the "
        f"target: {share(float(few['accuracy_limit']))}). It is far too sure: its calibration slope is "
        f"{told['slope']}, where 1 is calibrated, and its held-out log loss {told['loss']} nats. With a "
        f"penalty of {number(float(best['weight']))} · KL(reference ‖ policy) there is a minimiser, and the "
        f"loss is {number(float(best['log_loss_solved']))} nats. {int(many['pairs']):,} pairs overfit too: "
        f"the divergence from the target goes from {number(float(js[0]))} to {number(float(js.min()))} nats "
        f"at step {int(js.idxmin('step')):,}, and to {number(float(js[-1]))} at the end."
    )


def plot(dataset: xr.Dataset) -> Figure:
    """Five measures along training, and the calibration slope along regularisation."""
    with plotting.style():
        figure, axes = plotting.new_figure(3, 2, height=6.0)
        (moved, js), (loss, accuracy), (slope, solved) = axes
        for pairs, look in plotting.looks_of(dataset["pairs"].values).items():
            one, color = dataset.sel(pairs=pairs), look.color
            kept = one.sel(part="held out")
            label = f"{pairs:,} pairs"
            plotting.plot_band(moved, one["chosen_displacement"], "step", color=color, label=label)
            plotting.plot_band(js, one["js_to_target"], "step", color=color)
            for ax, name in ((loss, "log_loss"), (accuracy, "accuracy")):
                fitted = one[name].sel(part="fitted").median("seed")
                ax.plot(one["step"], fitted, color=color, linestyle=":")
                plotting.plot_band(ax, kept[name], "step", color=color)
            plotting.plot_band(slope, kept["slope"].isel(step=slice(1, None)), "step", color=color)
            plotting.plot_band(solved, kept["slope_solved"], "weight", "solved", color=color)
        _finish(dataset, axes)
        for ax, letter in zip(axes.flat, "abcdef", strict=True):
            ax.set_title(f"({letter}) {ax.get_title('left')}")
    return figure


def _finish(dataset: xr.Dataset, axes: Any) -> None:
    """Scales, labels, legends and the exact values of the target."""
    (moved, js), (loss, accuracy), (slope, solved) = axes
    for ax, title, label in (
        (moved, "chosen displacement", "Change (nats)"),
        (js, "distance from the target", "JS to the target (nats)"),
        (loss, "log loss", "Log loss (nats)"),
        (accuracy, "accuracy", "Pairs ranked rightly"),
        (slope, "calibration, in training", "Slope $c$, held out"),
        (solved, "calibration, with a penalty", "Slope $c$, held out"),
    ):
        ax.set_title(title)
        plotting.label_axes(ax, x=dataset["weight"] if ax is solved else dataset["step"], y=label)
        if ax is not solved:
            plotting.log_steps(ax, dataset)
    moved.set_yscale("symlog", linthresh=1)
    loss.set_yscale("log")
    accuracy.yaxis.set_major_formatter(lambda part, _: f"{100 * part:.0f}%")
    solved.set_xscale("log")
    solved.invert_xaxis()
    plotting.plot_limit(loss, dataset["log_loss_limit"], color="black")
    plotting.plot_limit(accuracy, dataset["accuracy_limit"], color="black")
    for ax in (slope, solved):
        ax.set_yscale("symlog", linthresh=1)
        ax.axhline(1, color="black", label="calibrated", **plotting.EXACT)
    solved.legend(loc="best")
    moved.legend(loc="lower left")
    for text, style in (("fitted", {"linestyle": ":"}), ("held out", {}), ("the target", plotting.EXACT)):
        loss.plot([], [], color="black", label=text, **style)
    loss.legend(loc="best")
