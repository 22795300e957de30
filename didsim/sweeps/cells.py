"""The computation of a block: all its cells as runs of one compiled program."""

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import msgspec
import numpy as np
from jaxtyping import Array, ArrayLike

from didsim import _checks
from didsim.fixed_points.solve import solve
from didsim.information import js
from didsim.objectives.objective import Objective
from didsim.preferences.contrastive import Contrastive
from didsim.preferences.labelled import Labelled
from didsim.preferences.online import Online
from didsim.preferences.problem import Problem
from didsim.spaces import SequenceSpace
from didsim.sweeps.completing import metrics_of
from didsim.sweeps.makers import ROLES, maker_of
from didsim.sweeps.optimizers import compiled_in, optimizer_of
from didsim.sweeps.settings import Maker, make
from didsim.sweeps.tables import real_numbers, with_values
from didsim.training.metrics import METRICS
from didsim.training.record import Record
from didsim.training.run import Run
from didsim.training.train import train

_USES = ("reference", "target", "chosen", "rejected", "first", "second", "pairs", "training")
_STARTS = 2

# Numbers in the tables of Newton's method that are solved for at once.
_SOLVED_AT_ONCE = 2**27

# Two programs with linear algebra that run at once can deadlock in XLA's few threads.
_ONE_AT_A_TIME = threading.Lock()


def compute(cells: Sequence[dict[str, Any]], size: int) -> dict[str, np.ndarray]:
    """Train all cells of a block. One block at a time in a process.

    Args:
        cells: complete studies that one program computes.
        size: the number of runs that the program is compiled for; if there are fewer cells, the last one is
            repeated, so that a smaller block at the edge of a grid compiles nothing.

    Returns:
        Metrics `[cells, records]`; their `steps` `[records]`; `diverged_at` and, if asked for, limits
        `[cells]`.

    Raises:
        ValueError: some cell cannot be computed. An error of any other kind is turned into this one.
    """
    padded = [*cells, *[cells[-1]] * (size - len(cells))]
    with _ONE_AT_A_TIME, jax.enable_x64(cells[0]["dtype"] == "float64"):
        try:
            results = _results(padded)
        except ValueError:
            raise
        except Exception as error:
            raise ValueError(f"{type(error).__name__}: {error}") from error
    return {name: values if name == "steps" else values[: len(cells)] for name, values in results.items()}


def _results(cells: Sequence[dict[str, Any]]) -> dict[str, np.ndarray]:
    config = cells[0]
    numbers = [real_numbers(cell) for cell in cells]
    traced = numbers[0].keys() - compiled_in(config)
    stacked = {place: jnp.asarray([one[place] for one in numbers]) for place in numbers[0] if place in traced}
    seeds = jnp.asarray([cell["seed"] for cell in cells])
    # The tables that a program is compiled for hold no seed, and zeros for the numbers that are given apart.
    fixed = with_values(config, {"seed": 0, **dict.fromkeys(stacked, 0.0)})
    try:
        drawn = _drawn(msgspec.json.encode(fixed), _makers(config), stacked, seeds)
    except eqx.EquinoxRuntimeError as error:
        raise ValueError(str(error).partition("\n")[0]) from None
    space = SequenceSpace(**config["space"])
    # Checked here, so that an error names them as the study does.
    reference, target = (
        _checks.distribution(name, drawn[name], full_support=True) for name in ("reference", "target")
    )
    objective = drawn["objective"]
    # Numbers that a policy is made with lie along the runs, as its reference does.
    along = {place: one[:, None] for place, one in stacked.items()}
    policy = with_values({"policy": config["policy"]}, along)["policy"]
    problem = _problem(config, drawn)
    run = train(
        make(maker_of("policy", policy), policy, reference=reference, space=space),
        reference,
        problem,
        objective,
        optimizer_of(config, stacked),
        config["steps"],
        record=Record(config["record"]["every"], {name: METRICS[name] for name in metrics_of(config)}),
        batch_size=config["batch_size"],
        key=drawn["training"] if config["batch_size"] else None,
        target=target,
        lengths=space.lengths,
        on_divergence="record",
    )
    found = {"steps": run.steps, "diverged_at": run.diverged_at}
    for name, values in run.metrics.items():
        if values.ndim != 2:
            raise ValueError(f"`record.metrics`: {name!r} must be a number for each state; got an array")
        found[name] = np.asarray(values)
    if config["limit"]:
        found |= _limits(run, objective, reference, problem, target, space)
        found["js_to_limit"] = np.where(run.diverged_at >= 0, np.nan, found["js_to_limit"])
    return found


@eqx.filter_jit
def _drawn(fixed: bytes, makers: dict[str, Maker], numbers: dict[str, Array], seeds: Array) -> dict[str, Any]:
    """The distributions, objective and keys of each run: every array has one entry for each seed.

    `makers` are the functions that the tables name. They are arguments, so that another function registered
    under the same name is compiled.
    """
    config = msgspec.json.decode(fixed)
    space = SequenceSpace(**config["space"])

    def one(numbers: dict[str, Array], seed: Array) -> dict[str, Any]:
        tables = with_values(config, numbers)
        keys = dict(zip(_USES, jax.random.split(jax.random.key(seed), len(_USES)), strict=True))
        at_hand = {"size": space.size, "space": space}
        reference = make(makers["reference"], tables["reference"], key=keys["reference"], **at_hand)
        at_hand["reference"] = reference
        target = make(makers["target"], tables["target"], key=keys["target"], **at_hand)
        drawn = {
            "reference": reference,
            "target": target,
            "objective": make(makers["objective"], tables["objective"], space=space),
            "pairs": keys["pairs"],
            "training": keys["training"],
        }
        at_hand |= {"target": target, "score": target - reference}
        problem = tables["problem"]
        for place in ("chosen", "rejected", "first", "second"):
            if place in problem:
                maker = makers[f"problem.{place}"]
                drawn[place] = make(maker, problem[place], key=keys[place], **at_hand)
        if "sampler" in problem:
            drawn["sampler"] = make(makers["problem.sampler"], problem["sampler"])
        if "beta" in problem:
            drawn["reward"] = problem["beta"] * (target - reference)
        return drawn

    return jax.vmap(one)(numbers, seeds)


def _makers(config: dict[str, Any]) -> dict[str, Maker]:
    """The functions that the tables of a study name, by the places of these."""
    tables = config | {f"problem.{key}": table for key, table in config["problem"].items()}
    return {place: maker_of(place, tables[place]) for place in ROLES if place in tables}


def _problem(config: Mapping[str, Any], drawn: Mapping[str, Any]) -> Problem:
    problem: Problem
    match config["problem"]["name"]:
        case "contrastive":
            problem = Contrastive(drawn["chosen"], drawn["rejected"])
        case "labelled":
            problem = Labelled(drawn["reward"], drawn["first"], drawn["second"])
        case _:
            problem = Online(drawn["reward"], drawn["sampler"])
    pairs = config["problem"].get("pairs")
    if pairs is None:
        return problem
    return jax.vmap(lambda one, key: one.sample(key, pairs))(problem, drawn["pairs"])


def _limits(
    run: Run, objective: Objective, reference: Array, problem: Problem, target: Array, space: SequenceSpace
) -> dict[str, np.ndarray]:
    """JS from the exact limit to the target, and from the learned policy to the exact limit, for each run."""
    runs = len(reference)
    at_once = min(runs, max(1, _SOLVED_AT_ONCE // space.size**3))
    limits = []
    for start in range(0, runs, at_once):
        # The last runs may be solved again, so that all solves have one size and share one program.
        part = np.minimum(np.arange(start, start + at_once), runs - 1)
        some = jax.tree.map(lambda leaf, part=part: leaf[part], (objective, reference, problem))
        limits.append(_limit(some, space.lengths))
    limit = np.concatenate(limits)[:runs]
    return {
        "js_limit": _js_where_known(limit, target),
        "js_to_limit": _js_where_known(limit, run.policy.log_probs()),
    }


def _limit(given: tuple[Objective, Array, Problem], lengths: ArrayLike) -> np.ndarray:
    """The minimiser of each run; NaN unless it is proven, or found from all starts, to be the only one."""
    objective, reference, problem = given
    solution = solve(objective, reference, problem, lengths, starts=_STARTS)
    known = solution.certificate
    good = known.converged & known.finite & known.identified.all(axis=-1)
    agreed = True if known.agreed is None else known.agreed
    good = good & ~known.has_others & (known.unique | agreed)
    return np.where(good[:, None], solution.log_probs, np.nan)


def _js_where_known(limit: np.ndarray, other: Array) -> np.ndarray:
    """The JS divergence of each limit from another distribution; NaN where the limit is NaN."""
    known = ~np.isnan(limit).any(axis=-1)
    return np.where(known, js(np.where(known[:, None], limit, other), other), np.nan)
