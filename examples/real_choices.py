"""Real choices: how 210 travellers between Sydney, Canberra and Melbourne chose air, train, bus or car.

The data come with statsmodels (`pip install 'didsim[examples]'`), which states that they are in the public
domain: Greene and Hensher, travel mode choice, 1987. They have the form of preference data for language
models. A traveller is a prompt, the four ways to travel are its responses, and the reward of a response is
linear in its features, as that of a reward model in the last layer of a network. The model is that of Greene,
"Econometric Analysis" (7th edition, table 18.3).

    python -m examples.real_choices --out real_choices.png

draws the coefficients with three kinds of intervals: from the likelihood of the whole choices; from the
choices broken into pairs, which takes the three pairs of a traveller for independent; and from a bootstrap
of these pairs that draws whole travellers.
"""

import argparse
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from matplotlib.figure import Figure

import didsim
from didsim import plotting

MODES = ("air", "train", "bus", "car")
NAMES = ("air", "train", "bus", "cost", "waiting", "income of air")
"""The features: constants of three modes beside the car, a cost in dollars that includes the time on the way,
the waiting time in minutes, and the income of the household in thousand dollars where the mode is air."""


class Answer(NamedTuple):
    """What was fitted.

    Attributes:
        choices: the fit to whole choices.
        pairs: the fit to the choices broken into pairs.
        intervals: the ends of 95% intervals of the coefficients, `[2, features]`, by the kind of interval.
        shares: the share of each mode in the data, and its mean probability in the fit.
    """

    choices: didsim.RewardFit
    pairs: didsim.RewardFit
    intervals: dict[str, np.ndarray]
    shares: np.ndarray


def load() -> tuple[didsim.Rankings, np.ndarray]:
    """The choices, with a name for each mode of each traveller, and the features of these items."""
    from statsmodels.datasets import modechoice

    table = modechoice.load_pandas().data
    mode = table["mode"].to_numpy().astype(int) - 1
    traveller = table["individual"].to_numpy().astype(int)
    names = [f"traveller {who:03d} by {MODES[one]}" for who, one in zip(traveller, mode, strict=True)]
    sets = np.array(names).reshape(-1, len(MODES)).tolist()
    chosen = [name for name, taken in zip(names, table["choice"], strict=True) if taken == 1]
    choices = didsim.Rankings.from_choices(chosen, sets)
    constants = np.eye(len(MODES))[mode][:, :3]
    rest = [table["gc"], table["ttme"], table["hinc"] * (mode == 0)]
    features = np.column_stack([constants, *rest])
    place = {name: row for row, name in enumerate(names)}
    return choices, features[[place[str(name)] for name in choices.items]]


def answer(resamples: int = 400) -> Answer:
    """The fits, and their intervals."""
    choices, features = load()
    fit = didsim.reward_model(choices, features=features)
    broken = didsim.reward_model(choices.pairs(), features=features)
    draws = didsim.bootstrap(broken, by="prompt", key=jax.random.key(0), resamples=resamples)
    assert draws.coefficients is not None
    intervals = {
        "whole choices": np.array(fit.coefficient_estimates().interval()),
        "pairs, taken as independent": np.array(broken.coefficient_estimates().interval()),
        "pairs, whole travellers redrawn": np.array(draws.coefficient_interval()),
    }
    travellers = fit.rewards.reshape(-1, len(MODES))
    # Names are sorted: air, bus, car, train for each traveller.
    probs = np.exp(travellers - np.logaddexp.reduce(travellers, axis=1, keepdims=True)).mean(axis=0)
    won = np.bincount(choices.order[choices.starts[:-1]], minlength=len(choices.items))
    order = [sorted(MODES).index(mode) for mode in MODES]
    shares = np.stack([won.reshape(-1, len(MODES)).mean(axis=0), probs])[:, order]
    return Answer(fit, broken, intervals, shares)


def plot(found: Answer) -> Figure:
    """The coefficients in units of their standard error, and the share of each mode."""
    estimates = found.choices.coefficient_estimates()
    with plotting.style():
        figure, axes = plotting.new_figure(1, 2, height=2.6, width_ratios=(1.7, 1))
        left, right = axes.ravel()
        for k, (kind, (low, high)) in enumerate(found.intervals.items()):
            middle = (low + high) / 2 / estimates.standard_error
            half = (high - low) / 2 / estimates.standard_error
            rows = np.arange(len(NAMES)) + 0.22 * (k - 1)
            left.errorbar(
                middle, rows, xerr=half, fmt="o", markersize=3, color=plotting.COLORS[k], label=kind
            )
        left.axvline(0, color="black", linewidth=0.8)
        left.set_yticks(range(len(NAMES)), NAMES)
        left.invert_yaxis()
        left.set_xlabel("coefficient / its standard error")
        left.set_title("(a) 95% intervals")
        left.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=1)
        for k, (kind, shares) in enumerate(zip(("chosen", "fitted"), found.shares, strict=True)):
            right.bar(np.arange(4) + 0.36 * (k - 0.5), shares, 0.36, color=plotting.COLORS[3 + k], label=kind)
        right.set_xticks(range(4), MODES)
        right.set_ylabel("share of travellers")
        right.set_title("(b) shares of modes")
        right.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2)
    return figure


def main() -> None:
    """Print the coefficients, and draw the picture."""
    parser = argparse.ArgumentParser(description="Real choices of travellers, fitted with intervals.")
    parser.add_argument("--out", type=Path, default=Path("real_choices.png"), help="the picture")
    path = parser.parse_args().out
    found = answer()
    low, high = found.intervals["whole choices"]
    travellers = len(found.choices.items) // len(MODES)
    print(f"log-likelihood {found.choices.log_likelihood:.4f} nats of {travellers} travellers")
    value = found.choices.coefficient_estimates().value
    for k, name in enumerate(NAMES):
        print(f"{name:>14}: {value[k]:8.4f}  ({low[k]:.4f} to {high[k]:.4f})")
    air, car = "traveller 001 by air", "traveller 001 by car"
    contrast = found.choices.contrast(car, air)
    ends = [float(one[0]) for one in contrast.interval()]
    print(f"{car} against {air}: {contrast.value[0]:.2f} nats of reward ({ends[0]:.2f} to {ends[1]:.2f})")
    plot(found).savefig(path, dpi=300, bbox_inches="tight")
    print(f"picture: {path}")


if __name__ == "__main__":
    main()
