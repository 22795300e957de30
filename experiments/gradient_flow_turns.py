"""When the chosen likelihood turns: it rises at first and falls in the end, under SGD and under Adam.

The claim: where chosen responses are a little better than the reference, training first makes them likelier,
and then less likely than at the start. The first two derivatives at the start tell when the sign turns.

All distributions lie on one geodesic, `π_s ∝ reference · q^s`, with the target at `s = 1`. Chosen responses
come from `s = position`, and rejected ones from `position − beta`, so that DPO ends at the target for every
position. The displacement `C = E_w log(π/reference)` ends at `KL(w ‖ reference) − KL(w ‖ target)`.

Gradient descent with a small rate is at time `rate · steps`. Its first two derivatives are derived and
checked in `didsim.theory.dynamics.displacement_derivatives`; the parabola of both turns at `−C′/C″`. Adam's
first steps move every logit at one speed, by `rate · sign(w − l)`. With that velocity `v` held fixed,
`C′ = ⟨w − r, v⟩` and `C″ = −Var_r(v)`: an approximation, since Adam's velocity soon changes.
"""

from functools import partial
from typing import Annotated

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
import optax
import xarray as xr
from jax.tree_util import Partial
from jaxtyping import Array, PyTree
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

import didsim
from didsim import plotting
from didsim.theory.dynamics import displacement_derivatives
from experiments.shared.configs import Count, NonNegative, Positive, SpaceConfig
from experiments.shared.wording import number, share, told_each

WAYS = {"small": "SGD, small steps", "large": "SGD, large steps", "adam": "Adam"}
_MARKS = {"small": "o", "adam": "s"}
_LARGE = (0, (1, 1.2))
_ROUNDING = 1e-12  # a displacement of this size may be rounding


class Config(SpaceConfig, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of the experiment.

    Reference and target have standard normal logits. `positions` are the places of the chosen distribution on
    the geodesic from the reference (0) to the target (1). `rates` are the learning rates of gradient descent
    with small and with large steps, and of Adam.
    """

    max_length: Count = 2
    seeds: Count = 32
    beta: Positive = 0.5
    steps: Count = 400
    positions: Annotated[tuple[NonNegative, ...], msgspec.Meta(min_length=1, max_length=6)] = (
        0.0,
        0.1,
        0.3,
        0.6,
    )
    rates: tuple[Positive, Positive, Positive] = (0.5, 25.0, 0.01)

    def numbers(self) -> dict[str, int]:
        """Vectors over the space for each run, and a record of every step."""
        runs = len(WAYS) * len(self.positions) * self.seeds
        return {"seeds": 60 * runs * self.make_space().size, "steps": 4 * runs * self.steps}


def run(config: Config, progress: bool = False) -> xr.Dataset:
    """Train from every position in three ways, and predict each turn from the start alone."""
    size, beta = config.make_space().size, config.beta
    keys = jax.random.split(jax.random.key(config.seed), (2, config.seeds))
    reference, target = didsim.normal_logits(keys[0], size), didsim.normal_logits(keys[1], size)
    log_q = didsim.did(target, reference)
    positions = jnp.asarray(config.positions)[:, None]
    chosen, rejected = (didsim.geodesic(reference, log_q, at) for at in (positions, positions - beta))
    problem = didsim.Contrastive(chosen, rejected)
    rates, is_adam = jnp.asarray(config.rates), jnp.asarray([way == "adam" for way in WAYS], float)
    trained = didsim.train(
        didsim.EnergyBased(reference),
        reference,
        problem,
        didsim.dpo(beta),
        Partial(_descent, *(one[:, None, None] for one in (rates, is_adam))),
        config.steps,
        record=didsim.Record(1, {"moved": didsim.METRICS["chosen_displacement"]}),
        target=target,
        progress=progress and "gradient_flow_turns",
    )
    moved = trained.metrics["moved"]
    flow = displacement_derivatives(reference, chosen, rejected, beta)
    signed = _at_one_speed(reference, chosen, rejected)
    first, second = (np.stack([one, one, other]) for one, other in zip(flow, signed, strict=True))
    (turns, highest), back = jax.jit(lambda moved: (_turn(moved), _back(moved)))(moved)
    times = rates[:, None, None]
    limit = didsim.expectation(chosen, target - reference)
    nats, time, of_run = {"units": "nats"}, {"units": "1"}, ("way", "position", "seed")
    return xr.Dataset(
        {
            "moved": ((*of_run, "step"), np.asarray(moved), {"long_name": "Chosen displacement", **nats}),
            "limit": (
                of_run[1:],
                np.asarray(limit),
                {"long_name": "Exact limit of it", **nats},
            ),
            "first": (of_run, first, {"long_name": "First derivative at the start", **nats}),
            "second": (of_run, second, {"long_name": "Second derivative at the start", **nats}),
            "turn": (of_run, np.asarray(times * turns), {"long_name": "Time of the turn", **time}),
            "back": (
                of_run,
                np.asarray(times * back),
                {"long_name": "Time at which it is back at its start", **time},
            ),
            "highest": (of_run, np.asarray(highest), {"long_name": "Highest displacement", **nats}),
        },
        {
            "way": list(WAYS),
            "rate": ("way", list(config.rates), {"long_name": "Learning rate", "units": "1"}),
            "position": ("position", list(config.positions), {"long_name": "Position of chosen responses"}),
            "seed": np.arange(config.seeds),
            "step": np.arange(config.steps + 1),
        },
    )


def _descent(rate: Array, is_adam: Array) -> optax.GradientTransformation:
    """Gradient descent, or Adam: one program trains by both."""
    adam = optax.scale_by_adam(eps=1e-16)

    def update(gradient: PyTree, state: PyTree, _: PyTree = None) -> tuple[PyTree, PyTree]:
        scaled, state = adam.update(gradient, state)
        steps = jax.tree.map(lambda a, g: -rate * jnp.where(is_adam > 0, a, g), scaled, gradient)
        return steps, state

    return optax.GradientTransformation(adam.init, update)


def _at_one_speed(reference: Array, chosen: Array, rejected: Array) -> tuple[Array, Array]:
    """The derivatives of the displacement if every logit moves at speed 1, towards the chosen side."""
    r, w, el = (jnp.exp(one) for one in (reference, chosen, rejected))
    v = jnp.sign(w - el)
    mean = jnp.sum(r * v, axis=-1)
    return jnp.sum((w - r) * v, axis=-1), mean**2 - jnp.sum(r * v**2, axis=-1)


def _turn(moved: Array) -> tuple[Array, Array]:
    """The step and the height of the highest point, by the parabola through it and its neighbours.

    The step is NaN if the highest record is the first or the last. The height then is that of the record.
    """
    top = jnp.argmax(moved, axis=-1)
    last = moved.shape[-1] - 1
    inside = (top > 0) & (top < last)
    near = jnp.clip(top, 1, last - 1)[..., None] + jnp.arange(-1, 2)
    before, here, after = jnp.moveaxis(jnp.take_along_axis(moved, near, axis=-1), -1, 0)
    slope, bend = (after - before) / 2, after - 2 * here + before
    shift = -slope / jnp.where(inside, bend, 1)
    height = here + slope * shift / 2
    return jnp.where(inside, top + shift, jnp.nan), jnp.where(inside, height, jnp.max(moved, axis=-1))


def _back(moved: Array) -> Array:
    """The first step at which a run that rose at its first step is back at zero, by a chord; else NaN."""
    fell = (moved[..., 1:] < 0) & (moved[..., :-1] >= 0) & (moved[..., 1:2] > _ROUNDING)
    place = jnp.argmax(fell, axis=-1)[..., None]
    before, after = (jnp.take_along_axis(moved, place + k, axis=-1)[..., 0] for k in (0, 1))
    gap = before - after
    return jnp.where(fell.any(-1), place[..., 0] + before / jnp.where(gap > 0, gap, 1), jnp.nan)


def finding(dataset: xr.Dataset) -> str:
    """How often the likelihood rises and then falls, and how good the prediction of the turn is."""
    rises = dataset["moved"].isel(step=1) > _ROUNDING
    moves = abs(dataset["first"]) > _ROUNDING
    predicted = (-dataset["first"] / dataset["second"]).where(dataset["first"] > _ROUNDING)
    known = predicted.sel(way="small").notnull().all("seed")

    by_place = partial(told_each, where="at {:g}")
    both = (rises & (dataset["limit"] < 0)).sel(way="small").mean("seed")
    right = (np.sign(dataset["moved"].isel(step=1)) == np.sign(dataset["first"])).where(moves)
    text = (
        "Let chosen responses lie between the reference (at 0) and the target (at 1). With small steps of "
        "SGD their log-likelihood first rises and has its limit below the start in "
        f"{by_place(both, share)} of seeds. The first derivative at the start has the sign of the first step "
        f"in {share(float(right.sel(way='small').mean()))} of these runs and in "
        f"{share(float(right.sel(way='adam').mean()))} of those with Adam."
    )
    if not bool(known.any()):
        return text
    # What is measured is of the positions from which the likelihood is predicted to rise.
    kept = dataset.sel(position=known.values)
    ratio = (dataset["turn"] / predicted).sel(position=known.values).median("seed")
    seen = rises.sel(position=known.values).mean(("seed", "position"))
    high = kept["highest"].sel(way="small").median("seed")
    return (
        f"{text} The measured time of the turn, over the one that the first two derivatives predict, is "
        f"{by_place(ratio.sel(way='small'), number)} with small steps, and "
        f"{by_place(ratio.sel(way='adam'), number)} with Adam (medians). The rise is "
        f"{by_place(high, number)} nats high. After its first step it shows in "
        f"{share(float(seen.sel(way='small')))} of these runs with small steps, and in "
        f"{share(float(seen.sel(way='large')))} with large ones."
    )


def plot(dataset: xr.Dataset) -> Figure:
    """Curves under SGD and Adam, turns against their prediction, and the rise on the scale predicted."""
    colors = plotting.color_of(dataset["position"].values)
    with plotting.style():
        figure, ((sgd, adam), (turns, rise)) = plotting.new_figure(2, 2, height=5.0)
        for ax, way in ((sgd, "small"), (sgd, "large"), (adam, "adam")):
            _curves(ax, dataset, way, colors)
        for ax, title in ((sgd, "(a) SGD"), (adam, "(b) Adam")):
            ax.axhline(0, color="0.4", linewidth=0.6)
            ax.set_title(title)
            ax.set_xscale("log")
            plotting.label_axes(ax, x="Time: rate · steps", y="Chosen displacement (nats)")
        _turns(turns, dataset, colors)
        _rise(rise, dataset, colors)
        lines = [Line2D([], [], color=color, label=f"chosen at {at:g}") for at, color in colors.items()]
        lines += [
            Line2D([], [], color="black", label="small steps"),
            Line2D([], [], color="black", linestyle=_LARGE, label="large steps, median"),
            Line2D([], [], color="black", label="exact limit", **plotting.EXACT),
        ]
        figure.legend(handles=lines, loc="outside lower center", ncols=4)
    return figure


def _curves(ax: Axes, dataset: xr.Dataset, way: str, colors: dict[float, str]) -> None:
    one = dataset.sel(way=way).isel(step=slice(1, None))
    time = float(one["rate"]) * one["step"].values
    one = one.assign_coords(time=("step", time)).swap_dims(step="time")
    for place, color in colors.items():
        here = one.sel(position=place)
        if way == "large":
            ax.plot(time, here["moved"].median("seed"), color=color, linestyle=_LARGE)
        else:
            plotting.plot_band(ax, here["moved"], "time", color=color)
            plotting.plot_limit(ax, here["limit"], color=color)


def _turns(ax: Axes, dataset: xr.Dataset, colors: dict[float, str]) -> None:
    """The time of the turn against its prediction, a dot for each run."""
    predicted = -dataset["first"] / dataset["second"]
    ends: list[float] = []
    for way in ("small", "adam"):
        for place, color in colors.items():
            one = {"way": way, "position": place}
            x, y = predicted.sel(one).values, dataset["turn"].sel(one).values
            known = (x > 0) & np.isfinite(y) & (y > 0)
            ends += [*x[known], *y[known]]
            ax.plot(
                x[known], y[known], _MARKS[way], color=color, markersize=2.5, markeredgewidth=0, alpha=0.7
            )
    if ends:
        ax.set_xscale("log")
        ax.set_yscale("log")
        line = np.array([min(ends) / 1.3, max(ends) * 1.3])
        ax.plot(line, line, color="black", label="as predicted", **plotting.EXACT)
    for way in ("small", "adam"):
        ax.plot([], [], _MARKS[way], color="0.3", markersize=3, label=WAYS[way])
    ax.set_title("(c) when it turns")
    plotting.label_axes(ax, x="Predicted time of the turn", y="Measured time of the turn")
    ax.legend(loc="upper left")


def _rise(ax: Axes, dataset: xr.Dataset, colors: dict[float, str]) -> None:
    """The displacement under small steps, with the predicted turn and height of each run for its units."""
    one = dataset.sel(way="small")
    times = xr.DataArray(np.linspace(0, 3, 61), dims="time", name="time").assign_coords(
        time=np.linspace(0, 3, 61)
    )
    steps = np.arange(one.sizes["step"]) * float(one["rate"])
    for place, color in colors.items():
        here = one.sel(position=place)
        first, second = here["first"].values, here["second"].values
        if (first <= _ROUNDING).any():
            continue
        turn, height = -first / second, -(first**2) / (2 * second)
        scaled = [
            np.interp(times * t, steps, moved, right=np.nan) / h
            for t, h, moved in zip(turn, height, here["moved"].values, strict=True)
        ]
        drawn = xr.DataArray(np.array(scaled), dims=("seed", "time"), coords={"time": times.values})
        plotting.plot_band(ax, drawn, "time", color=color)
    ax.plot(times, 2 * times - times**2, color="black", label="parabola", **plotting.EXACT)
    ax.axhline(0, color="0.4", linewidth=0.6)
    ax.set_ylim(-3, 3.5)
    ax.set_title("(d) the rise on its predicted scale")
    plotting.label_axes(ax, x="Time / predicted turn", y="Displacement / its prediction")
    ax.legend(loc="lower left")
