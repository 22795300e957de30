"""The exact minimiser of every objective when preferences encode the target, over random instances."""

import json

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
import xarray as xr
from jaxtyping import Array
from matplotlib.figure import Figure
from rich.progress import track

import didsim
from didsim import plotting
from experiments.shared import limits
from experiments.shared.configs import Count, Names, Positive, SpaceConfig
from experiments.shared.limits import GRADIENT_DESCENT, Limit, find_limit
from experiments.shared.names import readable
from experiments.shared.summary import ZERO, summarise
from experiments.shared.wording import listed, number, share

MEASURES = {
    "js": "JS(minimiser, target)",
    "entropy": "Entropy of the minimiser",
    "displacement": "Chosen displacement",
    "margin": "Expected log-margin",
}
FACTS = {
    "converged": "Whether the minimiser was found",
    "full_support": "Whether it gives every sequence a positive probability",
    "unique": "Whether it is proven to be the only one",
    "agreed": "Whether all starts ended there",
}


class Config(SpaceConfig, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of the experiment.

    The data have the strength `beta`, and `experiments.shared.limits.strength` gives it to every objective.
    `starts` is the number of starts of the solver. A gradient rule (DPO-PG) is trained by gradient descent of
    `steps` steps with `learning_rate`.
    """

    vocab_size: Count = 3
    eos: bool = True
    seeds: Count = 200
    objectives: Names = msgspec.field(default_factory=lambda: (*limits.drawn_names(), limits.SUM))
    beta: Positive = 0.5
    starts: Count = 2
    steps: Count = 10_000
    learning_rate: Positive = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        limits.check_names(self.objectives)


def run(config: Config, progress: bool = False) -> xr.Dataset:
    """Solve all instances of every objective. Chosen responses come from the reference."""
    space = config.make_space()
    keys = jax.random.split(jax.random.key(config.seed), (2, config.seeds))
    reference, target = didsim.normal_logits(keys, space.size)
    rejected = didsim.optimal_rejected(reference, target, config.beta)
    problem = didsim.Contrastive(reference, rejected)
    measured, facts, methods = [], [], []
    for name in track(config.objectives, "objective_zoo", disable=not progress):
        limit = find_limit(
            limits.make(name, config.beta, config.max_length),
            reference,
            problem,
            space,
            starts=config.starts,
            steps=config.steps,
            learning_rate=config.learning_rate,
        )
        measured.append(_measure(limit, reference, target, problem))
        facts.append(_facts(limit))
        methods.append(limit.method)
    dims = ("objective", "seed")
    nats, share = {"units": "nats"}, {"units": "1"}
    of_target = {
        "target_entropy": ("Entropy of the target", didsim.entropy(target)),
        "target_displacement": ("Chosen displacement of the target", -didsim.kl(reference, target)),
        "target_margin": ("Expected log-margin of the target", _margin(target, problem)),
    }
    return xr.Dataset(
        {
            **{
                name: (dims, np.stack([one[name] for one in measured]), {"long_name": text, **nats})
                for name, text in MEASURES.items()
            },
            **{
                name: (dims, np.stack([one[name] for one in facts]), {"long_name": text, **share})
                for name, text in FACTS.items()
            },
            "method": ("objective", methods, {"long_name": "How the minimiser was found", "units": "1"}),
            **{
                name: ("seed", values, {"long_name": text, **nats})
                for name, (text, values) in of_target.items()
            },
        },
        coords={"objective": list(config.objectives), "seed": np.arange(config.seeds)},
    )


def _measure(
    limit: Limit, reference: Array, target: Array, problem: didsim.Contrastive
) -> dict[str, np.ndarray]:
    """Divergence, entropy, displacement and margin, in nats; NaN where the solver found no limit.

    If the policy runs off (see `Limit`), divergence and entropy tend to limits, and the last values stand for
    these. Displacement and margin have no finite limit and are infinite.
    """
    log_probs = limit.log_probs
    drop = jnp.sum(jnp.exp(reference) * (log_probs - reference), axis=-1)
    values = {
        "js": didsim.js(log_probs, target),
        "entropy": didsim.entropy(log_probs),
        "displacement": jnp.where(limit.runs_off, -jnp.inf, drop),
        "margin": _margin(log_probs, problem),
    }
    values["margin"] = jnp.where(limit.runs_off, jnp.sign(values["margin"]) * jnp.inf, values["margin"])
    ended = limit.converged | limit.runs_off
    return {name: np.where(ended, value, np.nan) for name, value in values.items()}


def _margin(log_probs: Array, problem: didsim.Contrastive) -> Array:
    """`E_w log π − E_l log π`, as a single sum, so that `−inf` is never subtracted from `−inf`."""
    weights = jnp.exp(problem.chosen) - jnp.exp(problem.rejected)
    return jnp.sum(jnp.where(weights == 0, 0, weights * log_probs), axis=-1)


def _facts(limit: Limit) -> dict[str, np.ndarray]:
    full = np.isfinite(limit.log_probs).all(axis=-1) & ~limit.runs_off
    return {
        "converged": limit.converged.astype(float),
        "full_support": np.where(limit.converged | limit.runs_off, full, np.nan),
        "unique": limit.unique,
        "agreed": limit.agreed,
    }


_MARKS: dict[str, dict[str, str]] = {
    "minimiser, proven the only one": {
        "color": plotting.COLORS[0],
        "marker": "o",
        "markerfacecolor": plotting.COLORS[0],
    },
    "minimiser, others not excluded": {
        "color": plotting.COLORS[2],
        "marker": "o",
        "markerfacecolor": "white",
    },
    "none of full support in some or all": {
        "color": plotting.COLORS[1],
        "marker": "D",
        "markerfacecolor": plotting.COLORS[1],
    },
    "gradient rule, trained": {"color": "black", "marker": "s", "markerfacecolor": "white"},
}


def _kind(one: xr.Dataset) -> str:
    if str(one["method"].values) == GRADIENT_DESCENT:
        return "gradient rule, trained"
    if (one["full_support"] == 0).any():
        return "none of full support in some or all"
    return (
        "minimiser, proven the only one" if (one["unique"] == 1).all() else "minimiser, others not excluded"
    )


_SHARPER = 0.2  # nats
_HOLDS = 0.2  # of the target's fall


def groups_of(dataset: xr.Dataset) -> dict[str, list[str]]:
    """Objectives by what becomes of the policy, in medians, and in a group by the divergence from the target.

    An objective is in the first group that fits: some instance has no minimiser of full support; the target
    is reached, to 1e-12 nats; the entropy lies more than 0.2 nats below the target's; the chosen likelihood
    falls by less than a fifth of the target's fall; or none of these.
    """
    middle = dataset[list(MEASURES)].median("seed")
    target = {name: float(dataset[f"target_{name}"].median()) for name in ("entropy", "displacement")}
    groups: dict[str, list[str]] = {
        "Reaches the target": [],
        "Comes near it": [],
        "Keeps chosen likely": [],
        "Sharper than target": [],
        "Zero probabilities": [],
    }
    reaches, near, keeps, sharper, loses = groups.values()
    for name in dataset["objective"].values[np.argsort(middle["js"].values)]:
        one = middle.sel(objective=name)
        if (dataset["full_support"].sel(objective=name) == 0).any():
            group = loses
        elif one["js"] < ZERO:
            group = reaches
        elif one["entropy"] < target["entropy"] - _SHARPER:
            group = sharper
        else:
            group = keeps if one["displacement"] > _HOLDS * target["displacement"] else near
        group.append(str(name))
    return {title: names for title, names in groups.items() if names}


def finding(dataset: xr.Dataset) -> str:
    """The groups, with their divergences, and the shares of instances without a minimiser."""
    middle, parts = dataset["js"].median("seed"), []
    for title, names in groups_of(dataset).items():
        ends = [float(middle.sel(objective=name)) for name in names]
        span = number(ends[0]) if len(ends) == 1 else f"{number(ends[0])} to {number(ends[-1])}"
        span = "0" if max(ends) < ZERO else span
        parts.append(f"- {title} (JS divergence {span} nats): {listed([f'`{name}`' for name in names])}.")
    # A gradient rule has no minimiser, and is at rest or not.
    solved = dataset.isel(objective=np.flatnonzero(dataset["method"].values != GRADIENT_DESCENT))
    without = 1 - solved["converged"].mean("seed")
    lost = [
        f"`{name}` in {share(float(one))}"
        for name, one in zip(solved["objective"].values, without.values, strict=True)
        if one > 0
    ]
    sizes = f"{dataset.sizes['objective']} objectives on {dataset.sizes['seed']} instances"
    text = f"Where {sizes} end, if the pairs encode the target:\n\n" + "\n".join(parts)
    return text + (f"\n\nThe solver found no minimiser for {listed(lost)} of the instances." if lost else "")


def tables(dataset: xr.Dataset) -> dict[str, str]:
    """The numbers of the table of objectives."""
    return {"objective_zoo": json.dumps(summarise(dataset), indent=1) + "\n"}


def plot(dataset: xr.Dataset) -> Figure:
    """A row for each objective, in groups by what becomes of the policy; a panel for each measure."""
    groups = groups_of(dataset)
    dataset = dataset.sel(objective=[name for names in groups.values() for name in names])
    kinds = [_kind(dataset.sel(objective=name)) for name in dataset["objective"].values]
    headings, places = _places([len(names) for names in groups.values()])
    renamed = dataset.assign_coords(objective=[readable(name) for name in dataset["objective"].values])
    panels = (
        ("(a) to the target", "JS divergence (nats)"),
        ("(b) entropy", "nats"),
        ("(c) displacement", "of the chosen (nats)"),
        ("(d) log-margin", "expected (nats)"),
    )
    with plotting.style():
        height = 1.0 + 0.15 * (len(places) + len(headings))
        figure, axes = plotting.new_figure(1, 4, height=height, sharey=True, width_ratios=(1.25, 1, 1, 1))
        for ax, measure, (title, label) in zip(axes, MEASURES, panels, strict=True):
            if measure == "js":
                ax.set_xscale("log")
            else:
                known = float(dataset[f"target_{measure}"].median())
                ax.axvline(known, color="black", zorder=1, **plotting.EXACT)
            plotting.plot_intervals(
                ax,
                renamed[measure],
                "objective",
                marks=[_MARKS[kind] for kind in kinds],
                places=places,
                floor=ZERO if measure == "js" else None,
            )
            for heading in headings:
                ax.axhspan(heading - 0.5, heading + 0.5, color="0.93", linewidth=0, zorder=1.5)
            ax.set_ylim(places[-1] + 0.6, headings[0] - 0.6)
            ax.set_title(title)
            plotting.label_axes(ax, x=label)
            ax.tick_params(axis="y", length=0, labelsize=7)
        for heading, title in zip(headings, groups, strict=True):
            axes[0].text(
                0.03,
                heading,
                title,
                transform=axes[0].get_yaxis_transform(),
                va="center_baseline",
                fontsize=7,
                fontweight="bold",
                zorder=5,
            )
        for kind, mark in _MARKS.items():
            if kind in kinds:
                axes[0].plot([], [], linestyle="", markersize=3.6, label=kind, **mark)
        axes[0].plot([], [], color="black", label="target (median)", **plotting.EXACT)
        figure.legend(loc="outside lower center", ncols=3, handletextpad=0.3, columnspacing=1.2)
    return figure


def _places(sizes: list[int]) -> tuple[list[int], list[int]]:
    """The places of headings and of rows, from the top: each group is a heading and its rows."""
    headings: list[int] = []
    rows: list[int] = []
    at = 0
    for size in sizes:
        headings.append(at)
        rows += range(at + 1, at + 1 + size)
        at += 1 + size
    return headings, rows
