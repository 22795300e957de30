"""Rounds of DPO towards a target that is only known through a teacher: convergence, its speed and its floor.

The claim, stated before any run: rounds that each build rejected responses from the current estimate should
converge to the target, and the teacher's error should set the floor. Two such schemes are the same recursion.

- **Last policy.** Chosen responses come from the teacher `τ`, rejected ones from the last round's policy `π`,
  which is also the reference, as in SPIN (Chen et al., arXiv 2401.01335). DPO ends at `π (τ/π)^(1/beta)`.
- **Estimate.** The reference stays. Chosen responses come from it, and rejected ones from the distribution
  that is optimal for an estimate of the target, `π^(1 − α) τ^α`, normalised. DPO ends at this estimate.

**The recursion (derived here).** Let `α = 1/beta` in the first scheme, `τ_t ∝ target · exp(ε_t)`, and
`e_t = log(π_t/target)` up to a constant. Either way

    e_{t+1} = (1 − α) e_t + α ε_t.

1. *Same teacher in all rounds* (`ε_t = ε`): each round multiplies `e_t − ε` by `1 − α`. So policies converge
   to the teacher, from every start, if and only if `0 < α < 2`: in the first scheme, if `beta > 1/2`.
2. *A fresh teacher in each round*, with independent errors of variance `σ²`: the variance of `e_t` tends to
   `σ² α/(2 − α)`, from `v = (1 − α)² v + α² σ²`. This is below the teacher's own `σ²` if and only if `α < 1`.
3. *Averaging*, `α_t = 1/(t + 1)`: `e_t` is the mean of the errors so far, of variance `σ²/t`, without floor.

The check `refinement_contracts` of `didsim check` is the first statement. Errors here are `σ` times standard
normal numbers. The mean square is over sequences, after their mean: it is the variance times `1 − 1/N`.
"""

from functools import partial
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
import xarray as xr
from jaxtyping import Array
from matplotlib.figure import Figure

import didsim
from didsim import plotting
from experiments.shared.configs import Count, NonNegative, Positive, SpaceConfig
from experiments.shared.wording import listed, number

AVERAGE = 0.0
"""The weight that stands for averaging, `α_t = 1/(t + 1)`."""

Scheme = Literal["last policy", "estimate"]


class Config(SpaceConfig, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of the experiment.

    Reference and target have random logits. `weights` are the `α` of the recursion; averaging is added to
    them. `error` is the `σ` of the teacher for the curves along rounds, and `errors` those of the floors.
    `beta` is that of the scheme `estimate`; it changes no limit.
    """

    max_length: Count = 3
    seeds: Count = 32
    rounds: Annotated[int, msgspec.Meta(ge=4, le=1000)] = 60
    beta: Positive = 0.5
    weights: Annotated[tuple[Positive, ...], msgspec.Meta(min_length=2, max_length=6)] = (
        0.1,
        0.5,
        1.0,
        1.7,
        2.1,
    )
    error: NonNegative = 0.5
    errors: Annotated[tuple[Positive, ...], msgspec.Meta(min_length=2)] = (0.05, 0.1, 0.2, 0.5, 1.0)

    def numbers(self) -> dict[str, int]:
        """Policies of all rounds, weights and errors."""
        each = 20 * self.seeds * self.make_space().size * (len(self.weights) + 1)
        return {"rounds": each * self.rounds, "errors": each * self.rounds * len(self.errors)}


def run(config: Config, progress: bool = False) -> xr.Dataset:
    """Run all rounds of both schemes, with the same teacher and with fresh ones."""
    del progress  # It takes a few seconds.
    size = config.make_space().size
    keys = jax.random.split(jax.random.key(config.seed), (3, config.seeds))
    reference, target = didsim.normal_logits(keys[:2], size)
    noise = jax.vmap(lambda key: jax.random.normal(key, (config.rounds, size)))(keys[2])
    noise = jnp.moveaxis(noise, 1, 0)
    weights = np.array([AVERAGE, *np.sort(config.weights)])
    by_teacher = []
    for fresh in (False, True):
        errors = config.error * (noise if fresh else jnp.broadcast_to(noise[:1], noise.shape))
        by_teacher.append(_rounds("last policy", config.beta, weights, reference, target, errors))
    js, square = (np.stack([one[name] for one in by_teacher]) for name in ("js", "square"))
    other = _rounds("estimate", config.beta, weights, reference, target, config.error * noise)
    gap = jnp.max(jnp.abs(other["last"] - by_teacher[1]["last"]), axis=-1)
    stable = weights < 2
    sizes = np.sort(config.errors)
    floors = jax.vmap(
        lambda error: _rounds("last policy", config.beta, weights, reference, target, error * noise)[
            "square"
        ][-1]
    )(jnp.asarray(sizes))
    known = np.where(
        weights == AVERAGE,
        1 / config.rounds,
        np.where(stable, weights / np.where(stable, 2 - weights, 1), np.inf),
    )
    nats = {"units": "nats"}
    data: dict[str, Any] = {
        "js": (
            ("teacher", "round", "weight", "seed"),
            js,
            {"long_name": "JS to the target", **nats},
        ),
        "square": (
            ("teacher", "round", "weight", "seed"),
            square,
            {"long_name": "Mean square error of log-probabilities", "units": "nats²"},
        ),
        "floor": (
            ("error", "weight", "seed"),
            np.asarray(floors),
            {"long_name": "Mean square error after all rounds", "units": "nats²"},
        ),
        "known_floor": (
            ("error", "weight"),
            known * sizes[:, None] ** 2 * (1 - 1 / size),
            {"long_name": "Its expectation", "units": "nats²"},
        ),
        "gap": (
            ("weight", "seed"),
            np.asarray(gap),
            {"long_name": "Largest difference of log-probabilities between schemes", **nats},
        ),
        "teacher_js": (
            "seed",
            np.asarray(didsim.js(jax.nn.log_softmax(target + config.error * noise[0]), target)),
            {"long_name": "JS of the first teacher to the target", **nats},
        ),
    }
    return xr.Dataset(
        data,
        {
            "teacher": ["same", "fresh"],
            "round": ("round", np.arange(config.rounds + 1), {"long_name": "Round", "units": "1"}),
            "weight": ("weight", weights, {"long_name": "Weight α", "units": "1"}),
            "error": ("error", sizes, {"long_name": "Error σ of the teacher", **nats}),
            "seed": np.arange(config.seeds),
        },
        {"error": config.error},
    )


@partial(jax.jit, static_argnums=0)
def _rounds(
    scheme: Scheme, beta: float, weights: Array, reference: Array, target: Array, errors: Array
) -> dict[str, Array]:
    """All rounds of one scheme: two measures of the policy before each and after the last, and the last.

    Every round ends where DPO does on its pairs.
    """
    shape = (len(weights), *reference.shape)

    def measured(policy: Array) -> dict[str, Array]:
        off = policy - target
        return {"js": didsim.js(policy, target), "square": jnp.var(off, axis=-1)}

    def play(policy: Array, given: tuple[Array, Array]) -> tuple[Array, dict[str, Array]]:
        number, error = given
        teacher = jnp.broadcast_to(jax.nn.log_softmax(target + error), shape)
        weight = jnp.where(jnp.asarray(weights) == AVERAGE, 1 / (number + 1), weights)[:, None]
        if scheme == "last policy":
            problem = didsim.Contrastive(teacher, policy)
            after = didsim.fixed_point(didsim.dpo(1 / weight), policy, problem)
        else:
            estimate = jax.nn.log_softmax((1 - weight[..., None]) * policy + weight[..., None] * teacher)
            start = jnp.broadcast_to(reference, shape)
            problem = didsim.Contrastive(start, didsim.optimal_rejected(start, estimate, beta))
            after = didsim.fixed_point(didsim.dpo(beta), start, problem)
        return after, measured(after)

    start = jnp.broadcast_to(reference, shape)
    last, after = jax.lax.scan(play, start, (jnp.arange(len(errors)), errors))
    before = measured(start)
    joined = {name: jnp.concatenate([before[name][None], after[name]]) for name in before}
    return {**joined, "last": last}


def finding(dataset: xr.Dataset) -> str:
    """The speed with one teacher, the floors with fresh ones beside the theory, and where rounds diverge."""
    middle = dataset["js"].median("seed")
    weights = dataset["weight"].values
    stable = weights[(weights != AVERAGE) & (weights < 2)]
    teacher, last = float(dataset["teacher_js"].median()), middle.isel(round=-1)
    rates = listed(f"{number(abs(1 - weight))} at α = {weight:g}" for weight in stable)
    ends = [float(last.sel(teacher="same", weight=weight)) for weight in stable]
    parts = []
    if len(stable):
        parts.append(
            f"With the same teacher, {number(teacher)} nats from the target, a round multiplies the distance "
            f"of log-probabilities to it by |1 − α|: {rates}. After {int(dataset['round'][-1])} rounds these "
            f"policies are {number(min(ends))} to {number(max(ends))} nats from the target."
        )
    floors = dataset["floor"].mean("seed")
    ratio = floors / dataset["known_floor"]
    shown = ratio.sel(weight=stable).isel(error=-1)
    told = listed(
        f"{number(float(dataset['known_floor'].isel(error=-1).sel(weight=one)))} (α = {one:g})"
        for one in stable
    )
    if len(stable):
        parts.append(
            f"With a fresh teacher of error {float(dataset['error'][-1]):g} in each round, theory has a mean "
            f"square error of {told}; measured are {number(float(shown.min()))} to "
            f"{number(float(shown.max()))} times that."
        )
    average = float(floors.isel(error=-1).sel(weight=AVERAGE))
    expected = float(dataset["known_floor"].isel(error=-1).sel(weight=AVERAGE))
    parts.append(f"Averaging leaves {number(average)} at the last round (expected: {number(expected)}).")
    lost = weights[weights > 2]
    if len(lost):
        square = dataset["square"].sel(teacher="fresh").median("seed").isel(round=-1)
        first = float(dataset["square"].isel(round=0, teacher=0, weight=0).median())
        grown = listed(f"{number(float(square.sel(weight=one)))} (α = {one:g})" for one in lost)
        parts.append(f"Beyond α = 2 the mean square error goes from {number(first)} to {grown}.")
    both = float(dataset["gap"].sel(weight=weights[weights < 2]).max())
    parts.append(f"Both schemes end within {number(both)} nats of each other where α is below 2.")
    return " ".join(parts)


def plot(dataset: xr.Dataset) -> Figure:
    """The divergence along rounds with the same and with fresh teachers, and the floors against the error."""
    looks = plotting.looks_of(dataset["weight"].values)
    with plotting.style():
        figure, axes = plotting.new_figure(2, 2, height=5.0)
        same, fresh, square, floor = axes.flat
        for weight, look in looks.items():
            label = "averaging" if weight == AVERAGE else f"α = {weight:g}"
            one = dataset.sel(weight=weight)
            for ax, teacher in ((same, "same"), (fresh, "fresh")):
                plotting.plot_band(ax, one["js"].sel(teacher=teacher), "round", color=look.color, label=label)
            plotting.plot_band(square, one["square"].sel(teacher="fresh"), "round", color=look.color)
            if weight < 2:
                place = int(np.argmin(np.abs(dataset["error"].values - dataset.attrs["error"])))
                same_error = np.isclose(dataset["error"].values[place], dataset.attrs["error"])
                if same_error and weight != AVERAGE:
                    square.axhline(float(one["known_floor"][place]), color=look.color, **plotting.EXACT)
                plotting.plot_band(floor, one["floor"], "error", color=look.color, marker="o", markersize=2.5)
                floor.plot(dataset["error"], one["known_floor"], color="black", zorder=3, **plotting.EXACT)
        plotting.plot_limit(same, dataset["teacher_js"], color="black")
        for ax, title in (
            (same, "the same teacher"),
            (fresh, "a fresh teacher each round"),
            (square, "the same rounds as (b)"),
            (floor, "error after all rounds"),
        ):
            ax.set_title(title)
            ax.set_yscale("log")
            if ax is not floor:
                ax.set_xscale("symlog", linthresh=1, linscale=0.3)
                ax.set_xlim(0, float(dataset["round"][-1]))
                plotting.label_axes(ax, x=dataset["round"])
            plotting.label_axes(ax, y=dataset["js"] if ax in (same, fresh) else "Mean square error (nats²)")
        tops = dataset["square"].sel(weight=dataset["weight"][dataset["weight"] < 2])
        square.set_ylim(0.5 * float(tops.min()), 10 * float(tops.max()))
        floor.set_xscale("log")
        plotting.label_axes(floor, x=dataset["error"])
        for ax, letter in zip(axes.flat, "abcd", strict=True):
            ax.set_title(f"({letter}) {ax.get_title('left')}")
        same.plot([], [], color="black", label="exact", **plotting.EXACT)
        handles, words = same.get_legend_handles_labels()
        figure.legend(handles, words, loc="outside lower center", ncols=4)
    return figure
