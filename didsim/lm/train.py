"""DPO and DPO-PG of a causal language model: a plain loop in PyTorch that can be stopped and resumed."""

import hashlib
import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch.nn.functional import softplus

from didsim import _checks
from didsim._files import local_path, written_whole
from didsim.lm.logps import at_marked, evaluating, padded
from didsim.lm.pairs import Rows, token_pairs

REFERENCE_KEYS = ("ref_chosen_logps", "ref_rejected_logps")
"""Where a pair's log-probabilities under the reference stand in a row: the names of TRL."""


class Trained(NamedTuple):
    """What a training run leaves, beside the model itself.

    Attributes:
        losses: `[steps]`, the loss of each step's pairs before the step, in nats.
        records: what `at` returned, by step.
    """

    losses: Float[np.ndarray, " steps"]
    records: dict[int, Any]


def train_dpo(
    model: Any,
    pairs: Rows,
    *,
    beta: float,
    steps: int,
    batch_size: int = 8,
    learning_rate: float = 1e-4,
    keeps_chosen: bool = False,
    seed: int = 0,
    every: int | None = None,
    at: Callable[[int], Any] | None = None,
    checkpoint: str | Path | None = None,
) -> Trained:
    """Train a model on preference pairs by DPO, or by DPO-PG, with Adam.

        loss = mean softplus(−β ((log π(y_w) − log π_ref(y_w)) − (log π(y_l) − log π_ref(y_l))))

    With `keeps_chosen` the gradient `∇` of a step is projected before Adam sees it. Let `g` be the gradient
    of the mean `log π(y_w)` of the step's pairs. If a step along `−∇` would lower it, `⟨∇, g⟩ > 0`, then `∇`
    becomes `∇ − g ⟨∇, g⟩ / ⟨g, g⟩`, as for `didsim.dpo_pg`. Adam then scales each parameter by itself. So a
    step can still lower the chosen responses a little. Source: DPO is Rafailov et al. (arXiv 2305.18290);
    DPO-PG follows its public description.

    Each epoch takes all pairs in a random order, and the last pairs that fill no batch are left out of it.
    The parameters that need a gradient are trained. The model computes as in evaluation, without dropout, so
    that the first step begins at the reference.

    Args:
        model: a causal language model. It is changed in place.
        pairs: rows with lists of tokens under `prompt_ids`, `chosen_ids` and `rejected_ids`, and with the
            log-probabilities of both responses under the reference, `ref_chosen_logps` and
            `ref_rejected_logps`, which `score` computes.
        beta: beta of DPO.
        steps: the number of steps.
        batch_size: the number of pairs of a step.
        learning_rate: Adam's.
        keeps_chosen: whether to project.
        seed: what orders the pairs.
        every: call `at`, and write the checkpoint, every so many steps; None for the start and the end alone.
        at: a function of the step that is called before the first step, then every so many, and at the end.
            What it returns is recorded, and must be of numbers, words, lists, dictionaries and tensors.
        checkpoint: a file for the trained parameters and Adam's state. If it is there, and of a run with the
            same settings and pairs, training goes on from it, with the same result as without a stop (for
            `LastBlocks`, to rounding). It is written whole or not at all.

    Raises:
        ValueError: an argument is wrong, there are fewer pairs than a batch, or the checkpoint is damaged or
            of another run.
        FloatingPointError: a loss is not finite. The checkpoint before it stays.

    Cost:
        A step takes a forward and a backward pass of twice `batch_size` sequences; with `keeps_chosen`
        another backward pass.
    """
    rows = _Rows(pairs)
    strength = _checks.real("beta", beta, _checks.positive)
    last = _checks.integer("steps", steps, 1)
    size = _checks.integer("batch_size", batch_size, 1, len(rows))
    rate = _checks.real("learning_rate", learning_rate, _checks.positive)
    seed = _checks.integer("seed", seed, 0)
    often = last if every is None else _checks.integer("every", every, 1)
    projects = _checks.flag("keeps_chosen", keeps_chosen)
    if at is not None:
        _checks.function("at", at)
    trained = [one for one in model.parameters() if one.requires_grad]
    if not trained:
        raise ValueError("`model` must have parameters that need a gradient; it has none")
    adam = torch.optim.Adam(trained, lr=rate)
    settings = {
        "beta": strength,
        "steps": last,
        "batch_size": size,
        "learning_rate": rate,
        "keeps_chosen": projects,
        "seed": seed,
        "every": often,
        "pairs": rows.digest(),
    }
    kept = None if checkpoint is None else _Checkpoint(local_path("checkpoint", checkpoint), settings)
    step, losses, records = (None if kept is None else kept.read(trained, adam)) or (0, [], {})

    def record() -> None:
        if at is not None:
            records[step] = at(step)
        if kept is not None:
            kept.write(trained, adam, step, losses, records)

    if not step:
        record()
    while step < last:
        batch = rows.batch(_places(len(rows), size, seed, step))
        with evaluating(model):
            loss = _gradient(model, trained, batch, strength, projects)
        if not np.isfinite(loss):
            raise FloatingPointError(f"step {step}: the loss is {loss}; take a smaller learning rate")
        losses.append(loss)
        adam.step()
        step += 1
        if step % often == 0 or step == last:
            record()
    return Trained(np.array(losses), records)


class _Batch(NamedTuple):
    """Chosen responses, then the rejected ones in the same order, with the reference's log-probabilities."""

    prompts: list[list[int]]
    responses: list[list[int]]
    reference: Any


class _Rows:
    """Pairs as tokens, with the reference's log-probabilities."""

    def __init__(self, pairs: Rows) -> None:
        self._pairs = token_pairs({"train": pairs})
        self._reference = np.array([_reference(pairs[place], place) for place in range(len(pairs))])

    def __len__(self) -> int:
        return len(self._pairs)

    def batch(self, places: Sequence[int]) -> _Batch:
        both = [*places, *(len(self) + place for place in places)]
        return _Batch(
            [self._pairs.prompts[place] for place in both],
            [self._pairs.responses[place] for place in both],
            torch.tensor(self._reference[list(places)].T.reshape(-1), dtype=torch.float64),
        )

    def digest(self) -> str:
        whole = json.dumps([self._pairs.prompts, self._pairs.responses, self._reference.tolist()])
        return hashlib.sha256(whole.encode()).hexdigest()


def _reference(row: Mapping[str, Any], place: int) -> list[float]:
    given = [row.get(name) for name in REFERENCE_KEYS]
    try:
        found = [float(one) for one in given]  # type: ignore[arg-type]
    except (TypeError, ValueError):
        found = [np.nan]
    if not np.isfinite(found).all():
        raise ValueError(
            f"`pairs[{place}]` must have finite log-probabilities under {' and '.join(REFERENCE_KEYS)}; got "
            f"{given}"
        )
    return found


def _places(pairs: int, size: int, seed: int, step: int) -> list[int]:
    """The pairs of a step. They depend on seed and step alone, so that a resumed run draws the same."""
    epoch, place = divmod(step, pairs // size)
    order = np.random.default_rng([seed, epoch]).permutation(pairs)
    found: list[int] = order[place * size : (place + 1) * size].tolist()
    return found


def _gradient(model: Any, trained: list[Any], batch: _Batch, beta: float, keeps_chosen: bool) -> float:
    """Put the gradient of the loss into the parameters, projected if asked for. Returns the loss."""
    logps = torch.stack(
        [
            log_probs.gather(1, following[:, None]).sum()
            for log_probs, following in at_marked(model, *padded(batch.prompts, batch.responses))
        ]
    )
    chosen, rejected = (logps - batch.reference.to(logps.device)).chunk(2)
    loss = softplus(-beta * (chosen - rejected)).mean()
    gradient = torch.autograd.grad(loss, trained, retain_graph=keeps_chosen)
    if keeps_chosen:
        pull = torch.autograd.grad(chosen.mean(), trained)
        overlap = _dot(gradient, pull)
        if overlap > 0:
            share = overlap / _dot(pull, pull)
            gradient = tuple(one - share * other for one, other in zip(gradient, pull, strict=True))
    for one, value in zip(trained, gradient, strict=True):
        one.grad = value
    return float(loss.detach())


def _dot(first: Sequence[Any], second: Sequence[Any]) -> Any:
    return sum((one * other).sum() for one, other in zip(first, second, strict=True))


class _Checkpoint:
    """A file with all that a run needs to go on."""

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        if not path.parent.is_dir():
            raise ValueError(f"`checkpoint` must be in a folder that is there; {path.parent} is not")
        self._path, self._settings = path, settings

    def write(
        self, trained: list[Any], adam: Any, step: int, losses: list[float], records: dict[int, Any]
    ) -> None:
        state = {
            "settings": self._settings,
            "step": step,
            "losses": losses,
            "records": records,
            "parameters": [one.detach() for one in trained],
            "adam": adam.state_dict(),
        }
        with written_whole(self._path) as (draft,):
            torch.save(state, draft)

    def read(self, trained: list[Any], adam: Any) -> tuple[int, list[float], dict[int, Any]] | None:
        """Take over a checkpoint, if there is one. Returns its step, losses and records."""
        if not self._path.exists():
            return None
        mend = f"Move {self._path} away to begin anew"
        try:
            # PyTorch does not look at the checksums that it writes.
            if (bad := zipfile.ZipFile(self._path).testzip()) is not None:
                raise ValueError(f"its part {bad} is not what was written")
            state = torch.load(self._path, map_location="cpu", weights_only=True)
        except Exception as error:  # of several libraries, by where the damage is
            raise ValueError(f"`checkpoint` is damaged: {str(error).partition(chr(10))[0]}. {mend}") from None
        settings = state["settings"]
        if other := [name for name, value in self._settings.items() if settings.get(name) != value]:
            raise ValueError(f"`checkpoint` is of a run with another {', '.join(other)}. {mend}")
        with torch.no_grad():
            for one, value in zip(trained, state["parameters"], strict=True):
                one.copy_(value)
        adam.load_state_dict(state["adam"])
        return state["step"], state["losses"], state["records"]
