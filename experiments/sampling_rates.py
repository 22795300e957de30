"""Online DPO by three samplers: the rate that is safe for each, and which of them squares its error.

The toy is that of Shi, Zhou and Du, "The crucial role of samplers in online direct preference optimization"
(arXiv 2409.19605). Their program has 20 actions, `beta = 3`, standard normal rewards, a uniform reference,
and 100 exact gradient steps on free logits at the rate 10. They show one seed. The claim: with pairs drawn
uniformly the error shrinks by a factor in each step (linear convergence). With pairs drawn in proportion to
`1/σ'(d)` it is squared in each step (quadratic convergence). Here `d` is the difference of true rewards
(their DPO-Mix-R), or of implicit rewards (DPO-Mix-P).

What to expect, derived here. Let `w_ij` be the probability of the ordered pair `(i, j)`, with
`w_ij = w_ji`, and `h = beta log(π/π_ref)`. The gradient of the loss for logit `i` is

    −2 beta Σ_j w_ij (σ(r_i − r_j) − σ(h_i − h_j))

At the optimum `h = r` every term is zero. So it makes no difference there whether `w` depends on the policy,
and the derivative of the gradient is `H = 2 beta² L`, with `L` the Laplacian of the graph whose edges weigh
`w_ij σ'(r_i − r_j)`. A step of size `η` multiplies errors by `1 − η H` to first order. So:

- A rate is safe near the optimum if and only if `η < 2/λ_max`, for the largest eigenvalue of `H`.
- Uniform pairs have `w = 1/N²`. Since `σ' ≤ 1/4`, `λ_max ≤ beta²/(2N)`, and `η < 4N/beta²` is safe for all
  rewards. The best rate is `2/(λ_min + λ_max)`.
- Pairs in proportion to `1/σ'` have the same weight on every edge. With `Z = Σ_ij 1/σ'(r_i − r_j)` all
  eigenvalues are `λ = 2 beta² N/Z`, and `η = 1/λ` removes the error to first order: the error is squared. At
  any other rate, the rate 10 included, it shrinks by the factor `|1 − ηλ|`, which is linear convergence.
  Since `1/σ' ≥ 4`, here too `η < 4N/beta²` is safe for all rewards.
"""

from functools import partial
from typing import Annotated

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
import xarray as xr
from jax.nn import log_sigmoid, logsumexp
from jaxtyping import Array, Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.progress import track

from didsim import plotting
from experiments.shared.configs import Count, Positive, SpaceConfig
from experiments.shared.wording import listed, number, share

SAMPLERS = {
    "uniform": "uniform",
    "reward": "1/σ′ of true rewards",
    "policy": "1/σ′ of implicit rewards",
}
"""The samplers by name, with the words for each in the picture.

They are `didsim.Uniform()`, `didsim.RewardDifference("reward")` and `didsim.RewardDifference("policy")`.
"""

AT_REST = 1e-6
"""A run whose mean error is below this many nats has arrived."""

SLOW = 0.9
"""Nearer to the safe rate than this share of it, errors shrink by less than a fifth in each step."""

_ROUNDING = 1e-13
_NEAR = 0.1
"""Between these errors, in nats, the order of convergence is read off."""


class Config(SpaceConfig, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of the experiment: those of the paper's program, and more seeds.

    Each sampler trains at the rate `learning_rate`, at its own best rate, and at `multiples` of the largest
    rate that is safe for it.
    """

    vocab_size: Count = 20
    max_length: Count = 1
    seeds: Count = 32
    beta: Positive = 3.0
    steps: Count = 100
    learning_rate: Positive = 10.0
    multiples: Annotated[tuple[Positive, ...], msgspec.Meta(min_length=1)] = (
        *(0.25, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98),
        *(1.02, 1.05, 1.1, 1.2, 1.35, 1.5, 1.75),
    )

    def numbers(self) -> dict[str, int]:
        """Tables of pairs, and records, for each seed and rate."""
        runs = self.seeds * (len(self.multiples) + 2)
        return {"seeds": 10 * runs * self.make_space().size ** 2, "steps": 4 * runs * self.steps}


def run(config: Config, progress: bool = False) -> xr.Dataset:
    """Train with each sampler at all rates, and find the curvature at the optimum."""
    size = config.make_space().size
    reward = jax.random.normal(jax.random.key(config.seed), (config.seeds, size))
    parts = []
    for name in track(SAMPLERS, "sampling_rates", disable=not progress):
        values = curvatures(reward, name, config.beta)
        safe, best = 2 / values[:, -1], 2 / (values[:, 0] + values[:, -1])
        rates = np.stack(
            [np.full(config.seeds, config.learning_rate), best, *(one * safe for one in config.multiples)]
        )
        beta = jnp.asarray(config.beta, reward.dtype)
        errors = np.asarray(errors_along(reward, jnp.asarray(rates), beta, name, config.steps))
        parts.append(
            xr.Dataset(
                {
                    "error": (("setting", "seed", "step"), errors[:2]),
                    "end": (("multiple", "seed"), errors[2:, :, -1]),
                    "safe_rate": ("seed", safe),
                    "best_rate": ("seed", best),
                    "factor": (
                        ("setting", "seed"),
                        np.abs(1 - rates[:2, :, None] * values[:, [0, -1]]).max(axis=-1),
                    ),
                },
                {"setting": ["given", "best"], "multiple": list(config.multiples)},
            )
        )
    dataset = xr.concat(parts, xr.Variable("sampler", list(SAMPLERS))).assign_coords(
        step=("step", np.arange(config.steps + 1), {"long_name": "Step"}), seed=np.arange(config.seeds)
    )
    about = {
        "error": ("Mean error of a reward difference", "nats"),
        "end": ("Error after the last step", "nats"),
        "safe_rate": ("Largest safe rate, 2/λ_max", "1"),
        "best_rate": ("Best rate, 2/(λ_min + λ_max)", "1"),
        "factor": ("Largest factor of an error in one step, to first order", "1"),
    }
    for name, (text, units) in about.items():
        dataset[name].attrs = {"long_name": text, "units": units}
    dataset["multiple"].attrs = {"long_name": r"Rate, as a multiple of $2/\lambda_{\max}$", "units": "1"}
    return dataset.assign_attrs(
        learning_rate=config.learning_rate, safe_for_all=4 * reward.shape[-1] / config.beta**2
    )


def curvatures(
    reward: Float[Array, "seeds sequences"], sampler: str, beta: float
) -> Float[np.ndarray, "seeds others"]:
    """The eigenvalues of `H` at the optimum in ascending order, without the 0 of a shift of all logits.

    Args:
        reward: the true reward.
        sampler: a name in `SAMPLERS`.
        beta: that of DPO.
    """
    r = np.asarray(reward)
    d = r[:, :, None] - r[:, None, :]
    slope = 1 / (2 + np.exp(d) + np.exp(-d))
    weights = np.ones_like(d) if sampler == "uniform" else 1 / slope
    edges = weights / weights.sum(axis=(1, 2), keepdims=True) * slope
    laplacian = np.eye(r.shape[1]) * edges.sum(axis=2, keepdims=True) - edges
    return np.asarray(np.linalg.eigvalsh(2 * beta**2 * laplacian)[:, 1:])


@partial(jax.jit, static_argnames=("sampler", "steps"))
def errors_along(
    reward: Float[Array, "seeds sequences"],
    rates: Float[Array, "rates seeds"],
    beta: Float[Array, ""],
    sampler: str,
    steps: int,
) -> Float[Array, "rates seeds records"]:
    """The mean error of a reward difference at the start and after each step of exact gradient descent.

    The policy starts at the uniform reference. All runs are one compiled program.
    """

    def differences(values: Array) -> Array:
        return values[..., :, None] - values[..., None, :]

    true = differences(jnp.broadcast_to(reward, (*rates.shape, reward.shape[-1])))

    def step(logits: Array, _: None) -> tuple[Array, Array]:
        implied = beta * differences(logits)
        d = {"uniform": jnp.zeros_like(true), "reward": true, "policy": implied}[sampler]
        log_weights = -(log_sigmoid(d) + log_sigmoid(-d))  # of 1/σ'(d)
        weights = jnp.exp(log_weights - logsumexp(log_weights, axis=(-2, -1), keepdims=True))
        residual = jax.nn.sigmoid(true) - jax.nn.sigmoid(implied)
        ascent = 2 * beta * jnp.sum(weights * residual, axis=-1)
        return logits + rates[..., None] * ascent, jnp.abs(true - implied).mean(axis=(-2, -1))

    start = jnp.zeros((*rates.shape, reward.shape[-1]), reward.dtype)
    _, errors = jax.lax.scan(step, start, length=steps + 1)
    return jnp.moveaxis(errors, 0, -1)


def order(errors: xr.DataArray) -> float:
    """The slope of `log error` after a step over `log error` before it, over all seeds; NaN if unknown."""
    before, after = _successive(errors)
    return float(np.polyfit(np.log(before), np.log(after), 1)[0]) if len(before) > 1 else float("nan")


def _successive(errors: xr.DataArray) -> tuple[np.ndarray, np.ndarray]:
    values = errors.transpose("seed", "step").values
    before, after = values[:, :-1].ravel(), values[:, 1:].ravel()
    kept = (before < _NEAR) & (after > _ROUNDING)
    return before[kept], after[kept]


def finding(dataset: xr.Dataset) -> str:
    """Who arrives at the paper's rate, the order of convergence, and whether the safe rate is the edge."""
    rate = float(dataset.attrs["learning_rate"])
    given, best = dataset.sel(setting="given"), dataset.sel(setting="best")
    lost = (given["error"].isel(step=-1) > AT_REST).mean("seed")
    expected = (dataset["safe_rate"] < rate).mean("seed")
    arrived = listed(f"{share(1 - float(lost.sel(sampler=one)))} ({SAMPLERS[one]})" for one in SAMPLERS)
    unsafe = listed(f"{share(float(expected.sel(sampler=one)))}" for one in SAMPLERS)
    orders = {
        kind: listed(number(order(part["error"].sel(sampler=one))) for one in SAMPLERS)
        for kind, part in (("given", given), ("best", best))
    }
    first = (best["error"] < AT_REST).argmax("step").where((best["error"] < AT_REST).any("step"))
    steps = listed(number(float(first.sel(sampler=one).median())) for one in SAMPLERS)
    below = dataset["end"].sel(multiple=dataset["multiple"] <= SLOW)
    above = dataset["end"].sel(multiple=dataset["multiple"] > 1)
    uniform = dataset["safe_rate"].sel(sampler="uniform")
    return (
        f"At the paper's rate of {rate:g}, {arrived} of the seeds are within {number(AT_REST)} nats of the "
        f"target after {int(dataset['step'][-1])} steps. The largest safe rate, 2/λ_max, of uniform pairs "
        f"is {number(float(uniform.min()))} to {number(float(uniform.max()))}, by seed. The paper's rate is "
        f"above the safe one in {unsafe} of the seeds, by sampler; "
        f"{number(dataset.attrs['safe_for_all'])} is safe for "
        "every reward. At the paper's rate the order of convergence of the three samplers is "
        f"{orders['given']} (1 is linear, 2 is quadratic); at the best rate of each seed it is "
        f"{orders['best']}, and the median run arrives after {steps} steps. At {SLOW:g} "
        f"of the safe rate or less {share(float((below < AT_REST).mean()))} of all runs arrive, and above it "
        f"{share(float((above < AT_REST).mean()))}."
    )


def plot(dataset: xr.Dataset) -> Figure:
    """Errors along training at two rates, the order of convergence, and where the safe rate ends."""
    looks = plotting.looks_of(list(SAMPLERS))
    with plotting.style():
        figure, ((given, best), (orders, edge)) = plotting.new_figure(2, 2, height=4.6)
        for name, look in looks.items():
            one = dataset.sel(sampler=name)
            for ax, setting in ((given, "given"), (best, "best")):
                errors = one["error"].sel(setting=setting).clip(min=1e-17)
                plotting.plot_band(ax, errors, "step", color=look.color, label=SAMPLERS[name])
            before, after = _successive(one["error"].sel(setting="best"))
            orders.loglog(before, after, look.marker("."), color=look.color, markersize=3, alpha=0.6)
            plotting.plot_band(edge, one["end"].clip(min=1e-17), "multiple", color=look.color)
        given.set_title(f"(a) rate {dataset.attrs['learning_rate']:g}")
        best.set_title("(b) best rate of each seed")
        orders.set_title("(c) order, at the best rate")
        edge.set_title("(d) multiples of the safe rate")
        for ax in (given, best):
            plotting.label_axes(ax, x=dataset["step"], y=dataset["error"])
        best.set_xlim(0, min(60, int(dataset["step"][-1])))
        plotting.label_axes(orders, x="Error before a step (nats)", y="Error after it (nats)")
        _guides(orders)
        edge.axvline(1, color="black", **plotting.EXACT)
        plotting.label_axes(edge, x=dataset["multiple"], y=dataset["end"])
        for ax in (given, best, edge):
            ax.set_yscale("log")
            ax.set_ylim(1e-17, 100)
        handles, labels = given.get_legend_handles_labels()
        (line,) = edge.plot([], [], color="black", label="exact", **plotting.EXACT)
        figure.legend([*handles, line], [*labels, "exact"], loc="outside lower center", ncols=4)
    return figure


def _guides(ax: Axes) -> None:
    """Lines of the two orders."""
    ax.set_xlim(1e-13, 0.2)
    ax.set_ylim(1e-14, 0.2)
    at = np.array([1e-13, 0.2])
    for power, text, place in ((1, "as before", 1e-9), (2, "squared", 2e-5)):
        ax.plot(at, at**power, color="black", **plotting.EXACT)
        ax.annotate(
            text,
            (place, place**power),
            xytext=(-4, 5) if power == 1 else (5, -8),
            textcoords="offset points",
            ha="right" if power == 1 else "left",
            fontsize=7,
        )
