"""Differential information token by token: what a sequence's numbers say of its tokens, and what they do not.

The claims. (1) Log-ratios add up over tokens, but the DID is no product of token-level DIDs. With
`q̃(v | x) ∝ target(v | x)/reference(v | x)` at every prefix `x`, and `z(x)` the sum of these ratios over `v`,

    log q(y) = Σ_t log q̃(y_t | y_<t) + Σ_t log z(y_<t) − log Z.

So the two agree only where `Σ_t log z` is the same for every sequence. (2) Displacement does add up, and no
position gains: if chosen responses come from the reference, then at the target

    E_ref[log(target/reference)] = −Σ_t E_ref KL(reference(· | y_<t) ‖ target(· | y_<t)).

(3) Under the power law, policies are log-margin ordered on all pairs of sequences. On pairs of next tokens
they need not be, except at the last place of the longest sequences: elsewhere the probability of a token in a
rejected response also depends on what comes after it. (4) Rejected responses that follow the power law token
by token, `rejected(v | x) = reference (reference/target)^β (v | x) / z_β(x)`, do not teach the target. DPO
ends at `target(y) · Π_t z_β(y_<t)^(1/β)`, normalised. (1), (2) and (4) are derived here, and checked by
`didsim.theory`.

References and targets are Markov chains. A policy with shared tables has one row of logits for each last
token, and so can represent them; a policy with full tables has a row for every prefix.
"""

from functools import partial
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
import xarray as xr
from jaxtyping import Array
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import spearmanr

import didsim
from didsim import plotting
from experiments.shared.configs import Count, Positive, TrainingConfig
from experiments.shared.training import make_optimizer, seed_keys
from experiments.shared.wording import listed, number, share, told_each

TABLES = {"full": None, "shared": 1}
"""The number of last tokens that the next token depends on; None for all."""

_SHARED = (0, (1, 1.2))


class Config(TrainingConfig, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of the experiment.

    Reference and target are Markov chains with normal logits, each of its own scale, uniform from 0.2 to
    `scale`. `betas` are the exponents of the power law. Policies are trained at `beta`.
    """

    vocab_size: Count = 3
    eos: bool = True
    seeds: Count = 48
    steps: Count = 400
    learning_rate: Positive = 0.1
    scale: Positive = 1.2
    betas: Annotated[tuple[Positive, ...], msgspec.Meta(min_length=1, max_length=8)] = (0.1, 0.5, 1.0, 2.0)

    def numbers(self) -> dict[str, int]:
        """Vectors over the space and the tables, and a record for each position."""
        space = self.make_space()
        own = 60 * (len(self.betas) + 4) * (space.size * space.max_length + space.num_prefixes * space.size)
        records = 4 * space.size * space.max_length * (self.steps // self.every + 2)
        return {"seeds": self.seeds * own, "steps": self.seeds * records}


class _Places(NamedTuple):
    """Where the tokens of every sequence stand: its prefix, the token after it, and whether there is one."""

    prefix: np.ndarray
    token: np.ndarray
    used: np.ndarray


def _places(space: didsim.SequenceSpace) -> _Places:
    at = np.arange(space.max_length)
    used = at < space.lengths[:, None]
    # The prefix of the token at a place; an empty one where there is no token.
    kept = (at < at[:, None]) & used[:, :, None]
    prefixes = np.where(kept, space.sequences[:, None, :], -1)
    return _Places(np.asarray(space.prefix_index(prefixes)), np.where(used, space.sequences, 0), used)


def _by_place(values: Array, places: _Places) -> Array:
    """The values of the tokens of every sequence, from a table of prefixes and next tokens."""
    return jnp.where(places.used, values[..., places.prefix, places.token], 0)


def run(config: Config, progress: bool = False) -> xr.Dataset:
    """Measure sequences and tokens of all instances, and train with full and with shared tables."""
    space = config.make_space()
    places = _places(space)
    reference, target = _chains(config, space)
    betas = jnp.asarray(config.betas)
    measured = jax.jit(jax.vmap(lambda r, t: _measure(r, t, betas, space, places)))(reference, target)
    nats, one = {"units": "nats"}, {"units": "1"}
    about: dict[str, tuple[tuple[str, ...], str, dict[str, str]]] = {
        "did_entropy": (("seed",), "DID entropy", nats),
        "per_token": (("seed",), "DID entropy / mean length", nats),
        "of_tokens": (("seed",), "Mean entropy of token-level DIDs", nats),
        "product_gap": (("seed",), "JS(DID, product of token-level DIDs)", nats),
        "moved_limit": (("seed", "position"), "Exact limit of the displacement", nats),
        "ordered": (("seed", "beta", "position"), "Share of pairs of next tokens in order", one),
        "ordered_whole": (("seed", "beta"), "Share of pairs of sequences in order", one),
        "js_by_tokens": (("seed", "beta"), "JS(limit, target)", nats),
        "left": (("seed", "beta"), "JS(limit, target) / JS(reference, target)", one),
        "js_at_start": (("seed",), "JS(reference, target)", nats),
    }
    logits = jax.jit(space.next_token_log_probs)(reference)

    def moved(log_probs: Array) -> Array:
        """The displacement at every position of the policies of one seed."""
        reference, change = log_probs[0], space.next_token_log_probs(log_probs)
        return jnp.einsum("y,nyt->nt", jnp.exp(reference), _by_place(change - change[0], places))

    of_seeds, trained = jax.jit(jax.vmap(moved)), []
    for name in TABLES:
        steps, policies = _trained(config, space, logits, reference, target, name, progress)
        at = {"step": ("step", steps, {"long_name": "Step"})}
        trained.append(xr.DataArray(np.asarray(of_seeds(policies)), at, ("seed", "step", "position")))
    return (
        xr.Dataset(
            {
                name: (dims, np.asarray(measured[name]), {"long_name": text, **units})
                for name, (dims, text, units) in about.items()
            }
        )
        .assign(moved=xr.concat(trained, "tables").assign_attrs(long_name="Chosen displacement", **nats))
        .assign_coords(
            tables=list(TABLES),
            seed=np.arange(config.seeds),
            position=("position", np.arange(1, space.max_length + 1), {"long_name": "Position of the token"}),
            beta=("beta", list(config.betas), {"long_name": "β of the data and of DPO"}),
        )
    )


def _chains(config: Config, space: didsim.SequenceSpace) -> tuple[Array, Array]:
    """A reference and a target for each seed."""
    keys = seed_keys(config, 3)

    def one(key: Array, first: Array, second: Array) -> tuple[Array, Array]:
        scales = jax.random.uniform(key, (2,), minval=0.2, maxval=max(config.scale, 0.2))
        return didsim.markov(first, space, scales[0]), didsim.markov(second, space, scales[1])

    reference, target = jax.jit(jax.vmap(one))(*keys)
    return reference, target


def _measure(
    reference: Array, target: Array, betas: Array, space: didsim.SequenceSpace, places: _Places
) -> dict[str, Array]:
    """What is measured of one instance."""
    tokens_r, tokens_t = (space.next_token_log_probs(one) for one in (reference, target))
    log_q, token_dids = didsim.did(target, reference), didsim.did(tokens_t, tokens_r)
    length = jnp.asarray(space.lengths, reference.dtype)
    entropies = jnp.where(places.used, didsim.entropy(token_dids)[places.prefix], 0).sum(-1)
    divergences = jnp.where(places.used, didsim.kl(tokens_r, tokens_t)[places.prefix], 0)
    probs = jnp.exp(reference)
    reached = probs @ jnp.asarray(places.used, probs.dtype)

    def at(beta: Array) -> dict[str, Array]:
        rejected = didsim.optimal_rejected(reference, target, beta)
        fractions = didsim.check_order(tokens_t, tokens_r, space.next_token_log_probs(rejected)).fraction
        by_tokens = space.log_probs(didsim.optimal_rejected(tokens_r, tokens_t, beta))
        end = didsim.fixed_point(didsim.dpo(beta), reference, didsim.Contrastive(reference, by_tokens))
        return {
            "ordered": probs @ jnp.where(places.used, fractions[places.prefix], 0) / reached,
            "ordered_whole": didsim.check_order(target, reference, rejected).fraction,
            "js_by_tokens": didsim.js(end, target),
            "left": didsim.js(end, target) / didsim.js(reference, target),
        }

    return {
        "did_entropy": didsim.entropy(log_q),
        "per_token": didsim.entropy(log_q) / didsim.expectation(log_q, length),
        "of_tokens": didsim.expectation(target, entropies) / didsim.expectation(target, length),
        "product_gap": didsim.js(log_q, space.log_probs(token_dids)),
        "moved_limit": -(probs @ divergences),
        **jax.vmap(at)(betas),
        "js_at_start": didsim.js(reference, target),
    }


def _trained(
    config: Config,
    space: didsim.SequenceSpace,
    logits: Array,
    reference: Array,
    target: Array,
    tables: str,
    progress: bool,
) -> tuple[np.ndarray, Array]:
    """The recorded steps, and the policies at these; the first is the reference."""
    context = TABLES[tables]
    longest = space.max_length if context is None else min(context + 1, space.max_length)
    rows = didsim.SequenceSpace(space.vocab_size, longest, space.eos).num_prefixes
    problem = didsim.Contrastive(reference, didsim.optimal_rejected(reference, target, config.beta))
    trained = didsim.train(
        didsim.Autoregressive(logits[..., :rows, :], space, context),
        reference,
        problem,
        didsim.dpo(config.beta),
        make_optimizer(config),
        config.steps,
        record=didsim.Record(config.every, {"log_probs": lambda s: s.log_probs}),
        target=target,
        progress=progress and f"token_level, {tables}",
    )
    return trained.steps, trained.metrics["log_probs"]


def _rank(dataset: xr.Dataset, one: str, other: str) -> float:
    """Spearman's rank correlation of two measures over seeds; NaN if one of them is constant."""
    x, y = dataset[one].values, dataset[other].values
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    return float(spearmanr(x, y).statistic)


def finding(dataset: xr.Dataset) -> str:
    """Displacement by position, entropies, the order of tokens, and what token-level data teach."""
    middle = dataset.median("seed")
    falls = listed(number(float(one)) for one in middle["moved_limit"])
    gaps = abs(dataset["moved"].isel(step=-1) - dataset["moved_limit"]).max(("seed", "position"))
    ordered = dataset["ordered"].mean("seed")
    first, last = (ordered.isel(position=k) for k in (0, -1))

    by_beta = partial(told_each, where="β = {:g}")
    ranks = [_rank(dataset, "did_entropy", one) for one in ("per_token", "of_tokens")]
    return (
        f"At the target, the chosen log-likelihood of the tokens changes by {falls} nats, by position. Runs "
        f"end within {number(float(gaps.sel(tables='full')))} nats of this with full tables, and within "
        f"{number(float(gaps.sel(tables='shared')))} with shared ones; the highest that a position comes "
        f"on the way is {number(float(dataset['moved'].max()))} nats. The JS between the DID and the "
        f"product of token-level DIDs is {number(float(middle['product_gap']))} nats. Over seeds, the DID "
        f"entropy has a rank correlation of {number(ranks[0])} with itself per token, and of "
        f"{number(ranks[1])} with the mean entropy of token-level DIDs. Where "
        f"{share(float(dataset['ordered_whole'].mean()))} of the pairs of sequences are log-margin ordered, "
        f"{by_beta(first, share)} of the pairs of first tokens are, and {share(float(last.mean()))} of "
        f"those at the last position. Rejected responses that follow the power law token by token leave "
        f"{by_beta(middle['left'], share)} of the JS between reference and target (medians); "
        f"{by_beta((dataset['left'] > 1).mean('seed'), share)} of seeds end further from the target than the "
        f"reference is."
    )


def plot(dataset: xr.Dataset) -> Figure:
    """Displacement by position, two entropies, the order of tokens, and limits of token-level data."""
    with plotting.style():
        figure, ((moved, entropies), (ordered, limits)) = plotting.new_figure(2, 2, height=4.8)
        _moved(moved, dataset)
        _entropies(entropies, dataset)
        _ordered(ordered, dataset)
        whole = dataset["ordered_whole"].mean("beta")
        plotting.plot_limit(ordered, whole, color="black", label="of sequences")
        ordered.set_xticks(dataset["position"].values)
        ordered.yaxis.set_major_formatter(lambda part, _: f"{100 * part:.0f}%")
        ordered.set_ylim(top=1.03)
        plotting.label_axes(ordered, x=dataset["position"], y="Pairs of next tokens in order")
        ordered.legend(loc="lower right", ncols=2, columnspacing=1.0)
        options: Any = {"color": plotting.COLORS[0], "marker": "o", "markersize": 3}
        plotting.plot_band(limits, dataset["left"], "beta", label="limit of DPO", **options)
        limits.axhline(1, color="0.4", linestyle=":", label="the reference")
        limits.axhline(0, color="black", label="the target", **plotting.EXACT)
        limits.set_xscale("log")
        limits.set_ylim(top=1.35 * max(1, limits.get_ylim()[1]))
        plotting.label_axes(limits, x=dataset["beta"], y="JS to the target / the reference's")
        limits.legend(loc="upper left", ncols=2)
        titles = (
            "displacement by position",
            "DID entropy per token",
            "order of next tokens",
            "rejected token by token",
        )
        for ax, letter, title in zip((moved, entropies, ordered, limits), "abcd", titles, strict=True):
            ax.set_title(f"({letter}) {title}")
    return figure


def _ordered(ax: Axes, dataset: xr.Dataset) -> None:
    """The mean share of pairs in order by position, with the 95% interval of the mean."""
    half = 1.96 / np.sqrt(dataset.sizes["seed"])
    for beta, look in plotting.looks_of(dataset["beta"].values).items():
        one = dataset["ordered"].sel(beta=beta)
        mean, error = one.mean("seed"), half * one.std("seed")
        options: Any = {"color": look.color, "alpha": 0.18, "linewidth": 0}
        ax.fill_between(one["position"], mean - error, np.minimum(mean + error, 1), **options)
        ax.plot(one["position"], mean, color=look.color, marker="o", markersize=3, label=f"β = {beta:g}")


def _moved(ax: Axes, dataset: xr.Dataset) -> None:
    """The displacement of every position: full tables with bands, shared ones by their medians."""
    for place, look in plotting.looks_of(dataset["position"].values).items():
        one = dataset["moved"].sel(position=place)
        plotting.plot_band(ax, one.sel(tables="full"), "step", label=f"token {place}", **look.line)
        ax.plot(one["step"], one.sel(tables="shared").median("seed"), color=look.color, linestyle=_SHARED)
        plotting.plot_limit(ax, dataset["moved_limit"].sel(position=place), color=look.color)
    ax.plot([], [], color="black", linestyle=_SHARED, label="shared tables")
    ax.plot([], [], color="black", label="exact limit", **plotting.EXACT)
    plotting.log_steps(ax, dataset)
    plotting.label_axes(ax, x=dataset["step"], y="Chosen displacement (nats)")
    low, high = ax.get_ylim()
    ax.set_ylim(low - 0.6 * (high - low), high)
    ax.legend(loc="lower left", ncols=2, columnspacing=1.0)


def _entropies(ax: Axes, dataset: xr.Dataset) -> None:
    """Token-level entropies against that of the DID per token, a dot for each seed."""
    x, y = dataset["per_token"], dataset["of_tokens"]
    ax.plot(x, y, ".", color=plotting.COLORS[0], markersize=4, label="one seed")
    ends = np.array([min(x.min(), y.min()), max(x.max(), y.max())])
    ax.plot(ends, ends, color="black", label="equal", **plotting.EXACT)
    plotting.label_axes(ax, x=x, y=y)
    ax.legend(loc="upper left")
