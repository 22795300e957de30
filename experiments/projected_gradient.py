"""DPO against DPO with projected gradients (DPO-PG) by batch size, where many answers are good or only one.

The claim: DPO-PG keeps the chosen likelihood, and so suits tasks of knowledge; DPO spreads the policy, and
so suits open-ended instructions. The second version of arXiv 2505.23761 compares both in its Table 1. Its
settings are not public. This is a tabular counterpart with settings of our own, and with our own definition
of the projection (`didsim.dpo_pg`).

There are several prompts, with free logits for each. A pair belongs to a random prompt. The projection is one
for the whole batch, over the logits of all prompts. The target is `reference · exp(strength · [y is good])`,
normalised. For the knowledge target one answer to each prompt is good, so that the differential information
has low entropy. For the open-ended target many are good, and the entropy is higher. Chosen responses come
from the reference, as after fine-tuning on them, and rejected ones follow the power law. DPO's limit then is
the target. Its displacement, which is the change of `E_ref[log π]`, is `−KL(reference ‖ target)`. The score
is the exact probability of a good answer. All numbers are means over prompts.

What the projection does depends on the batch.

1. A batch of one pair is never projected, since `⟨e_w − e_l, e_w − π⟩ = 1 − π_w + π_l > 0`. DPO-PG then is
   DPO. (`didsim.theory` checks it.)
2. With exact gradients and small steps DPO-PG cannot leave the reference. Its steps do not lower
   `E_ref[log π]`, and `E_ref[log π] − E_ref[log reference] = −KL(reference ‖ π)` is below zero everywhere
   else. Steps of finite size do move it, to second order.
3. In between, each pair of a batch raises its own chosen answer. That adds a positive part of order `1/batch`
   to the overlap of DPO's direction with the chosen gradient. The batch is projected only where the whole
   overlap is negative. So we expect more projected steps with larger batches.

Which batches hold DPO-PG back, for how long, and which target profits, is measured.
"""

from collections.abc import Sequence
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
import optax
import xarray as xr
from jax.nn import log_softmax, sigmoid, softmax
from jaxtyping import Array, Bool, Float, Key
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

import didsim
from didsim import plotting
from experiments.shared.configs import Count, Positive, SpaceConfig
from experiments.shared.names import readable
from experiments.shared.wording import listed, number, share

OBJECTIVES = ("dpo", "dpo_pg")
TARGETS = ("open-ended", "knowledge")
LOOKS = ("early", "late")
"""When policies are measured: after a tenth of the steps, and after all."""

EXACT = "exact"
"""The batch of all pairs."""

_ROUNDING = 1e-13


class Config(SpaceConfig, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of the experiment.

    References have standard normal logits. The share `many` of all answers is good for the open-ended
    target: at least one answer, and not all. All runs are of gradient descent, whose rate falls to zero along
    a cosine.
    """

    vocab_size: Count = 2
    max_length: Count = 3
    seeds: Count = 32
    prompts: Count = 3
    beta: Positive = 0.5
    strength: Positive = 3.0
    many: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.5
    steps: Count = 1500
    learning_rate: Positive = 4.0
    batch_sizes: Annotated[tuple[Count, ...], msgspec.Meta(min_length=1, max_length=6)] = (1, 8, 64, 512)

    def numbers(self) -> dict[str, int]:
        """Matrices of pairs for each batch, and the draws of the largest."""
        size = self.make_space().size
        runs = len(TARGETS) * self.seeds
        return {
            "vocab_size": 12 * runs * (len(self.batch_sizes) + 1) * self.prompts * size * size,
            "batch_sizes": 3 * runs * size * max(self.batch_sizes),
        }


class _Made(NamedTuple):
    """Instances; all but the reference have an axis of targets first.

    Attributes:
        reference: log-probabilities, `[seeds, prompts, answers]`.
        good: which answers are good, `[targets, seeds, prompts, answers]`.
        target: log-probabilities, of the same shape.
        rejected: log-probabilities, of the same shape.
    """

    reference: Float[Array, "seeds prompts answers"]
    good: Bool[Array, "targets seeds prompts answers"]
    target: Float[Array, "targets seeds prompts answers"]
    rejected: Float[Array, "targets seeds prompts answers"]


def make(config: Config) -> _Made:
    """References, good answers, targets and rejected distributions of all seeds."""
    size = config.make_space().size
    keys = jax.random.split(jax.random.key(config.seed), 2)
    shape = (config.seeds, config.prompts)
    reference = didsim.normal_logits(jax.random.split(keys[0], shape), size)
    # The open-ended target has the good answer of the knowledge target among its own.
    rank = jnp.argsort(jax.random.uniform(keys[1], (*shape, size)), axis=-1)
    many = int(np.clip(round(config.many * size), 1, size - 1))
    good = jnp.stack([rank < count for count in (many, 1)])
    target = didsim.bayes_update(reference, config.strength * good)
    return _Made(reference, good, target, didsim.optimal_rejected(reference, target, config.beta))


def gradients(
    logits: Float[Array, "prompts answers"],
    reference: Float[Array, "prompts answers"],
    pairs: Float[Array, "prompts answers answers"],
    beta: float,
) -> tuple[Float[Array, "prompts answers"], Float[Array, "prompts answers"]]:
    """The gradients of DPO's mean loss, and of the mean chosen log-likelihood.

    The normaliser of a prompt cancels in a difference of rewards, so that none is needed for the first.

    Args:
        logits: those of the policy.
        reference: log-probabilities of the reference.
        pairs: the share of each chosen answer with each rejected one among all pairs.
        beta: DPO's `beta`.
    """
    rewards = beta * (logits - reference)
    pulls = beta * pairs * sigmoid(rewards[:, None, :] - rewards[:, :, None])
    of_prompt = pairs.sum((1, 2))[:, None]
    chosen = pairs.sum(2) - of_prompt * softmax(logits, axis=-1)
    # At the reference it is zero for all pairs, and its rounding is no direction to project on.
    chosen = jnp.where(jnp.abs(chosen).max() > _ROUNDING, chosen, 0)
    return pulls.sum(1) - pulls.sum(2), chosen


def draw_pairs(
    key: Key[Array, ""],
    chosen: Float[Array, "prompts answers"],
    rejected: Float[Array, "prompts answers"],
    sizes: Sequence[int],
) -> Float[Array, "sizes prompts answers answers"]:
    """Batches of pairs of random prompts, as the share of each pair in its batch.

    A small batch is the first part of a large one.

    Args:
        key: random key.
        chosen: log-probabilities.
        rejected: log-probabilities.
        sizes: numbers of pairs.
    """
    prompts, answers = chosen.shape
    at_key, own = jax.random.split(key)
    at = jax.random.randint(at_key, (max(sizes),), 0, prompts)
    u = jax.random.uniform(own, (2, max(sizes), 1), chosen.dtype)
    # Each answer inverts its distribution function.
    below = (jnp.cumsum(jnp.exp(one), axis=-1)[:, :-1] for one in (chosen, rejected))
    w, el = (jnp.sum(one >= edges[at], axis=-1) for one, edges in zip(u, below, strict=True))
    cell = (at * answers + w) * answers + el
    nothing = jnp.zeros(prompts * answers * answers, chosen.dtype)
    counts = jnp.stack([nothing.at[cell[:size]].add(1 / size) for size in sizes])
    return counts.reshape(-1, prompts, answers, answers)


def descend(
    config: Config,
    reference: Float[Array, "prompts answers"],
    rejected: Float[Array, "prompts answers"],
    key: Key[Array, ""],
) -> tuple[Float[Array, "looks objectives batches prompts answers"], Float[Array, " batches"]]:
    """Train one instance with both objectives and all batches. Both objectives see the same pairs.

    Returns:
        The log-probabilities at both looks, and the share of DPO-PG's steps that are projected.
    """
    rate = optax.cosine_decay_schedule(config.learning_rate, config.steps)
    everything = jnp.exp(reference[:, :, None] + rejected[:, None, :]) / config.prompts

    def directions(logits: Array, pairs: Array) -> tuple[Array, Array]:
        """DPO's for the first policy and DPO-PG's for the second, and whether that one is projected."""
        both = [gradients(one, reference, pairs, config.beta) for one in logits]
        plain, (loss, chosen) = both[0][0], both[1]
        kept = didsim.dpo_pg(config.beta).direction(loss, lambda: chosen)
        return jnp.stack([plain, kept]), jnp.any(kept != loss)

    def step(k: Array, state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        logits, early, projected = state
        early = jnp.where(k == early_step(config), logits, early)
        drawn = draw_pairs(jax.random.fold_in(key, k), reference, rejected, sorted(config.batch_sizes))
        pairs = jnp.concatenate([drawn, everything[None]])
        moved, now = jax.vmap(directions, in_axes=(1, 0), out_axes=(1, 0))(logits, pairs)
        return logits - rate(k) * moved, early, projected + now

    shape = (len(OBJECTIVES), len(config.batch_sizes) + 1)
    start = jnp.broadcast_to(reference, shape + reference.shape)
    counts = jnp.zeros(shape[1], int)
    late, early, projected = jax.lax.fori_loop(0, config.steps, step, (start, start, counts))
    return log_softmax(jnp.stack([early, late]), axis=-1), projected / config.steps


def early_step(config: Config) -> int:
    """The step of the early look."""
    return config.steps // 10


def run(config: Config, progress: bool = False) -> xr.Dataset:
    """Train with all batches, and measure the policies, the references and the targets."""
    measured, limits, started, projected = _all(config)
    dims = ("batch", "target", "seed")
    variables: dict[str, tuple[tuple[str, ...], Array, dict[str, str]]] = {
        "projected": (dims, projected, {"long_name": "Share of steps projected", "units": "1"})
    }
    for name, (long_name, units) in MEASURES.items():
        about = {"long_name": long_name, "units": units}
        variables[name] = (("look", "objective", *dims), measured[name], about)
        for word, values in (("limit", limits), ("start", started)):
            of = "target" if word == "limit" else "reference"
            about = {"long_name": f"{long_name}, of the {of}", "units": units}
            variables[f"{name}_{word}"] = (("target", "seed"), values[name], about)
    return xr.Dataset(
        {name: (dims, np.asarray(values), about) for name, (dims, values, about) in variables.items()},
        {
            "look": list(LOOKS),
            "step": ("look", [early_step(config), config.steps], {"long_name": "Step"}),
            "objective": list(OBJECTIVES),
            "batch": (
                "batch",
                [*map(str, sorted(config.batch_sizes)), EXACT],
                {"long_name": "Pairs in a batch"},
            ),
            "target": list(TARGETS),
            "seed": np.arange(config.seeds),
        },
    )


MEASURES = {
    "displacement": ("Chosen displacement", "nats"),
    "score": ("Probability of a good answer", "1"),
    "entropy_change": ("Change of entropy", "nats"),
    "did_entropy": ("DID entropy", "nats"),
}


def _all(config: Config) -> tuple[dict[str, Array], dict[str, Array], dict[str, Array], Array]:
    def compute(key: Array) -> tuple[dict[str, Array], dict[str, Array], dict[str, Array], Array]:
        made = make(config)
        keys = jax.random.split(key, config.seeds)
        one = jax.vmap(lambda *given: descend(config, *given))
        policies, projected = jax.vmap(one, in_axes=(None, 0, None))(made.reference, made.rejected, keys)
        ends = jnp.moveaxis(policies, (2, 3, 4), (0, 1, 2))
        measured, limits, started = (_measure(one, made) for one in (ends, made.target, made.reference))
        return measured, limits, started, jnp.moveaxis(projected, 2, 0)

    return jax.jit(compute)(jax.random.fold_in(jax.random.key(config.seed), 1))


def _measure(policy: Array, made: _Made) -> dict[str, Array]:
    """Means over prompts."""
    values = {
        "displacement": didsim.expectation(made.reference, policy - made.reference),
        "score": jnp.sum(jnp.exp(policy) * made.good, axis=-1),
        "entropy_change": didsim.entropy(policy) - didsim.entropy(made.reference),
        "did_entropy": didsim.did_entropy(policy, made.reference),
    }
    shape = policy.shape[:-1] if policy.ndim > made.reference.ndim else made.target.shape[:-1]
    return {name: jnp.broadcast_to(one, shape).mean(-1) for name, one in values.items()}


def crossover(dataset: xr.Dataset, target: str, look: str) -> str | None:
    """The first batch from which on DPO-PG moves the chosen likelihood less than half as far as DPO does.

    Args:
        dataset: what `run` returns.
        target: one of `TARGETS`.
        look: one of `LOOKS`.

    Returns:
        The batch; None if not even exact gradients do so.
    """
    moved = abs(dataset["displacement"].sel(target=target, look=look).median("seed"))
    near = (moved.sel(objective="dpo_pg") >= moved.sel(objective="dpo") / 2).values
    first = int(np.flatnonzero([True, *near])[-1])
    return str(dataset["batch"].values[first]) if first < len(near) else None


def finding(dataset: xr.Dataset) -> str:
    """How much is projected, from which batch on that holds DPO-PG back, and what becomes of scores."""
    batches = [str(one) for one in dataset["batch"].values]
    projected = dataset["projected"].mean(("target", "seed"))
    shares = (
        f"{share(float(one))} with {_pairs(name)}" for name, one in zip(batches, projected, strict=True)
    )
    told = [f"Of DPO-PG's steps the projection changes {listed(shares)}."]
    ends = dataset.sel(look="late")
    for target in TARGETS:
        middle = ends.sel(target=target, batch=EXACT).median("seed")
        entropy, start = (number(float(middle[name])) for name in ("did_entropy_limit", "score_start"))
        (dpo, moved), (score, kept) = (
            [number(float(middle[name].sel(objective=one))) for one in OBJECTIVES]
            for name in ("displacement", "score")
        )
        told.append(
            f"With the {target} target (DID entropy {entropy} nats), DPO-PG has less than half of DPO's "
            f"displacement {_held(dataset, target)}; with exact gradients DPO ends at displacement {dpo} "
            f"nats and DPO-PG at {moved}, and a good answer, of probability {start} under the reference, has "
            f"{score} under DPO and {kept} under DPO-PG."
        )
    ahead = (ends["score"].sel(objective="dpo_pg") > ends["score"].sel(objective="dpo")).mean("seed")
    most = listed(f"{share(float(ahead.sel(target=one).max()))} ({one})" for one in TARGETS)
    told.append(
        f"Whatever the batch, the share of seeds in which DPO-PG has the higher score is at most {most}."
    )
    return " ".join(told)


def _held(dataset: xr.Dataset, target: str) -> str:
    """From which batch on DPO-PG is held back, at both looks."""
    found = [crossover(dataset, target, look) for look in LOOKS]
    words = []
    for first in found:
        where = {None: "with no batch", EXACT: "only with exact gradients"}.get(first)
        words.append(where or f"from {_pairs(str(first))} on")
    early, late = (f"{int(step):,}" for step in dataset["step"].values)
    if found[0] == found[1]:
        return f"{words[0]}, after {early} steps and after {late}"
    return f"{words[0]} after {early} steps, and {words[1]} after {late}"


def _pairs(batch: str) -> str:
    return "exact gradients" if batch == EXACT else f"{int(batch):,} pair{'' if batch == '1' else 's'}"


def plot(dataset: xr.Dataset) -> Figure:
    """A column for each target; a row for the early displacement, and one for each measure in the end."""
    colors = plotting.color_of(list(OBJECTIVES))
    rows = [("displacement", "early"), *((name, "late") for name in MEASURES)]
    with plotting.style():
        figure, axes = plotting.new_figure(len(rows), 2, height=7.6, sharex=True, sharey="row")
        letters = iter("abcdefghij")
        for row, (name, look) in zip(axes, rows, strict=True):
            one = dataset.sel(look=look)
            for ax, target in zip(row, TARGETS, strict=True):
                _draw(ax, one.sel(target=target), name, colors)
                ax.set_title(f"({next(letters)}) {target}, {int(one['step']):,} steps")
            plotting.label_axes(row[0], y=_SHORT[name])
        for ax in axes[-1]:
            plotting.label_axes(ax, x=dataset["batch"])
        handles = [
            Line2D([], [], color=color, marker="o", markersize=size, label=readable(name))
            for (name, color), size in zip(colors.items(), _DOTS, strict=True)
        ]
        handles.append(Line2D([], [], color="black", label="target, DPO's limit", **plotting.EXACT))
        handles.append(Line2D([], [], color="0.5", linestyle=":", label="reference"))
        figure.legend(handles=handles, loc="outside upper center", ncols=4)
    return figure


_DOTS = (5.0, 2.5)
"""The sizes of the dots of both objectives; the larger ones show where both agree."""

_SHORT = {
    "displacement": "Displacement\n(nats)",
    "score": "Probability of a\ngood answer",
    "entropy_change": "Change of\nentropy (nats)",
    "did_entropy": "DID entropy\n(nats)",
}


def _draw(ax: Axes, one: xr.Dataset, name: str, colors: dict[str, str]) -> None:
    places = np.arange(one.sizes["batch"])
    for (objective, color), size in zip(colors.items(), _DOTS, strict=True):
        values = one[name].sel(objective=objective).assign_coords(batch=places)
        plotting.plot_band(ax, values, "batch", color=color, marker="o", markersize=size)
    plotting.plot_limit(ax, one[f"{name}_limit"], color="black")
    ax.axhline(float(one[f"{name}_start"].median()), color="0.5", linestyle=":", linewidth=0.9)
    ax.set_xticks(places, one["batch"].values)
