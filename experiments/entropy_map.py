"""Which quantity decides whether an update first raises or lowers a policy's entropy, over random updates.

The claim (Won et al., arXiv 2505.23761): learning a DID of low entropy reinforces a policy, so that its
entropy falls, and learning one of high entropy smooths it, so that its entropy rises. Three predictors of the
sign are compared, on three changes.

**Along the geodesic.** For `π_s ∝ reference · q^s` the entropy has the slope

    dH/ds = −Cov_{π_s}(log π_s, log q),

since `d log π_s/ds = log q − E_s[log q]` and `Σ dπ_s/ds = 0` (the check `entropy_slope` of `didsim check`).
At `s = 0` its sign is that of `−Cov_reference(log reference, log q)`.

**In training (derived here).** DPO does not follow the geodesic. On logits, at the reference, every pair has
the weight `σ(0) = 1/2`. So gradient descent moves logits along `v = chosen − rejected`, in probabilities,
times `beta/2`. The same calculation gives the slope of the entropy in time, `−beta/2 · Cov_reference(log
reference, v)`. Here chosen responses come from the reference, and rejected ones from the distribution that is
optimal for the target.

Each covariance must give the right sign of its own first change, but for second-order terms of a step of
finite size. Whether it also gives that of the other change, of later steps, and of the whole change to the
target is what is measured. `did_entropy` has the whole change in more detail.
"""

from functools import partial
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
import optax
import xarray as xr
from jaxtyping import Array
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

import didsim
from didsim import plotting
from experiments.shared.configs import Count, Positive, SpaceConfig
from experiments.shared.updates import RANDOM_UPDATES, draw_updates, wilson_intervals
from experiments.shared.wording import number, share

PREDICTORS = {
    "did": ("o", "DID entropy over its median"),
    "geodesic": ("^", "covariance with $\\log q$"),
    "training": ("s", "covariance with $v$"),
}
CHANGES = {
    "step_change": "first step on the geodesic",
    "small_change": "small step along v",
    "early_change": "first step of training",
    "whole_change": "whole change to the target",
}


class Config(SpaceConfig, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of the experiment.

    `instances` is the number of random updates of each of the six families. Small steps, on the
    geodesic and along `v`, have the length `step`. Gradient descent on the logits takes `steps` steps.
    """

    vocab_size: Count = 3
    max_length: Count = 3
    instances: Annotated[int, msgspec.Meta(ge=32, lt=2**31)] = 840
    beta: Positive = 0.5
    step: Annotated[float, msgspec.Meta(gt=0, le=1)] = 1e-3
    steps: Count = 100
    learning_rate: Positive = 0.5

    def numbers(self) -> dict[str, int]:
        """Vectors over the space for each instance, and the records of training."""
        updates = len(RANDOM_UPDATES) * self.instances
        return {"instances": 200 * updates * self.make_space().size, "steps": 2 * updates * self.steps}


def run(config: Config, progress: bool = False) -> xr.Dataset:
    """Measure all updates, and train on each."""
    space = config.make_space()
    reference, target = draw_updates(config.seed, config.instances, space, progress and "entropy_map")
    rejected = didsim.optimal_rejected(reference, target, config.beta)
    measured = _measure(config.step, reference, target, rejected)
    runs = didsim.train(
        didsim.EnergyBased(reference),
        reference,
        didsim.Contrastive(reference, rejected),
        didsim.dpo(config.beta),
        optax.sgd(config.learning_rate),
        config.steps,
        record=didsim.Record(1, {"policy_entropy": didsim.METRICS["policy_entropy"]}),
        progress=progress,
    )
    entropies = np.asarray(runs.metrics["policy_entropy"])
    trained = entropies[..., 1:] - entropies[..., :1]
    found = {name: np.asarray(one) for name, one in measured.items()} | {"early_change": trained[..., 0]}
    dims = ("family", "instance")
    about = {
        "did_entropy": ("DID entropy", "nats"),
        "geodesic": ("Slope of entropy along the geodesic", "nats"),
        "training": ("Slope of entropy along $v$", "nats"),
        "step_change": (f"Entropy change at s = {config.step:g}", "nats"),
        "small_change": (f"Entropy change at {config.step:g} along $v$", "nats"),
        "early_change": ("Entropy change at step 1", "nats"),
        "whole_change": ("Change of policy entropy", "nats"),
    }
    data: dict[str, Any] = {
        name: (dims, found[name], {"long_name": text, "units": units})
        for name, (text, units) in about.items()
    }
    rises = {
        "did": found["did_entropy"] > np.median(found["did_entropy"]),
        "geodesic": found["geodesic"] > 0,
        "training": found["training"] > 0,
    }
    right = np.array([[one == (found[name] > 0) for name in CHANGES] for one in rises.values()])
    shares = right.mean(axis=-1)
    data["share"] = (
        ("predictor", "change", "family"),
        shares,
        {"long_name": "Share of signs that are right", "units": "1"},
    )
    data["share_interval"] = (
        ("predictor", "change", "family", "end"),
        wilson_intervals(shares, config.instances),
        {"long_name": "95% interval of the share", "units": "1"},
    )
    data["share_of_step"] = (
        ("predictor", "family", "step"),
        np.array([(one[..., None] == (trained > 0)).mean(axis=1) for one in rises.values()]),
        {"long_name": "Share of signs that are right", "units": "1"},
    )
    return xr.Dataset(
        data,
        {
            "family": list(RANDOM_UPDATES),
            "instance": np.arange(config.instances),
            "predictor": list(PREDICTORS),
            "change": list(CHANGES),
            "end": ["low", "high"],
            "step": ("step", np.arange(1, config.steps + 1), {"long_name": "Step", "units": "1"}),
        },
    )


@partial(jax.jit, static_argnums=0)
def _measure(step: float, reference: Array, target: Array, rejected: Array) -> dict[str, Array]:
    log_q = didsim.did(target, reference)
    v = jnp.exp(reference) - jnp.exp(rejected)
    start = didsim.entropy(reference)
    return {
        "did_entropy": didsim.entropy(log_q),
        "geodesic": -_covariance(reference, log_q),
        "training": -_covariance(reference, v),
        "small_change": didsim.entropy(didsim.geodesic(reference, v, step)) - start,
        "step_change": didsim.entropy(didsim.geodesic(reference, log_q, step)) - start,
        "whole_change": didsim.entropy(target) - start,
    }


def _covariance(p: Array, values: Array) -> Array:
    """The covariance of `log p` and values under `p`."""
    centred = values - didsim.expectation(p, values)[..., None]
    return didsim.expectation(p, p * centred)


def finding(dataset: xr.Dataset) -> str:
    """How often each predictor is right about each change, where the claim fails, and what decides."""
    shares = dataset["share"]
    mean = shares.mean("family")
    families = dataset.sizes["family"]
    updates = f"{families * dataset.sizes['instance']:,} random updates of {families} families"

    def told(predictor: str, change: str) -> str:
        return share(float(mean.sel(predictor=predictor, change=change)))

    claim = shares.sel(predictor="did", change="early_change")
    low, high = (
        str(claim["family"].values[place]) for place in (claim.values.argmin(), claim.values.argmax())
    )
    median = float(dataset["did_entropy"].median())
    later = dataset["share_of_step"].mean("family").isel(step=-1)
    return (
        f"Of {updates}, DID entropy (split at its median, {number(median)} nats) gives the sign of the "
        f"entropy change at the first step of training in {told('did', 'early_change')}: from "
        f"{share(float(claim.min()))} (`{low}`) to {share(float(claim.max()))} (`{high}`) by family. The "
        f"covariance of log reference with `v = chosen − rejected` gives it in "
        f"{told('training', 'early_change')}, and the one with log q in {told('geodesic', 'early_change')}; "
        f"each gives that of its own small step in {told('training', 'small_change')} and "
        f"{told('geodesic', 'step_change')}, and that of the other's in {told('training', 'step_change')} "
        f"and {told('geodesic', 'small_change')}. After {int(dataset['step'][-1])} steps of training DID "
        f"entropy is right in {share(float(later.sel(predictor='did')))} and the two covariances in "
        f"{share(float(later.sel(predictor='training')))} and "
        f"{share(float(later.sel(predictor='geodesic')))}; of the whole change in "
        f"{told('did', 'whole_change')}, {told('training', 'whole_change')} and "
        f"{told('geodesic', 'whole_change')}."
    )


def plot(dataset: xr.Dataset) -> Figure:
    """Two scatters of the first step, the shares along training, and by family at its first step."""
    # The first colours are those of families.
    colors = dict(zip(PREDICTORS, plotting.COLORS[-3:], strict=True))
    with plotting.style():
        figure, axes = plotting.new_figure(2, 2, height=5.4)
        (claim, decides), (along, families) = axes
        for ax, name, title in (
            (claim, "did_entropy", "the claim: DID entropy"),
            (decides, "training", "what decides: a covariance"),
        ):
            plotting.plot_families(ax, dataset, name, "early_change", "family")
            ax.axhline(0, color="black", linewidth=0.8)
            ax.axvline(
                float(dataset["did_entropy"].median()) if ax is claim else 0.0,
                color="black",
                linewidth=1,
                linestyle=":",
            )
            _signed_log(ax, "y", dataset["early_change"])
            ax.set_title(title)
        _signed_log(decides, "x", dataset["training"])
        for predictor, (marker, words) in PREDICTORS.items():
            one = dataset["share_of_step"].sel(predictor=predictor)
            middle = one.mean("family")
            low, high = one.min("family"), one.max("family")
            along.fill_between(dataset["step"], low, high, color=colors[predictor], alpha=0.15, linewidth=0)
            along.plot(dataset["step"], middle, color=colors[predictor], label=words)
            shift = 0.26 * (list(PREDICTORS).index(predictor) - 1)
            at = np.arange(dataset.sizes["family"]) + shift
            ends = dataset["share_interval"].sel(predictor=predictor, change="early_change")
            families.hlines(at, ends.sel(end="low"), ends.sel(end="high"), color=colors[predictor])
            shown = dataset["share"].sel(predictor=predictor, change="early_change")
            families.plot(shown, at, marker, color=colors[predictor], markersize=3.5)
        along.set_xscale("log")
        along.set_title("along training; band: families")
        families.set_title("first step of training, by family")
        families.set_yticks(range(dataset.sizes["family"]), dataset["family"].values)
        families.set_ylim(dataset.sizes["family"] - 0.5, -0.5)
        along.axhline(0.5, color="0.6", linewidth=0.8)
        families.axvline(0.5, color="0.6", linewidth=0.8)
        along.yaxis.set_major_formatter(lambda part, _: f"{100 * part:.0f}%")
        families.xaxis.set_major_formatter(lambda part, _: f"{100 * part:.0f}%")
        plotting.label_axes(along, x=dataset["step"], y="Right signs")
        plotting.label_axes(families, x="Right signs")
        for ax, letter in zip(axes.flat, "abcd", strict=True):
            ax.set_title(f"({letter}) {ax.get_title('left')}")
        dots = [
            Line2D([], [], linestyle="", marker=".", color=look.color, label=str(name))
            for name, look in plotting.looks_of(dataset["family"].values).items()
        ]
        lines = [
            Line2D([], [], color=colors[name], marker=marker, markersize=3.5, label=words)
            for name, (marker, words) in PREDICTORS.items()
        ]
        figure.legend(handles=[*dots, *lines], loc="outside lower center", ncols=3)
    return figure


def _signed_log(ax: Axes, name: Literal["x", "y"], values: xr.DataArray) -> None:
    """A logarithmic axis on either side of zero, on which the smallest third of values is linear."""
    sizes = np.abs(values.values)
    linear = max(float(np.quantile(sizes, 0.3)), 1e-12)
    first, last = np.ceil(np.log10(3 * linear)), np.floor(np.log10(max(float(sizes.max()), 4 * linear)))
    powers = 10.0 ** np.arange(first, last + 1)
    change, axis = (ax.set_xscale, ax.xaxis) if name == "x" else (ax.set_yscale, ax.yaxis)
    change("symlog", linthresh=linear)
    axis.set_ticks([*(-powers[::-1]), 0, *powers])
