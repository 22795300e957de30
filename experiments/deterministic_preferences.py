"""Sure and cyclic preferences over three actions: where DPO and IPO end, for each strength of regularisation.

The toy is that of Azar et al., "A general theoretical paradigm to understand learning from human preferences"
(arXiv 2310.12036): three actions in a sure order, or a sure cycle, and `tau` (the `beta` of DPO) that should
keep the policy near the reference. They train by Adam, at the rate 0.01, for 18,000 steps, with a uniform
reference; here each seed has a random one. The claim: DPO gives the best action all mass whatever `tau`,
while IPO goes from that to the reference as `tau` grows. On a cycle both stay at the reference.

What is exact, derived here, for `N` actions, all pairs equally often, and `h` the log-ratio to the reference:

- Sure order, IPO: `Σ (h_i − h_j − 1/(2 tau))²` over `i < j` is least at `h_i = (N − 1 − 2i)/(2N tau)`. The
  normal equations are `N h_i = (wins − losses of i)/(2 tau)`, if `Σ h = 0`.
  Any other chances of winning do the same to the wins and losses.
- Sure order, DPO: each pair gains from a larger difference without end. There is no minimiser, and the first
  action gets all mass for every `tau`.
- If the last action beats the first with probability `q > 0`, wins lead from every action to every other, and
  DPO has a minimiser. At `q = 1` and `N = 3` that is a cycle, and by symmetry the reference for both.
"""

from typing import Annotated, ClassVar

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
import optax
import xarray as xr
from jaxtyping import Array, Float
from matplotlib.figure import Figure

import didsim
from didsim import plotting
from experiments.shared.configs import Count, Positive, SpaceConfig
from experiments.shared.wording import number

OBJECTIVES = {"ipo": "IPO", "dpo": "DPO"}


class Config(SpaceConfig, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of the experiment.

    The reference has normal logits of the standard deviation `scale`. Runs are at all `taus`. The chances of
    the last action to beat the first are `closing`, and are solved at `tau`.
    """

    least: ClassVar[int] = 3
    vocab_size: Annotated[int, msgspec.Meta(ge=2, lt=2**31)] = 3
    max_length: Count = 1
    seeds: Count = 32
    taus: Annotated[tuple[Positive, ...], msgspec.Meta(min_length=1)] = (
        *(0.01, 0.03, 0.1, 0.3),
        *(1.0, 3.0, 10.0),
    )
    closing: Annotated[tuple[Annotated[float, msgspec.Meta(gt=0, le=1)], ...], msgspec.Meta(min_length=2)] = (
        *(1e-4, 1e-3, 3e-3),
        *(0.01, 0.03, 0.1, 0.3, 0.6, 1.0),
    )
    tau: Positive = 1.0
    scale: Positive = 0.5
    steps: Count = 18_000
    learning_rate: Positive = 0.01

    def numbers(self) -> dict[str, int]:
        """Tables of pairs, and policies of all runs."""
        size = self.make_space().size
        return {
            "vocab_size": 20 * len(self.closing) * size**2,
            "seeds": 40 * self.seeds * size * (len(self.taus) + len(self.closing)),
        }


def run(config: Config, progress: bool = False) -> xr.Dataset:
    """Train on the sure order at every `tau`, and solve for every chance of the closing pair."""
    size = config.make_space().size
    keys = jax.random.split(jax.random.key(config.seed), config.seeds)
    reference = didsim.normal_logits(keys, size, config.scale)
    taus = jnp.asarray(config.taus)[:, None]
    order = didsim.Pairs(*np.triu_indices(size, k=1))
    optimizer = optax.adam(config.learning_rate)
    record = didsim.Record(config.steps, {"log_probs": _log_probs})
    trained = []
    for name in OBJECTIVES:
        objective = jax.vmap(jax.vmap(didsim.OBJECTIVES[name]))(taus)
        result = didsim.train(
            didsim.EnergyBased(reference),
            reference,
            order,
            objective,
            optimizer,
            config.steps,
            record=record,
            progress=progress and f"deterministic_preferences: {name}",
        )
        trained.append(np.exp(result.metrics["log_probs"][:, :, -1]))
    chances = jnp.asarray(config.closing)
    solved = [
        ipo_limit(reference, jnp.asarray(config.tau), chances[:, None, None]),
        dpo_limit(reference, config.tau, chances),
    ]
    certain = jnp.broadcast_to(jnp.arange(size) == 0, (*taus.shape[:1], *reference.shape))
    limits = [np.exp(ipo_limit(reference, taus[..., None])), certain]
    return xr.Dataset(
        {
            "probability": (
                ("objective", "tau", "seed", "action"),
                np.stack(trained),
                {"long_name": "Probability", "units": "1"},
            ),
            "limit": (
                ("objective", "tau", "seed", "action"),
                np.stack([np.asarray(one, float) for one in limits]),
                {"long_name": "Exact limit of the probability", "units": "1"},
            ),
            "solved": (
                ("objective", "closing", "seed", "action"),
                np.exp(np.stack([np.asarray(one) for one in solved])),
                {"long_name": "Probability", "units": "1"},
            ),
            "divergence": (
                ("objective", "closing", "seed"),
                np.stack([np.asarray(didsim.kl(one, reference)) for one in solved]),
                {"long_name": "KL(learned ‖ reference)", "units": "nats"},
            ),
            "reference": (
                ("seed", "action"),
                np.exp(reference),
                {"long_name": "Probability in the reference", "units": "1"},
            ),
        },
        {
            "objective": list(OBJECTIVES),
            "tau": ("tau", list(config.taus), {"long_name": "tau, or beta of DPO", "units": "1"}),
            "closing": (
                "closing",
                list(config.closing),
                {"long_name": "Chance that the last wins", "units": "1"},
            ),
            "action": np.arange(1, size + 1),
            "seed": np.arange(config.seeds),
        },
        {"tau": config.tau, "steps": config.steps},
    )


def _log_probs(s: didsim.Snapshot) -> Array:
    return s.log_probs


def ipo_limit(
    reference: Float[Array, "*batch actions"],
    tau: Float[Array, "*#batch 1"],
    chances: Float[Array, "*#batch 1"] | float = 0.0,
) -> Float[Array, "*batch actions"]:
    """Where IPO ends: `reference · exp((wins − losses)/(2N tau))`, with the wins and losses of each action.

    Args:
        reference: the reference, the best action first.
        tau: that of IPO.
        chances: how probable it is that the last action beats the first.
    """
    size = reference.shape[-1]
    place = jnp.arange(size)
    closing = (place == size - 1).astype(reference.dtype) - (place == 0)
    net = size - 1 - 2 * place + 2 * chances * closing
    return didsim.bayes_update(reference, net / (2 * size * tau))


def closed_order(chances: Float[Array, " chances"], size: int) -> Float[Array, "chances actions actions"]:
    """Log-probabilities of the chosen and the rejected action: a sure order, but for the last and the first.

    Args:
        chances: how probable it is that the last action beats the first.
        size: the number of actions.
    """
    table = jnp.broadcast_to(jnp.triu(jnp.ones((size, size)), k=1), (len(chances), size, size))
    table = table.at[:, 0, -1].set(1 - chances).at[:, -1, 0].set(chances)
    return jnp.log(table / (size * (size - 1) / 2))


def dpo_limit(
    reference: Float[Array, "seeds actions"], beta: float, chances: Float[Array, " chances"]
) -> Float[Array, "chances seeds actions"]:
    """Where DPO ends on a closed order.

    The log-ratio to the reference does not depend on the reference, so that one solution does for all seeds.
    """
    uniform = jnp.full(reference.shape[-1], -jnp.log(reference.shape[-1]))
    problem = didsim.Joint(closed_order(chances, reference.shape[-1]))
    found = didsim.solve(didsim.dpo(beta), uniform, problem).log_probs
    return didsim.bayes_update(reference, found[:, None])


def finding(dataset: xr.Dataset) -> str:
    """The best action's probability at both ends of `tau`, and the divergence as the order closes."""
    ends = dataset["probability"].isel(action=0).median("seed")
    limits = dataset["limit"]
    low, high = (number(float(dataset["tau"][k])) for k in (0, -1))
    best = {one: [number(float(ends.sel(objective=one)[k])) for k in (0, -1)] for one in OBJECTIVES}
    gap = abs(dataset["probability"] - limits).max(("seed", "action"))
    gaps = {
        "ipo": number(float(gap.sel(objective="ipo").max())),
        "dpo": number(float(gap.sel(objective="dpo").isel(tau=-1))),
    }
    apart = dataset["divergence"].median("seed")
    few, all_ = (number(float(dataset["closing"][k])) for k in (0, -1))
    moved = {
        one: [number(round(float(apart.sel(objective=one)[k]), 12)) for k in (0, -1)] for one in OBJECTIVES
    }
    start = number(float(dataset["reference"].isel(action=0).median()))
    return (
        f"On a sure order the best action, with probability {start} in the reference, ends at "
        f"{best['dpo'][0]} for DPO with beta {low} and at {best['dpo'][1]} with beta {high}; for IPO these "
        f"are {best['ipo'][0]} and {best['ipo'][1]}. After {dataset.attrs['steps']:,} steps no probability "
        f"of IPO is further than {gaps['ipo']} from its exact limit, and at beta {high} one of DPO is still "
        f"{gaps['dpo']} from its own: all mass on the "
        f"best action. If the last action beats the first with probability {few}, the divergence from the "
        f"reference at tau {number(dataset.attrs['tau'])} is {moved['dpo'][0]} nats for DPO and "
        f"{moved['ipo'][0]} for IPO; with probability {all_} it is {moved['dpo'][1]} and {moved['ipo'][1]}."
    )


def plot(dataset: xr.Dataset) -> Figure:
    """Probabilities of all actions over `tau` and over the closing chance, and the divergence."""
    looks = plotting.looks_of(dataset["action"].values)
    tau = number(dataset.attrs["tau"])
    with plotting.style():
        figure, ((ipo, dpo), (solved, apart)) = plotting.new_figure(2, 2, height=4.7)
        for ax, name in ((ipo, "ipo"), (dpo, "dpo")):
            for action, look in looks.items():
                one = dataset.sel(objective=name, action=action)
                plotting.plot_band(ax, one["probability"], "tau", label=f"action {action}", **look.line)
                ax.plot(one["tau"], one["limit"].median("seed"), color=look.color, **plotting.EXACT)
            plotting.label_axes(ax, x=dataset["tau"], y=dataset["probability"])
        ipo.set_title("(a) IPO, sure order")
        dpo.set_title("(b) DPO, sure order")
        for action, look in looks.items():
            closed = dataset["solved"].sel(objective="dpo", action=action)
            plotting.plot_band(solved, closed, "closing", **look.line)
        solved.set_title(f"(c) DPO, order closed, beta {tau}")
        plotting.label_axes(solved, x=dataset["closing"], y=dataset["solved"])
        for (name, text), color in zip(OBJECTIVES.items(), plotting.COLORS[3:], strict=False):
            divergence = dataset["divergence"].sel(objective=name)
            plotting.plot_band(apart, divergence, "closing", color=color, label=text)
        apart.set_title(f"(d) order closed, tau {tau}")
        apart.legend(loc="best")
        plotting.label_axes(apart, x=dataset["closing"], y=dataset["divergence"])
        for ax in (ipo, dpo, solved, apart):
            ax.set_xscale("log")
        for ax in (ipo, dpo, solved):
            ax.set_ylim(-0.03, 1.03)
        handles, labels = ipo.get_legend_handles_labels()
        (line,) = ipo.plot([], [], color="black", **plotting.EXACT)
        figure.legend([*handles, line], [*labels, "exact limit"], loc="outside lower center", ncols=4)
    return figure
