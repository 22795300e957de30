"""DPO in a class that cannot hold the target: worse than the reference, and how often.

Gopalan, Chowdhury and Banerjee, "Why DPO is a misspecified estimator and how to fix it" (arXiv 2510.20413),
study policies that cannot represent the target. The claim: DPO then may reverse preferences, and may end
with less reward than its reference, even with all data and at the global optimum, since it fits the reward
best where pairs are frequent. Their fix, AuxDPO, does not. Their toy has three responses,
`π ∝ (e^θ, e^−θ, 1)`, the reward `(1, 2, 0)`, and nearly all pairs are of the first and the third.

Here a class is `π ∝ π_ref exp(φ θ)`, with `d` features for each response, and labels follow the model of
Bradley and Terry. What is exact, derived here:

- DPO's loss depends on `c = beta θ` alone, so its `θ` is `c/beta` for one `c`.
- AuxDPO adds free numbers `δ` to the implicit reward, with `Σ_y π_ref(y) (φ_y − E φ) δ_y = 0`, and fits
  both. If all pairs occur, the loss is least if and only if `beta φ θ + δ` is the true reward up to a
  constant. By the constraint, `beta Cov(φ, φ) θ = Cov(φ, r)` under the reference. So `θ` is the regression of
  the reward on the features, over `beta`, whatever the pairs. For the toy at `beta = 1` it is `−1/2`, with
  the expected reward 1.199, the number that their paper gives.
- It is one natural-gradient step at the reference. For large `beta` the reward changes by `Cov(φ, r)·θ`,
  which is never negative for AuxDPO and may have any sign for DPO. At small `beta` that says nothing.
- The best policy of the class for reward less `beta` KL never has less reward than the reference, which is
  itself in the class.
"""

from typing import Annotated, ClassVar

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
import xarray as xr
from jaxtyping import Array, Bool, Float
from matplotlib.figure import Figure

import didsim
from didsim import plotting
from experiments.shared.configs import Count, Positive, SpaceConfig
from experiments.shared.wording import number, share

METHODS = {"dpo": "DPO", "aux": "AuxDPO"}
_STEPS = 10
_SHRINK = (1.0, 0.3, 0.05)
"""The lengths of a Newton step that are tried."""

_BOTH = 0.02
"""In the toy the other two pairs have this share of all pairs, at most."""


class Config(SpaceConfig, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of the experiment.

    There is a response for each sequence of the space. Each seed has `instances` sets of normal features,
    rewards, and logits of the reference. The pairs of responses have Dirichlet weights. Classes have
    `features` features at the `concentration` of the weights, and the second of `features` at all
    `concentrations`. Panel (b) is over `betas`, all others at `beta`.
    """

    least: ClassVar[int] = 3
    vocab_size: Annotated[int, msgspec.Meta(ge=2, lt=2**31)] = 8
    max_length: Count = 1
    seeds: Count = 32
    instances: Annotated[int, msgspec.Meta(ge=32, lt=2**31)] = 100
    beta: Positive = 1.0
    betas: Annotated[tuple[Positive, ...], msgspec.Meta(min_length=2)] = (
        0.03,
        0.1,
        0.3,
        1.0,
        3.0,
        10.0,
        30.0,
    )
    features: Annotated[tuple[Count, ...], msgspec.Meta(min_length=2)] = (1, 2, 3, 5, 7)
    concentration: Positive = 0.3
    concentrations: Annotated[tuple[Positive, ...], msgspec.Meta(min_length=2)] = (0.03, 0.1, 1.0, 10.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if max(self.features) >= self.make_space().size:
            raise ValueError(
                f"`features` must be fewer than the {self.make_space().size} sequences; got {self.features}"
            )

    def numbers(self) -> dict[str, int]:
        """Tables of pairs, and one Hessian, for each instance and class."""
        size = self.make_space().size
        classes = len(self.features) + len(self.concentrations)
        each = 8 * size**2 + 4 * max(self.features) ** 2 + 4 * size * len(self.betas)
        return {"instances": self.seeds * self.instances * classes * each}


def run(config: Config, progress: bool = False) -> xr.Dataset:
    """Fit both methods to random instances and to the toy."""
    size, most = config.make_space().size, max(config.features)
    batch = (config.seeds, config.instances)
    keys = jax.random.split(jax.random.key(config.seed), 3 + len(config.concentrations))
    reference = jax.nn.log_softmax(jax.random.normal(keys[0], (*batch, size)), axis=-1)
    reward = jax.random.normal(keys[1], (*batch, size))
    features = jax.random.normal(keys[2], (*batch, size, most))
    upper = np.triu_indices(size, k=1)

    def weights(key: Array, concentration: float) -> Array:
        drawn = didsim.dirichlet(jax.random.split(key, batch), len(upper[0]), concentration)
        table = np.zeros((*batch, size, size))
        table[..., upper[0], upper[1]] = np.exp(drawn)
        return jnp.asarray(table)

    def fits(used: int, table: Array) -> tuple[Array, Array]:
        mask = jnp.arange(most) < used
        return dpo_fit(features, reward, table, mask), aux_fit(features, reward, reference, mask)

    standard = weights(keys[3], config.concentration)
    by_features = [fits(used, standard) for used in config.features]
    second = config.features[1]
    by_weights = [
        fits(second, weights(key, one)) for key, one in zip(keys[3:], config.concentrations, strict=True)
    ]
    of_features, of_weights = (
        jnp.asarray(np.stack([*map(np.stack, one)])) for one in (by_features, by_weights)
    )
    betas = jnp.asarray(config.betas)[:, None, None, None]
    at = config.features.index(second)

    def worse(scores: Array, beta: Array | float) -> np.ndarray:
        return np.asarray(jnp.mean(gain(scores / beta, reference, reward) < 0, axis=-1))

    names = list(METHODS)
    text = {"long_name": "Share worse than the reference", "units": "1"}
    toy_share, toy = _toy(config)
    return xr.Dataset(
        {
            "worse_beta": (
                ("fit", "beta", "seed"),
                np.stack([worse(of_features[at, k], betas) for k in range(2)]),
                text,
            ),
            "worse_features": (
                ("fit", "features", "seed"),
                np.stack([worse(of_features[:, k], config.beta) for k in range(2)]),
                text,
            ),
            "worse_weights": (
                ("fit", "concentration", "seed"),
                np.stack([worse(of_weights[:, k], config.beta) for k in range(2)]),
                text,
            ),
            "reversed": (
                ("fit", "features", "seed"),
                np.stack([reversals(np.asarray(of_features[:, k]), np.asarray(reward)) for k in range(2)]),
                {"long_name": "Share of pairs in the wrong order", "units": "1"},
            ),
            "toy": (("policy", "share"), toy, {"long_name": "Expected reward", "units": "nats"}),
        },
        {
            "fit": names,
            "policy": [*names, "best", "reference"],
            "beta": ("beta", list(config.betas), {"long_name": "beta", "units": "1"}),
            "features": ("features", list(config.features), {"long_name": "Features", "units": "1"}),
            "concentration": (
                "concentration",
                list(config.concentrations),
                {"long_name": "Concentration of pair weights", "units": "1"},
            ),
            "share": ("share", toy_share, {"long_name": "Share of pairs of 1 and 3", "units": "1"}),
            "seed": np.arange(config.seeds),
        },
        {"second": second, "config_beta": config.beta, "config_concentration": config.concentration},
    )


@jax.jit
def dpo_fit(
    features: Float[Array, "*batch responses features"],
    reward: Float[Array, "*batch responses"],
    weights: Float[Array, "*batch responses responses"],
    mask: Bool[Array, " features"],
) -> Float[Array, "*batch responses"]:
    """The implicit rewards `φ c` at DPO's minimiser, by Newton's method on `c`.

    Args:
        features: `φ`.
        reward: the true reward, which labels the pairs.
        weights: how often each pair is compared, above the diagonal.
        mask: which of the features the class has.
    """
    used = features * mask
    truth = jax.nn.sigmoid(reward[..., :, None] - reward[..., None, :])

    def differences(c: Array) -> Array:
        scores = jnp.einsum("...nf,...f->...n", used, c, precision="highest")
        return scores[..., :, None] - scores[..., None, :]

    def loss(c: Array) -> Array:
        h = differences(c)
        return jnp.sum(weights * (jax.nn.softplus(-h) + (1 - truth) * h), axis=(-2, -1))

    def step(c: Array, _: None) -> tuple[Array, None]:
        won = jax.nn.sigmoid(differences(c))
        off = weights * (won - truth)
        pull = jnp.sum(off, axis=-1) - jnp.sum(off, axis=-2)
        slope = jnp.einsum("...n,...nf->...f", pull, used, precision="highest")
        bend = weights * won * (1 - won)
        bend += jnp.swapaxes(bend, -1, -2)
        laplacian = jnp.sum(bend, axis=-1)[..., None] * jnp.eye(reward.shape[-1]) - bend
        hessian = jnp.swapaxes(used, -1, -2) @ laplacian @ used
        # A feature that the class has not stays at zero. The ridge is far below what rounding leaves.
        hessian += jnp.diag(1.0 - mask) + 1e-13 * jnp.eye(len(mask))
        newton = jnp.linalg.solve(hessian, slope[..., None])[..., 0]
        tried = jnp.stack([c, *(c - length * newton for length in _SHRINK)])
        values = jax.vmap(loss)(tried)
        best = jnp.argmin(jnp.where(jnp.isnan(values), jnp.inf, values), axis=0)
        return jnp.take_along_axis(tried, best[None, ..., None], axis=0)[0], None

    start = jnp.zeros((*features.shape[:-2], features.shape[-1]))
    c, _ = jax.lax.scan(step, start, length=_STEPS)
    return jnp.einsum("...nf,...f->...n", used, c, precision="highest")


@jax.jit
def aux_fit(
    features: Float[Array, "*batch responses features"],
    reward: Float[Array, "*batch responses"],
    reference: Float[Array, "*batch responses"],
    mask: Bool[Array, " features"],
) -> Float[Array, "*batch responses"]:
    """The implicit rewards `φ c` of AuxDPO: the regression of the reward on features, under the reference."""
    used = features * mask
    p = jnp.exp(reference)
    centred = used - jnp.einsum("...n,...nf->...f", p, used, precision="highest")[..., None, :]
    spread = jnp.einsum("...n,...nf,...ng->...fg", p, centred, centred, precision="highest")
    pull = jnp.einsum("...n,...nf,...n->...f", p, centred, reward, precision="highest")
    c = jnp.linalg.solve(spread + jnp.diag(1.0 - mask), pull[..., None])[..., 0]
    return jnp.einsum("...nf,...f->...n", used, c, precision="highest")


def gain(
    log_ratio: Float[Array, "*batch responses"],
    reference: Float[Array, "*#batch responses"],
    reward: Float[Array, "*#batch responses"],
) -> Float[Array, "*batch"]:
    """How much more reward `reference · exp(log_ratio)`, normalised, expects than the reference."""
    policy = didsim.bayes_update(reference, log_ratio)
    return didsim.expectation(policy, reward) - didsim.expectation(reference, reward)


def reversals(
    scores: Float[np.ndarray, "*batch seeds instances responses"],
    reward: Float[np.ndarray, "seeds instances responses"],
) -> Float[np.ndarray, "*batch seeds"]:
    """The share of pairs that implicit rewards put in the other order than the true reward."""
    one, other = (np.sign(x[..., :, None] - x[..., None, :]) for x in (scores, reward))
    size = scores.shape[-1]
    return np.asarray(np.sum(one * other < 0, axis=(-2, -1)).mean(axis=-1) / (size * (size - 1)))


def _toy(config: Config) -> tuple[np.ndarray, np.ndarray]:
    """Expected rewards of DPO, AuxDPO, the best of the class, and the reference, by the share of a pair."""
    shares = np.linspace(1 / 3, 1 - _BOTH, 30)
    features, reward = jnp.array([[1.0], [-1.0], [0.0]]), jnp.array([1.0, 2.0, 0.0])
    uniform = jnp.full(3, -jnp.log(3.0))
    rest = (1 - shares) / 2
    weights = np.zeros((len(shares), 3, 3))
    weights[:, 0, 2], weights[:, 0, 1], weights[:, 1, 2] = shares, rest, rest
    mask = jnp.array([True])
    fitted = jax.vmap(lambda one: dpo_fit(features, reward, one, mask))(jnp.asarray(weights))
    aux = aux_fit(features, reward, uniform, mask)
    grid = jnp.linspace(-5, 5, 2001)[:, None] * features[:, 0]
    policies = didsim.bayes_update(uniform, grid)
    objective = didsim.expectation(policies, reward) - config.beta * didsim.kl(policies, uniform)
    base = float(didsim.expectation(uniform, reward))
    best = float(didsim.expectation(policies[jnp.argmax(objective)], reward))
    constant = base + float(gain(aux / config.beta, uniform, reward))
    rows = [base + np.asarray(gain(fitted / config.beta, uniform, reward))]
    return shares, np.stack([*rows, *(np.full(len(shares), one) for one in (constant, best, base))])


def finding(dataset: xr.Dataset) -> str:
    """The toy's rewards, and how often each method does worse than its reference."""
    toy = dataset["toy"]
    low, high = (share(float(dataset["share"][k])) for k in (0, -1))
    ends = {one: [number(float(toy.sel(policy=one)[k])) for k in (0, -1)] for one in ("dpo", "aux")}
    base = f"{float(toy.sel(policy='reference')[0]):.3g}"
    best = f"{float(toy.sel(policy='best')[0]):.3g}"
    by_beta = dataset["worse_beta"].median("seed")
    few, many = (number(float(dataset["beta"][k])) for k in (0, -1))
    worse = {one: [share(float(by_beta.sel(fit=one)[k])) for k in (0, -1)] for one in METHODS}
    by_features = dataset["worse_features"].sel(fit="dpo").median("seed")
    by_weights = dataset["worse_weights"].sel(fit="dpo").median("seed")
    order = dataset["reversed"].median("seed").sel(features=dataset.attrs["second"])
    reversed_ = {one: share(float(order.sel(fit=one))) for one in METHODS}
    return (
        f"In the three-response toy the reference expects a reward of {base}, and the policy of the class "
        f"that is best for reward less beta KL {best}. DPO expects {ends['dpo'][0]} if {low} of the pairs "
        f"are of responses 1 and 3, and {ends['dpo'][1]} if {high} are; AuxDPO expects {ends['aux'][1]} for "
        "any pairs. Over random "
        f"classes of {dataset.attrs['second']} features, DPO ends with less reward than its reference in "
        f"{worse['dpo'][0]} at beta {few} and in {worse['dpo'][1]} at beta {many}, and AuxDPO in "
        f"{worse['aux'][0]} and {worse['aux'][1]}. At beta {number(dataset.attrs['config_beta'])} DPO's "
        f"share goes from {share(float(by_features[0]))} with {int(dataset['features'][0])} to "
        f"{share(float(by_features[-1]))} with {int(dataset['features'][-1])} features, and from "
        f"{share(float(by_weights[0]))} for the most uneven pairs to {share(float(by_weights[-1]))} for the "
        f"most even. DPO puts {reversed_['dpo']} of all pairs in the wrong order, and AuxDPO "
        f"{reversed_['aux']}."
    )


def plot(dataset: xr.Dataset) -> Figure:
    """The toy, and the share of instances with less reward than before by beta, features and pairs."""
    second, beta = dataset.attrs["second"], number(dataset.attrs["config_beta"])
    with plotting.style():
        figure, ((toy, by_beta), (by_features, by_weights)) = plotting.new_figure(2, 2, height=4.7)
        for (name, text), color in zip(METHODS.items(), plotting.COLORS, strict=False):
            toy.plot(dataset["share"], dataset["toy"].sel(policy=name), color=color, label=text)
            for ax, of in ((by_beta, "beta"), (by_features, "features"), (by_weights, "concentration")):
                variable = "worse_weights" if of == "concentration" else f"worse_{of}"
                plotting.plot_band(ax, dataset[variable].sel(fit=name), of, color=color)
        for name, color, text in (("best", "black", "best of class"), ("reference", "0.6", "reference")):
            toy.plot(
                dataset["share"], dataset["toy"].sel(policy=name), color=color, label=text, **plotting.EXACT
            )
        toy.set_title(f"(a) three responses, beta {beta}")
        plotting.label_axes(toy, x=dataset["share"], y=dataset["toy"])
        by_beta.set_title(f"(b) {second} features")
        by_features.set_title(f"(c) beta {beta}")
        by_weights.set_title(f"(d) {second} features, beta {beta}")
        for ax, of in ((by_beta, "beta"), (by_features, "features"), (by_weights, "concentration")):
            plotting.label_axes(ax, x=dataset[of], y=dataset["worse_beta"])
            ax.set_ylim(bottom=-0.01)
        by_beta.set_xscale("log")
        by_weights.set_xscale("log")
        figure.legend(*toy.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure
