"""Four answers: the best one rises twelvefold, and the chosen log-likelihood falls all the same."""

from string import ascii_uppercase
from typing import Annotated

import jax.numpy as jnp
import msgspec
import xarray as xr
from matplotlib.figure import Figure

import didsim
from didsim import plotting
from experiments.shared.configs import Positive, SpaceConfig

Probabilities = Annotated[tuple[Annotated[float, msgspec.Meta(gt=0, lt=1)], ...], msgspec.Meta(min_length=2)]


class Config(SpaceConfig, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of the experiment: the probabilities of all answers before training, and in the target.

    Each list is divided by its sum. There is one answer for each sequence of the space.
    """

    vocab_size: Annotated[int, msgspec.Meta(ge=1, lt=2**31)] = 4
    max_length: Annotated[int, msgspec.Meta(ge=1, lt=2**31)] = 1
    beta: Positive = 0.1
    reference: Probabilities = (0.05, 0.25, 0.4, 0.3)
    target: Probabilities = (0.6, 0.2, 0.1, 0.1)

    def __post_init__(self) -> None:
        size = self.make_space().size
        for name in ("reference", "target"):
            if len(getattr(self, name)) != size:
                raise ValueError(
                    f"`{name}` must have a probability for each of the {size} sequences; "
                    f"got {len(getattr(self, name))}"
                )


def run(config: Config, progress: bool = False) -> xr.Dataset:
    """Solve DPO exactly. Chosen responses come from the reference, and preferences encode the target."""
    reference, target = (jnp.log(jnp.array(p) / sum(p)) for p in (config.reference, config.target))
    rejected = didsim.optimal_rejected(reference, target, config.beta)
    problem = didsim.Contrastive(chosen=reference, rejected=rejected)
    learned = didsim.fixed_point(didsim.dpo(config.beta), reference, problem)
    fall = didsim.expectation(reference, learned - reference)
    nats = {"units": "nats"}
    return xr.Dataset(
        {
            "log_probs": (
                ("policy", "answer"),
                jnp.stack([reference, learned]),
                {"long_name": "Log-probability", **nats},
            ),
            "chosen_displacement": ((), fall, {"long_name": "Change of the chosen log-likelihood", **nats}),
        },
        {"policy": ["before", "after DPO"], "answer": [_name(k) for k in range(reference.size)]},
    )


def _name(number: int) -> str:
    """A to Z, then A1 to Z1, and so on."""
    turn, letter = divmod(number, 26)
    return f"{ascii_uppercase[letter]}{turn or ''}"


def finding(dataset: xr.Dataset) -> str:
    """What the picture shows."""
    before, after = dataset["log_probs"].values
    best = int((after - before).argmax())
    return (
        f"The probability of answer {dataset['answer'].values[best]} is multiplied by "
        f"{jnp.exp(after[best] - before[best]):.3g}, yet the mean log-likelihood of the chosen responses "
        f"changes by {float(dataset['chosen_displacement']):+.2f} nats. They are samples of the policy "
        f"before training, and only {jnp.exp(before[best]):.0%} of them are that answer. "
        "The others became rarer."
    )


def plot(dataset: xr.Dataset) -> Figure:
    """Bars of every answer before and after training, and what each adds to the chosen log-likelihood."""
    before, after = dataset["log_probs"].values
    answers = [str(name) for name in dataset["answer"].values]
    with plotting.style():
        figure, axes = plotting.new_figure(1, 2, height=2.2)
        bars, parts = axes.flat
        names = [str(name) for name in dataset["policy"].values]
        plotting.plot_distributions(bars, dict(zip(names, (before, after), strict=True)), answers)
        bars.legend()
        shares = jnp.exp(before) * (after - before)
        colors = [plotting.COLORS[2] if share > 0 else plotting.COLORS[1] for share in shares]
        total = float(dataset["chosen_displacement"])
        parts.bar([*answers, "all"], [*shares, total], color=[*colors, "0.3"])
        parts.axhline(0, color="black", linewidth=0.6)
        parts.grid(visible=False, axis="x")
        parts.set_ylabel("Change of log-likelihood,\nweighted (nats)")
        bars.set_xlabel("Answer")
        parts.set_xlabel("Chosen answers, each and all")
    return figure
