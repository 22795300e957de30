"""Where SimPO ends: at the differential information itself, if it has no margin and lengths do not count.

The claim: SimPO's divergence from the target behaves unlike DPO's, since SimPO has another end. Pairs encode
the target by the power law, `chosen = reference` and `reference/rejected ∝ (target/reference)^β`. Both losses
are logistic in the difference of rewards `h`. At the minimiser rewards therefore differ as
`log(chosen/rejected)` does. DPO's reward `β log(π/reference)` then gives the target. SimPO's `b log π` gives

    π_∞ ∝ (chosen/rejected)^(1/b) ∝ q^(β/b),    q ∝ target/reference,

the DID at `b = β`. Neither `b` nor lengths change the minimising rewards, only which policy has them. The
length-normalised reward `b log π(y)/|y|` gives `π_∞ = exp(|y| (h(y) + c)/b)`, with the one `c` that
normalises it. Where lengths differ, this is no power of the DID. A margin `γ` changes the rewards: those of
two responses alone, of which the first wins with probability `p`, differ by the `d` with
`p σ(γ − d) = (1 − p) σ(γ + d)`, which grows with `γ` if `p > 1/2`. For more responses we know no closed form,
and solve.

SimPO is that of Meng, Xia and Chen (arXiv 2405.14734). The settings are ours.
"""

from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
import xarray as xr
from jaxtyping import Array, Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import didsim
from didsim import plotting
from didsim.training.metrics import Measure, Snapshot
from experiments.shared.configs import Count, NonNegative, Positive, TrainingConfig
from experiments.shared.training import make_optimizer, seed_keys
from experiments.shared.wording import number

WAYS = {"sum": "log π", "mean": "log π per token"}
"""The two rewards of SimPO: without and with its normalisation by length."""


class Config(TrainingConfig, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of the experiment.

    Reference and target have standard normal logits. `margins` are the values of SimPO's `γ`, and `factors`
    those of its `b`, in units of the data's `β`. Per token, `b` is also multiplied by the mean length of all
    responses, so that rewards have the scale of the others. DPO is trained, and SimPO without length
    normalisation, with no margin and with the margin `trained`.
    """

    eos: bool = True
    steps: Count = 400
    margins: Annotated[tuple[NonNegative, ...], msgspec.Meta(min_length=2)] = (0.0, 0.5, 1.0, 2.0, 4.0)
    factors: Annotated[tuple[Positive, ...], msgspec.Meta(min_length=1)] = (0.25, 0.5, 1.0, 2.0, 4.0)
    trained: Positive = 1.0
    vocab_size: Count = 3

    def numbers(self) -> dict[str, int]:
        """Vectors over the space, records, and the Hessians of the solver."""
        size, solved = self.make_space().size, len(self.margins) + len(self.factors)
        return {
            "seeds": 3 * self.seeds * size * 100 + 6 * self.seeds * solved * size**2,
            "steps": 6 * self.seeds * (self.steps // self.every + 2),
        }


class _Made(NamedTuple):
    """The distributions of all seeds."""

    reference: Array
    target: Array
    log_q: Array
    problem: didsim.Contrastive


def run(config: Config, progress: bool = False) -> xr.Dataset:
    """Train DPO and SimPO, and solve SimPO along its margin and its scale, by sums and per token."""
    space = config.make_space()
    keys = seed_keys(config, 2)
    reference, target = (didsim.normal_logits(one, space.size) for one in keys)
    rejected = didsim.optimal_rejected(reference, target, config.beta)
    made = _Made(reference, target, didsim.did(target, reference), didsim.Contrastive(reference, rejected))
    rewards = _rewards(config, made)
    solved = {way: _policies(config, rewards, space, way) for way in WAYS}
    cut, ends = len(config.margins), {"DID": made.log_q, "target": target}
    measured = jax.jit(lambda policies: _measures(policies, made, space))
    limits, known = measured(jnp.stack(list(solved.values()))), measured(jnp.stack(list(ends.values())))
    variables: dict[str, Any] = {}
    for name, (text, units) in _ABOUT.items():
        about = {"long_name": text, "units": units}
        for along, part in (("margin", slice(cut)), ("factor", slice(cut, None))):
            variables[f"{name}_by_{along}"] = ("way", along, "seed"), np.asarray(limits[name][:, part]), about
        for place, whose in enumerate(ends):
            about = {"long_name": f"{text}, of the {whose}", "units": units}
            variables[f"{name}_of_{whose}"] = "seed", np.asarray(known[name][place]), about
    powers = jnp.stack([didsim.temper(made.log_q, 1 / one) for one in config.factors])
    gap = jnp.abs(solved["sum"][cut:] - powers).max(-1)
    nats = {"units": "nats"}
    about = {"long_name": "Largest error of a power of the DID", **nats}
    dataset = xr.Dataset({**variables, "gap": (("factor", "seed"), np.asarray(gap), about)})
    return dataset.merge(_trained(config, made, progress)).assign_coords(
        way=list(WAYS),
        margin=("margin", list(config.margins), {"long_name": "Margin γ", **nats}),
        factor=("factor", list(config.factors), {"long_name": "SimPO's b over the data's β", "units": "1"}),
        seed=np.arange(config.seeds),
    )


_ABOUT = {
    "js_target": ("JS(policy, target)", "nats"),
    "js_did": ("JS(policy, DID)", "nats"),
    "entropy": ("Entropy", "nats"),
    "length": ("Mean length", "1"),
}


def _measures(policies: Array, made: _Made, space: didsim.SequenceSpace) -> dict[str, Array]:
    """What is measured of policies, by name."""
    return {
        "js_target": didsim.js(policies, made.target),
        "js_did": didsim.js(policies, made.log_q),
        "entropy": didsim.entropy(policies),
        "length": didsim.expectation(policies, jnp.asarray(space.lengths, policies.dtype)),
    }


def _rewards(config: Config, made: _Made) -> Float[Array, "margins_and_none seeds sequences"]:
    """The minimising rewards at every margin, and then without a margin.

    Raises:
        ValueError: the solver did not converge.
    """
    margins = jnp.asarray([*config.margins, 0.0])[:, None]
    objective = didsim.simpo(config.beta, margins, length_normalised=False)
    solution = didsim.solve(objective, made.reference, made.problem)
    if not np.all(solution.certificate.converged):
        raise ValueError("`beta` and `margins` must be such that every solver converges")
    return config.beta * jnp.asarray(solution.log_probs)


def _policies(
    config: Config, rewards: Array, space: didsim.SequenceSpace, way: str
) -> Float[Array, "settings seeds sequences"]:
    """The policies with these rewards: along the margins at `b = β`, and along `b` without a margin."""
    lengths = jnp.asarray(space.lengths)
    factors = jnp.asarray([*(1.0 for _ in config.margins), *config.factors])[:, None]
    per_token = way == "mean"
    scale = config.beta * (float(np.mean(space.lengths)) if per_token else 1.0)
    reward = didsim.simpo(scale * factors, 0, length_normalised=per_token).reward
    h = jnp.concatenate([rewards[:-1], jnp.repeat(rewards[-1:], len(config.factors), axis=0)])
    return jax.jit(lambda h: reward.policy(h, h, lengths))(h)


def _trained(config: Config, made: _Made, progress: bool) -> xr.Dataset:
    """The divergences from the target and from the DID along training."""
    margins = jnp.asarray([0.0, config.trained])[:, None]
    objectives = {
        ("DPO",): didsim.dpo(config.beta),
        ("SimPO, γ = 0", f"SimPO, γ = {config.trained:g}"): didsim.simpo(
            config.beta, margins, length_normalised=False
        ),
    }
    metrics: dict[str, Measure] = {"js_to_target": didsim.METRICS["js_to_target"], "js_to_did": _js_to_did}
    names: list[str] = []
    parts = []
    for several, objective in objectives.items():
        run = didsim.train(
            didsim.EnergyBased(made.reference),
            made.reference,
            made.problem,
            objective,
            make_optimizer(config),
            config.steps,
            record=didsim.Record(config.every, metrics),
            target=made.target,
            progress=progress and several[0],
        )
        one = run.to_dataset(("seed",) if len(several) == 1 else ("objective", "seed"))
        parts.append(one if len(several) > 1 else one.expand_dims("objective"))
        names += several
    dataset = xr.concat(parts, "objective").assign_coords(objective=names)
    dataset["js_to_did"].attrs |= {"long_name": "JS(learned, DID)", "units": "nats"}
    return dataset


def _js_to_did(s: Snapshot) -> Array:
    assert s.target is not None
    return didsim.js(s.log_probs, didsim.did(s.target, s.reference))


def finding(dataset: xr.Dataset) -> str:
    """Where SimPO ends, and what its margin and its normalisation by length change."""
    middle = dataset.median("seed")
    low, high = (float(end(dataset["margin"])) for end in (np.min, np.max))

    def value(name: str, margin: float, way: str = "sum") -> str:
        return number(float(middle[f"{name}_by_margin"].sel(way=way, margin=margin)))

    def of(name: str) -> str:
        return number(float(middle[name]))

    dpo, simpo = (middle["js_to_target"].isel(objective=k) for k in (0, 1))
    first, least, last = (number(float(one)) for one in (simpo[0], simpo.min(), simpo[-1]))
    return (
        "Without margin and length normalisation SimPO's minimisers are `q^(β/b)`, to "
        f"{number(float(dataset['gap'].max()))} nats, and at `b = β` the DID. So its JS to the target tends "
        f"to JS(DID, target) = {of('js_target_of_DID')} nats: in training it begins at {first}, is lowest at "
        f"step {int(simpo.idxmin('step')):,} ({least}), and ends at {last}, where DPO ends at "
        f"{number(float(dpo[-1]))}. From a margin of {low:g} to {high:g} the JS to the DID goes from "
        f"{value('js_did', low)} to {value('js_did', high)} nats, that to the target from "
        f"{value('js_target', low)} to {value('js_target', high)}, and the entropy from "
        f"{value('entropy', low)} to {value('entropy', high)}. With rewards per token and a margin of "
        f"{low:g}, the JS to the DID is {value('js_did', low, 'mean')} nats and that to the target "
        f"{value('js_target', low, 'mean')}; responses have {value('length', low, 'mean')} tokens on "
        f"average, those of the DID {of('length_of_DID')} and of the target {of('length_of_target')}."
    )


def plot(dataset: xr.Dataset) -> Figure:
    """Both divergences along training, along the margin and along the scale."""
    looks = plotting.looks_of(dataset["objective"].values)
    with plotting.style():
        figure, ((target, did), (margin, factor)) = plotting.new_figure(2, 2, height=4.8)
        for ax, name in ((target, "js_to_target"), (did, "js_to_did")):
            for objective, look in looks.items():
                one = dataset[name].sel(objective=objective)
                plotting.plot_band(ax, one, "step", label=objective, **look.line)
            plotting.log_steps(ax, dataset)
            plotting.label_axes(ax, x=dataset["step"])
            ax.set_ylim(bottom=0)
        plotting.plot_limit(target, dataset["js_target_of_DID"], color="black", label="JS(DID, target)")
        plotting.plot_limit(did, dataset["js_target_of_DID"], color="black", label="JS(target, DID)")
        for ax, along in ((margin, "margin"), (factor, "factor")):
            _along(ax, dataset, along)
        factor.set_xscale("log", base=2)
        factor.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
        titles = (
            "distance from the target",
            "distance from the DID",
            "the limit by margin",
            "the limit by scale",
        )
        labels = ("JS to the target (nats)", "JS to the DID (nats)", "JS of the limit (nats)")
        for ax, letter, title, y in zip(
            (target, did, margin, factor), "abcd", titles, (*labels, labels[-1]), strict=True
        ):
            ax.set_title(f"({letter}) {title}")
            plotting.label_axes(ax, y=y)
        target.set_ylim(top=1.45 * target.get_ylim()[1])
        target.legend(loc="upper left", ncols=2, columnspacing=1.0)
        margin.set_ylim(top=1.35 * margin.get_ylim()[1])
        margin.legend(loc="upper left", ncols=2, columnspacing=1.0)
    return figure


def _along(ax: Axes, dataset: xr.Dataset, along: str) -> None:
    """The limit's distance from the target and from the DID, by sums and per token."""
    for way, line, text in zip(WAYS, ("-", (0, (1, 1.2))), ("", ", per token"), strict=True):
        for name, color, mark, whose in (
            ("js_target", plotting.COLORS[1], "o", "to target"),
            ("js_did", plotting.COLORS[2], "s", "to DID"),
        ):
            values = dataset[f"{name}_by_{along}"].sel(way=way)
            options: Any = {"color": color, "marker": mark, "markersize": 3, "linestyle": line}
            plotting.plot_band(ax, values, along, label=whose + text, **options)
    plotting.label_axes(ax, x=dataset[along])
    ax.set_ylim(bottom=0)
