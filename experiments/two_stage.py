"""DPO against its rival, a reward model and then the best policy for it, on the same pairs.

The policies of few features are `π ∝ exp(features · weights)`. The first feature is the log-reference, so
that the reference is one of them.
"""

from collections.abc import Iterable
from typing import Annotated, Any, NamedTuple

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
from experiments.shared.wording import number, share

SETTINGS = {
    "full": "all\nfree",
    "features": "features\nin both",
    "reward": "features\nin reward",
    "policy": "features\nin policy",
    "unseen": "unseen\nresponses",
}
"""What is compared, with the words under the axis."""

SHIFTED = ("features", "reward", "policy")
"""The settings that are also seen under a shift. It changes no minimiser where all is free."""

METHODS = {"dpo": "DPO", "two": "two stages"}
_TINY = 1e-16  # no two numbers of the size of a nat are known to be nearer


class Config(SpaceConfig, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of the experiment.

    The true reward is standard normal, and labels follow the model of Bradley and Terry. `pairs` are drawn
    where all is free; elsewhere the pairs are the whole population. The responses of a pair come from
    `reference · exp(shift · z)` with standard normal `z`. A share `unseen` of the responses is in no pair,
    and the reward model then has a `ridge`, for pairs of total weight `pairs`.
    """

    max_length: Count = 2
    seeds: Count = 32
    beta: Positive = 0.5
    pairs: Count = 4000
    features: Count = 4
    unseen: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.25
    shifts: Annotated[tuple[NonNegative, ...], msgspec.Meta(min_length=1)] = (0.0, 0.7, 1.4, 2.0)
    ridges: Annotated[tuple[Positive, ...], msgspec.Meta(min_length=1)] = (1e-3, 0.1, 1.0, 10.0, 100.0)

    def numbers(self) -> dict[str, int]:
        """Tables of pairs for each seed and shift."""
        size = self.make_space().size
        return {"seeds": 40 * self.seeds * len(self.shifts) * size**2, "pairs": self.pairs}


class _World(NamedTuple):
    """What all settings share: the reference, the features, and a true reward and target for each seed."""

    reference: Array
    features: Array
    reward: Array
    target: Array
    beta: float


def run(config: Config, progress: bool = False) -> xr.Dataset:
    """Solve all settings by both methods, exactly."""
    space, seeds = config.make_space(), config.seeds
    keys = jax.random.split(jax.random.key(config.seed), 5)
    reference = didsim.markov(keys[0], space)
    few = min(config.features, space.size - 1)
    features = jnp.concatenate(
        [reference[:, None], jax.random.normal(keys[1], (space.size, few - 1), reference.dtype)], axis=1
    )
    reward = jax.random.normal(keys[2], (seeds, space.size), reference.dtype)
    target = didsim.kl_optimum(reward, reference, config.beta)
    world = _World(reference, features, reward, target, config.beta)
    bump = jax.random.normal(keys[3], (seeds, space.size), reference.dtype)
    shifts = jnp.asarray(config.shifts)[:, None, None]
    sampler = np.asarray(jax.nn.log_softmax(reference + shifts * bump, axis=-1))
    unseen = np.arange(space.size) >= max(2, round((1 - config.unseen) * space.size))
    weights = {
        "full": _drawn(config, world),
        "shifted": config.pairs * _population(np.exp(sampler), world),
        "unseen": config.pairs * _population(np.where(unseen, 0, np.exp(np.asarray(reference))), world),
    }
    shifted = _by_shift(weights["shifted"], world)
    (full,) = _free(weights["full"], world, (0.0,))
    by_ridge = _free(weights["unseen"], world, sorted(config.ridges))
    policies = {
        "full": full,
        **{name: {method: found[0] for method, found in shifted[name].items()} for name in SHIFTED},
        "unseen": by_ridge[0],
    }
    return _dataset(config, world, policies, shifted, by_ridge, unseen)


def _pairs(weights: np.ndarray) -> didsim.Pairs:
    """Pairs of all responses in either order, a dataset for each table of weights."""
    i, j = np.nonzero(~np.eye(weights.shape[-1], dtype=bool))
    shape = (*weights.shape[:-2], len(i))
    return didsim.Pairs(np.broadcast_to(i, shape), np.broadcast_to(j, shape), weights[..., i, j])


def _population(sampler: np.ndarray, world: _World) -> np.ndarray:
    """The share of the pairs in which `i` beats `j`, over all pairs of two responses."""
    reward = np.asarray(world.reward)
    wins = 1 / (1 + np.exp(reward[:, None, :] - reward[:, :, None]))
    both = sampler[..., :, None] * sampler[..., None, :] * wins * ~np.eye(reward.shape[-1], dtype=bool)
    return np.asarray(both / both.sum((-2, -1), keepdims=True))


def _drawn(config: Config, world: _World) -> np.ndarray:
    """How often `i` beats `j` among pairs drawn at random, with all pairs of responses equally likely."""
    size = world.reference.shape[-1]
    random = np.random.default_rng(config.seed)
    shares = _population(np.full(size, 1 / size), world)
    counts = [random.multinomial(config.pairs, one.ravel()).reshape(size, size) for one in shares]
    return np.array(counts, float)


def _free(weights: np.ndarray, world: _World, ridges: Iterable[float]) -> list[dict[str, Array]]:
    """Both methods if rewards and policies are free. DPO's loss may be level: its end is that of descent."""
    dpo, data = didsim.dpo(world.beta), [_pairs(one) for one in weights]
    ends = np.array([didsim.solve(dpo, world.reference, one).certificate.limit for one in data])
    found = []
    for ridge in ridges:
        rewards = np.array([didsim.reward_model(one, ridge=ridge).rewards for one in data])
        best = didsim.kl_optimum(rewards, world.reference, world.beta)
        found.append({"dpo": jnp.asarray(ends), "two": best})
    return found


def _by_shift(weights: np.ndarray, world: _World) -> dict[str, dict[str, Array]]:
    """Both methods with few features in the reward, in the policy, and in both, for every shift and seed."""
    start = didsim.LogLinear(world.features, jnp.zeros(world.features.shape[-1]).at[0].set(1.0))
    dpo, data = didsim.dpo(world.beta), _pairs(weights)
    free = _minimiser(dpo, world, data, None)
    in_class = _minimiser(dpo, world, data, start)
    size = weights.shape[-1]
    tables = [_pairs(one) for one in weights.reshape(-1, size, size)]
    linear, fitted = (
        np.reshape([didsim.reward_model(one, features=features).rewards for one in tables], in_class.shape)
        for features in (world.features, None)
    )
    for_linear = didsim.kl_optimum(linear, world.reference, world.beta)
    rewarded = didsim.Labelled(fitted, world.reference, world.reference)
    best = _minimiser(didsim.policy_gradient(world.beta), world, rewarded, start)
    return {
        "features": {"dpo": in_class, "two": for_linear},
        "reward": {"dpo": free, "two": for_linear},
        "policy": {"dpo": in_class, "two": best},
    }


def _minimiser(
    objective: didsim.Objective, world: _World, problem: didsim.Problem, policy: didsim.LogLinear | None
) -> Array:
    """The lowest end that the solver finds, of a class of policies or of all."""
    solution = didsim.solve(objective, world.reference, problem, policy=policy)
    if not np.all(solution.certificate.converged):
        raise ValueError("`beta`, `features` and `shifts` must be such that every solver converges")
    return jnp.asarray(solution.log_probs)


def _measures(policy: Array, world: _World) -> dict[str, Array]:
    """What is measured of a policy: its true reward, its divergences, and the value that it loses."""
    return {
        "reward": didsim.expectation(policy, world.reward),
        "kl": didsim.kl(policy, world.reference),
        "lost": world.beta * didsim.kl(policy, world.target),
    }


_ABOUT = {
    "reward": "True expected reward",
    "kl": "KL divergence from the reference",
    "lost": "Value lost",
}


def _dataset(
    config: Config,
    world: _World,
    policies: dict[str, dict[str, Array]],
    shifted: dict[str, dict[str, Array]],
    by_ridge: list[dict[str, Array]],
    unseen: np.ndarray,
) -> xr.Dataset:
    found: dict[str, Any] = {}
    for prefix, dims, cases in (
        ("", ("setting", "way", "seed"), policies),
        ("shifted_", ("misfit", "way", "shift", "seed"), shifted),
    ):
        measured = [[_measures(one[method], world) for method in METHODS] for one in cases.values()]
        for name, text in _ABOUT.items():
            values = np.array([[one[name] for one in row] for row in measured])
            found[prefix + name] = (dims, values, {"long_name": text, "units": "nats"})
    apart = [didsim.js(one["dpo"], one["two"]) for one in policies.values()]
    largest = [jnp.abs(one["dpo"] - one["two"]).max(-1) for one in policies.values()]
    mass = [[jnp.exp(one[method])[:, unseen].sum(-1) for method in METHODS] for one in by_ridge]
    wanted, kept = (jnp.exp(one)[..., unseen].sum(-1) for one in (world.target, world.reference))
    nats, of_setting = {"units": "nats"}, ("setting", "seed")
    found |= {
        "js": (of_setting, np.array(apart), {"long_name": "JS divergence between both policies", **nats}),
        "apart": (
            of_setting,
            np.array(largest),
            {"long_name": "Largest difference of log-probabilities", **nats},
        ),
        "mass": (
            ("ridge", "way", "seed"),
            np.array(mass),
            {"long_name": "Probability of unseen responses", "units": "1"},
        ),
        "target_mass": ("seed", np.array(wanted), {"long_name": "The same of the target", "units": "1"}),
        "reference_mass": ((), float(kept), {"long_name": "The same of the reference", "units": "1"}),
    }
    return xr.Dataset(
        found,
        {
            "setting": list(SETTINGS),
            "way": list(METHODS),
            "misfit": list(SHIFTED),
            "shift": ("shift", list(config.shifts), {"long_name": "Shift of the pairs", **nats}),
            "ridge": ("ridge", sorted(config.ridges), {"long_name": "Ridge of the reward model"}),
        },
    )


def finding(dataset: xr.Dataset) -> str:
    """Where both are equal and where they are apart, in numbers."""
    middle = dataset.median("seed")

    def lost(setting: str, method: str) -> str:
        found = float(middle["lost"].sel(setting=setting, way=method))
        return number(found) if found > 1e-12 else "none"

    same = dataset["apart"].sel(setting=["full", "features"]).max()
    mass = middle["mass"].isel(ridge=0)
    last = middle["mass"].isel(ridge=-1).sel(way="two")
    ends = middle["shifted_lost"].sel(misfit="policy", way="dpo").isel(shift=[0, -1])
    rewards = middle["reward"].sel(setting="policy")
    kls = middle["kl"].sel(setting="policy")
    return (
        "Both ways are the same where rewards and policies are free, or have the same features: no "
        f"log-probability differs by more than {number(float(same))} nats. If only the reward model has few "
        f"features, two stages lose {lost('reward', 'two')} nats of value and DPO "
        f"{lost('reward', 'dpo')}. If only the policy has, DPO loses {lost('policy', 'dpo')} and two stages "
        f"{lost('policy', 'two')}: the true reward is {number(float(rewards.sel(way='dpo')))} and "
        f"{number(float(rewards.sel(way='two')))}, at {number(float(kls.sel(way='dpo')))} and "
        f"{number(float(kls.sel(way='two')))} nats from the reference. A shift of "
        f"{dataset['shift'][-1]:g} nats takes DPO's loss of value from {number(float(ends[0]))} to "
        f"{number(float(ends[1]))} nats. Unseen responses get {share(float(mass.sel(way='dpo')))} by DPO "
        f"and {share(float(mass.sel(way='two')))} by two stages with little ridge, where the target has "
        f"{share(float(middle['target_mass']))} and the reference {share(float(dataset['reference_mass']))}; "
        f"a ridge of {dataset['ridge'][-1]:g} leaves {share(float(last))}."
    )


def plot(dataset: xr.Dataset) -> Figure:
    """How far apart the two are, what each loses, and both along the shift and the ridge."""
    colors = dict(zip(METHODS, plotting.COLORS, strict=False))
    marks = dict(zip(METHODS, ("o", "s"), strict=True))
    with plotting.style():
        figure, axes = plotting.new_figure(2, 2, height=4.6)
        (apart, lost), (shift, ridge) = axes
        spread = np.linspace(-0.25, 0.25, dataset.sizes["seed"]) if dataset.sizes["seed"] > 1 else [0.0]
        for place in range(len(SETTINGS)):
            values = np.maximum(dataset["apart"][place], _TINY)
            apart.plot(place + np.asarray(spread), values, ".", color="0.35", markersize=3)
            for step, (name, color) in enumerate(colors.items()):
                one = dataset["lost"].isel(setting=place).sel(way=name)
                low, half, high = np.quantile(one, [0.025, 0.5, 0.975])
                at = place + 0.24 * (step - 0.5)
                lost.plot([at, at], [low, high], color=color)
                lost.plot(at, half, marks[name], color=color, markersize=3.5)
        apart.set_ylabel("Largest difference of\nlog-probabilities (nats)")
        lost.set_ylabel("Value lost (nats)")
        apart.set_yscale("log")
        for ax in (apart, lost):
            ax.set_xticks(range(len(SETTINGS)), SETTINGS.values(), fontsize=5.5)
        for misfit, line in zip(("reward", "policy"), ("-", (0, (1, 1.2))), strict=True):
            for name, color in colors.items():
                one = dataset["shifted_lost"].sel(misfit=misfit, way=name)
                if misfit == "policy" or name == "two":
                    plotting.plot_band(
                        shift,
                        one,
                        "shift",
                        color=color,
                        linestyle=line,
                        marker=marks[name],
                        markersize=3,
                        label=f"{METHODS[name]}, features in {misfit}",
                    )
        plotting.label_axes(shift, x=dataset["shift"], y="Value lost (nats)")
        shift.set_ylim(0, 1.5 * shift.get_ylim()[1])
        for name, color in colors.items():
            plotting.plot_band(
                ridge,
                dataset["mass"].sel(way=name),
                "ridge",
                color=color,
                marker=marks[name],
                markersize=3,
                label=METHODS[name],
            )
        ridge.axhline(dataset["reference_mass"], color="0.4", label="reference", linestyle=":")
        ridge.axhline(dataset["target_mass"].median(), color="black", label="target", **plotting.EXACT)
        ridge.set_xscale("log")
        plotting.label_axes(ridge, x=dataset["ridge"], y="Probability of\nunseen responses")
        titles = ("DPO and two stages apart", "below the target", "shifted pairs", "unseen responses")
        for ax, letter, title in zip(axes.flat, "abcd", titles, strict=True):
            ax.set_title(f"({letter}) {title}")
        for name, color in colors.items():
            lost.plot([], [], marks[name], linestyle="-", color=color, markersize=3.5, label=METHODS[name])
        lost.set_ylim(top=1.3 * lost.get_ylim()[1])
        lost.legend(loc="upper left", ncols=2)
        shift.legend(loc="upper left")
        ridge.legend(loc="best")
    return figure
