"""Chosen responses that are not the reference's: what DPO then aims at, and when the chosen likelihood rises.

The claim, stated before any run. If chosen responses come from the reference, their log-likelihood can only
fall (Won et al., arXiv 2505.23761). Elsewhere they come from another distribution `chosen`: the best of `n`
draws, a teacher, or an older policy, for which the reference is stale. DPO then ends at
`reference · (chosen/rejected)^(1/beta)`, normalised: the implied target.

**Displacement is a difference of two fits.** For any policy `π` the chosen log-likelihood changes by
`E_chosen log(π/reference) = KL(chosen ‖ reference) − KL(chosen ‖ π)`. So it rises exactly if `π` fits chosen
responses better than the reference does, and by at most `KL(chosen ‖ reference)`, the room.

**When it can rise (derived here).** Let `x = log(chosen/rejected)`. At `s = 1/beta` the implied target's
displacement is `D(s) = s E_chosen[x] − log E_reference[e^(s x)]`. The last term is minus a cumulant
generating function, so `D` is concave, `D(0) = 0`, and its slope at 0 is

    KL(chosen ‖ rejected) + KL(reference ‖ chosen) − KL(reference ‖ rejected).

If that is not positive, the chosen likelihood falls at every beta. If it is, there is one beta above which
the chosen likelihood rises and below which it falls, since `E_chosen[x]` is below the largest `x`. Where
rejected responses come from the reference, the slope is `KL(chosen ‖ reference) + KL(reference ‖ chosen)`: a
large enough beta always makes the chosen likelihood rise. (The check `displacement_is_concave` of `didsim
check` is this statement.)
"""

from functools import partial
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
import xarray as xr
from jaxtyping import Array
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import didsim
from didsim import plotting
from experiments.shared.configs import Count, NonNegative, Positive, SpaceConfig
from experiments.shared.wording import listed, number, share

SOURCES = ("best of n", "teacher", "older policy")
REJECTED = {"reference": "rejected: reference", "optimal": "rejected: optimal"}
_HALVINGS = 60
_EDGE = 7.0
"""A beta is searched between `e^−7` and `e^7`."""

Ascending = Annotated[tuple[NonNegative, ...], msgspec.Meta(min_length=2, max_length=40)]


class Config(SpaceConfig, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of the experiment.

    Reference and target have random logits, and the reward is `log(target/reference)`. Chosen responses are
    moved away from the reference by a `shift`. At shift `t` they are the best of `2^(most · t)` draws from
    the reference by reward; a teacher at position `t` of the geodesic from the reference to the target; or
    an older policy, the reference times `exp(2 t z)` with standard normal `z`. Rejected responses come from
    the reference, or from the distribution that is optimal for `beta` if chosen ones are the reference's.
    The curves over `betas` are at shift `at`.
    """

    max_length: Count = 3
    seeds: Count = 32
    beta: Positive = 0.5
    shifts: Ascending = (0.0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0)
    most: Positive = 4.0
    at: Annotated[float, msgspec.Meta(gt=0, le=2)] = 0.5
    betas: Annotated[tuple[Positive, ...], msgspec.Meta(min_length=2)] = tuple(
        float(beta) for beta in np.geomspace(0.1, 10, 25).round(4)
    )

    def numbers(self) -> dict[str, int]:
        """Policies of every source and shift, and of every beta."""
        one = 20 * len(SOURCES) * self.seeds * self.make_space().size
        return {"shifts": one * len(self.shifts), "betas": one * len(self.betas)}


def run(config: Config, progress: bool = False) -> xr.Dataset:
    """Find the implied targets of all sources and shifts, and of all betas at one shift."""
    del progress  # It takes a few seconds.
    size = config.make_space().size
    keys = jax.random.split(jax.random.key(config.seed), (3, config.seeds))
    reference, target = didsim.normal_logits(keys[:2], size)
    drift = jax.vmap(lambda key: jax.random.normal(key, (size,)))(keys[2])
    chosen = _chosen(config.most, jnp.sort(jnp.asarray(config.shifts)), reference, target, drift)
    (one,) = jnp.moveaxis(_chosen(config.most, jnp.array([config.at]), reference, target, drift), 1, 0)
    rejected = jnp.stack([reference, didsim.optimal_rejected(reference, target, config.beta)])
    by_shift = _measures(jnp.array(config.beta), reference, target, chosen, rejected[:, None, None])
    betas = jnp.sort(jnp.asarray(config.betas))
    by_beta = _measures(betas[:, None], reference, target, one[:, None], rejected[:, None, None])
    slope, turn = _turn(reference, one, rejected[:, None])
    nats = {"units": "nats"}
    about = {
        "displacement": "Chosen displacement",
        "js": "JS of the implied target to the target",
        "room": "KL(chosen ‖ reference)",
        "misfit": "KL(chosen ‖ implied target)",
    }
    cells = ("rejected", "source", "shift", "seed")
    along = ("rejected", "source", "beta", "seed")
    data: dict[str, Any] = {
        name: (cells, np.asarray(by_shift[name]), {"long_name": text, **nats}) for name, text in about.items()
    }
    data["displacement_of_beta"] = (
        along,
        np.asarray(by_beta["displacement"]),
        {"long_name": "Chosen displacement", **nats},
    )
    ends = ("rejected", "source", "seed")
    data["slope"] = (
        ends,
        np.asarray(slope),
        {"long_name": "Slope of the displacement in 1/beta at 0", **nats},
    )
    data["turn"] = (ends, np.asarray(turn), {"long_name": "beta below which it falls", "units": "1"})
    return xr.Dataset(
        data,
        {
            "rejected": list(REJECTED),
            "source": list(SOURCES),
            "shift": ("shift", np.sort(config.shifts), {"long_name": "Shift $t$", "units": "1"}),
            "beta": ("beta", np.sort(config.betas), {"long_name": "beta", "units": "1"}),
            "seed": np.arange(config.seeds),
        },
        {"at": config.at, "beta": config.beta},
    )


@partial(jax.jit, static_argnums=0)
def _chosen(most: float, shifts: Array, reference: Array, target: Array, drift: Array) -> Array:
    """The distributions of chosen responses, `[sources, shifts, seeds, sequences]`."""

    def at(shift: Array) -> Array:
        return jnp.stack(
            [
                didsim.best_of_n(reference, target - reference, 2 ** (most * shift)),
                didsim.geodesic(reference, target - reference, shift),
                didsim.bayes_update(reference, 2 * shift * drift),
            ]
        )

    return jnp.moveaxis(jax.vmap(at)(shifts), 0, 1)


@jax.jit
def _measures(
    beta: Array, reference: Array, target: Array, chosen: Array, rejected: Array
) -> dict[str, Array]:
    """What is measured of DPO's limit. All arguments broadcast; `beta` has no axis of sequences."""
    shape = jnp.broadcast_shapes(chosen.shape, rejected.shape, (*beta.shape, 1), reference.shape)
    chosen, rejected = jnp.broadcast_to(chosen, shape), jnp.broadcast_to(rejected, shape)
    implied = didsim.fixed_point(didsim.dpo(beta), reference, didsim.Contrastive(chosen, rejected))
    return {
        "displacement": didsim.expectation(chosen, implied - reference),
        "js": didsim.js(implied, target),
        "room": didsim.kl(chosen, reference),
        "misfit": didsim.kl(chosen, implied),
    }


@jax.jit
def _turn(reference: Array, chosen: Array, rejected: Array) -> tuple[Array, Array]:
    """The slope at `1/beta = 0`, and the beta at which the displacement is zero; infinite if it only falls.

    It is found by halving an interval of `log(1/beta)`. The displacement is concave in `1/beta` and begins at
    zero, so it has one sign before the zero and the other after it.
    """
    slope = didsim.kl(chosen, rejected) + didsim.kl(reference, chosen) - didsim.kl(reference, rejected)
    x = chosen - rejected

    def displacement(s: Array) -> Array:
        return s * didsim.expectation(chosen, x) - jax.nn.logsumexp(reference + s[..., None] * x, axis=-1)

    def halve(_: int, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        middle = (low + high) / 2
        rises = displacement(jnp.exp(middle)) > 0
        return jnp.where(rises, middle, low), jnp.where(rises, high, middle)

    edge = jnp.full(slope.shape, _EDGE)
    low, high = jax.lax.fori_loop(0, _HALVINGS, halve, (-edge, edge))
    return slope, jnp.where(slope > 1e-12, jnp.exp(-(low + high) / 2), jnp.inf)


def finding(dataset: xr.Dataset) -> str:
    """Where the chosen likelihood rises, at which beta it turns, and what the implied target is."""
    last = dataset.isel(shift=-1)
    parts = []
    for rejected, words in (
        ("reference", "from the reference"),
        ("optimal", "from the optimal distribution"),
    ):
        one = last.sel(rejected=rejected)
        moved = listed(
            f"{number(float(one['displacement'].sel(source=source).median()))} ({source})"
            for source in SOURCES
        )
        rises = share(
            float((dataset["displacement"].sel(rejected=rejected).isel(shift=slice(1, None)) > 0).mean())
        )
        turn = dataset["turn"].sel(rejected=rejected)
        fall = share(float(np.isinf(turn).mean()))
        turns = listed(f"{number(float(turn.sel(source=one).median()))} ({one})" for one in SOURCES)
        parts.append(
            f"With rejected responses {words} the chosen log-likelihood changes, at the largest shift, by "
            f"a median of {moved} nats, and rises in {rises} of all shifted cases. At shift "
            f"{dataset.attrs['at']:g} the beta at which it turns is {turns}; it falls at every beta in "
            f"{fall} of cases."
        )
    unmoved = dataset["displacement"].isel(shift=0).max(("seed", "source"))
    js = last["js"].sel(rejected="optimal").median("seed")
    aims = listed(f"{number(float(js.sel(source=source)))} ({source})" for source in SOURCES)
    return (
        f"{' '.join(parts)} At the smallest shift, {float(dataset['shift'][0]):g}, it changes by at most "
        f"{number(float(unmoved.sel(rejected='optimal')))} nats with optimal rejected responses. These are "
        "optimal for chosen responses of the reference alone: at the largest shift the implied target is "
        f"{aims} nats from the target."
    )


def plot(dataset: xr.Dataset) -> Figure:
    """The displacement against the shift and against beta, for both kinds of rejected responses."""
    with plotting.style():
        figure, axes = plotting.new_figure(2, 2, height=4.6)
        for column, (rejected, title) in enumerate(REJECTED.items()):
            one = dataset.sel(rejected=rejected)
            by_shift, by_beta = axes[:, column]
            for source, look in plotting.looks_of(list(SOURCES)).items():
                shown = one.sel(source=source)
                plotting.plot_band(
                    by_shift, shown["displacement"], "shift", color=look.color, marker="o", markersize=2.5
                )
                plotting.plot_band(
                    by_beta, shown["displacement_of_beta"], "beta", color=look.color, label=source
                )
                turn = float(shown["turn"].median())
                if dataset["beta"][0] < turn < dataset["beta"][-1]:
                    by_beta.plot(turn, 0, "D", color=look.color, mec="white", mew=0.6, markersize=5, zorder=4)
            by_shift.set_title(f"({'ab'[column]}) {title}")
            by_beta.set_title(f"({'cd'[column]}) at shift {dataset.attrs['at']:g}, by beta")
            by_beta.set_xscale("log")
            plotting.label_axes(by_shift, x=dataset["shift"], y="Displacement (nats)")
            plotting.label_axes(by_beta, x=dataset["beta"], y="Displacement (nats)")
            for ax in (by_shift, by_beta):
                _finish(ax)
        by_beta.plot([], [], "D", color="0.4", markersize=4, label="exact turn")
        handles, words = by_beta.get_legend_handles_labels()
        figure.legend(handles, words, loc="outside lower center", ncols=4)
    return figure


def _finish(ax: Axes) -> None:
    ax.set_yscale("symlog", linthresh=0.1)
    ax.axhline(0, color="black", linewidth=0.8, zorder=1)
