"""Preference optimisation of a language model towards a known target: everything in tokens.

The target is the model itself after a context: `π*(y | x) = π_ref(y | context, x)`. So log-probabilities of
reference and target are at hand for every response. Responses end with the ending token, or are cut after a
number of tokens; both policies are distributions over the same finitely many responses.
"""

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import xarray as xr
from jaxtyping import Float, Int
from rich.progress import track

import didsim
from didsim import lm
from didsim.lm import arguments
from experiments.shared.configs import LanguageConfig
from experiments.shared.parts import Parts

SPLIT = 3
"""One of so many prompts is held out."""

EVALUATED = 8
"""Responses of each held-out prompt along which next-token distributions are compared."""

TABLE_PAIRS = 2
"""Pairs of each prompt in the pairs table."""


class Answer(NamedTuple):
    """The right answer of a prompt: tokens of the beginning of a sentence, and those that complete it."""

    stem: list[int]
    tokens: list[int]


class Task(NamedTuple):
    """Prompts as tokens.

    Attributes:
        name: its name.
        beta: beta of its rejected distributions and of training.
        prompts: what the reference and the policy are given.
        with_context: what the target is given.
        answers: the right answer of each prompt; empty if there is none.
    """

    name: str
    beta: float
    prompts: list[list[int]]
    with_context: list[list[int]]
    answers: list[Answer]

    @property
    def held_out(self) -> list[int]:
        """The places of the prompts that no pair for training comes from."""
        return list(range(SPLIT - 1, len(self.prompts), SPLIT))

    @property
    def trained(self) -> list[int]:
        """The places of all other prompts."""
        return [one for one in range(len(self.prompts)) if one not in self.held_out]


class Variant(NamedTuple):
    """A way to train.

    Attributes:
        rejected: the name of the rejected distribution.
        keeps_chosen: whether it is DPO-PG.
    """

    rejected: str
    keeps_chosen: bool = False


VARIANTS = {
    "optimal": Variant("optimal"),
    "optimal, DPO-PG": Variant("optimal", keeps_chosen=True),
    "uniform": Variant("uniform"),
    "tempered": Variant("tempered"),
    "worst of n": Variant("worst of n"),
    "reference": Variant("reference"),
}


class Pool(NamedTuple):
    """Responses that the reference gave, and their log-probabilities in nats.

    Attributes:
        responses: responses of each prompt.
        reference: `[prompts, samples]`, under the reference.
        target: `[prompts, samples]`, under the target.
    """

    responses: list[list[list[int]]]
    reference: Float[np.ndarray, "prompts samples"]
    target: Float[np.ndarray, "prompts samples"]

    def of(self, prompts: Sequence[int]) -> "Pool":
        """The pool of some prompts."""
        return Pool([self.responses[one] for one in prompts], self.reference[prompts], self.target[prompts])


def rejected_weights(pool: Pool, name: str, beta: float, config: LanguageConfig) -> lm.Weights:
    """Weights that make samples of the reference stand for a rejected distribution.

    Raises:
        ValueError: too few samples carry the weight.
    """
    if name == "optimal":
        return lm.optimal_rejected_weights(pool.reference, pool.target, beta, config.least_effective)
    log_weights = {
        "reference": lambda: np.zeros_like(pool.reference),
        "uniform": lambda: -np.log(_counts(pool.responses)),
        "tempered": lambda: (config.exponent - 1) * pool.reference,
        "worst of n": lambda: _worst_of(config.worst_of, pool.target),
    }[name]()
    return lm.resampling_weights(log_weights, f"the rejected distribution {name!r}", config.least_effective)


def _worst_of(n: int, score: Float[np.ndarray, "prompts samples"]) -> Float[np.ndarray, "prompts samples"]:
    uniform = np.full_like(score, -np.log(score.shape[1]))
    # The least probability that single precision holds stands for none.
    return np.maximum(np.asarray(didsim.worst_of_n(uniform, score, n), float), -80)


def _counts(responses: list[list[list[int]]]) -> Int[np.ndarray, "prompts samples"]:
    """How often each response was given to its prompt."""
    return np.array([[own.count(one) for one in own] for own in responses])


def study(
    model: Any,
    end: int,
    tasks: Sequence[Task],
    config: LanguageConfig,
    folder: Path,
    say: Callable[[str], Any],
    progress: bool = False,
) -> xr.Dataset:
    """Draw the data, train with every variant and seed, and measure on prompts that were held out.

    Each part is a file of `folder` when it is finished, and is not done again.

    Args:
        model: the reference, a causal language model.
        end: the ending token.
        tasks: the tasks, all with as many prompts.
        config: the settings.
        folder: where the parts go.
        say: is told what is done, in a line.
        progress: whether to show a progress bar.

    Raises:
        ValueError: prompt and response are longer than the model's window, or too few samples carry the
            weight of a rejected distribution, both of which are told before any training; or a part is
            damaged, or of another study.
    """
    longest = max(len(prompt) for task in tasks for prompt in (*task.with_context, *task.prompts))
    arguments.fits_window(model, longest + config.length)
    parts = Parts(folder, _digest(model, end, tasks, config))
    pools = []
    for task in track(tasks, "real_lm: responses", disable=not progress):
        drawn = parts.get(f"{task.name}-pool", partial(_draw, model, end, task, config, say))
        for name in {one.rejected for one in VARIANTS.values()}:
            rejected_weights(_pool(drawn), name, task.beta, config)
        pools.append(drawn)
    datasets = []
    for task, drawn in zip(tasks, pools, strict=True):
        runs = _Runs(model, task, config, drawn, parts, say)
        keys = [(name, seed) for seed in range(config.seeds) for name in VARIANTS]
        found = {key: runs.get(*key) for key in track(keys, f"real_lm: {task.name}", disable=not progress)}
        datasets.append(_as_dataset(task, config, runs.pool, runs.measure, found))
    return xr.concat(datasets, xr.DataArray([task.name for task in tasks], dims="task", name="task"))


def _draw(
    model: Any, end: int, task: Task, config: LanguageConfig, say: Callable[[str], Any]
) -> dict[str, np.ndarray]:
    """Responses of the reference and, for held-out prompts, of the target."""
    drawn = lm.draw(model, task.prompts, config.samples, config.length, end, config.seed)
    say(f"{task.name}: {sum(map(len, drawn)):,} responses drawn from the reference")
    flat = [one for own in drawn for one in own]
    shape = (len(drawn), config.samples)
    reference = lm.score(model, _repeated(task.prompts, config.samples), flat, _BATCH).logps.reshape(shape)
    target = lm.score(model, _repeated(task.with_context, config.samples), flat, _BATCH).logps.reshape(shape)
    fall = (reference - target).mean()
    say(f"{task.name}: scored under both; KL(reference‖target) is about {fall:.2f} nats")
    held = [task.with_context[one] for one in task.held_out]
    of_target = lm.draw(model, held, EVALUATED, config.length, end, config.seed + 1)
    return {
        "responses": _as_array(flat, config.length),
        "of_target": _as_array([one for own in of_target for one in own], config.length),
        "reference": reference,
        "target": target,
    }


_BATCH = 16


class _Runs:
    """The training runs of a task. They share what comes out of the blocks that are not trained."""

    def __init__(
        self,
        model: Any,
        task: Task,
        config: LanguageConfig,
        drawn: Mapping[str, np.ndarray],
        parts: Parts,
        say: Callable[[str], Any],
    ) -> None:
        self._model, self._task, self._config, self._parts, self._say = model, task, config, parts, say
        self._kept: dict[tuple[int, ...], Any] = {}
        self.pool = _pool(drawn)
        of_target = _as_lists(drawn["of_target"])
        untrained = lm.LastBlocks(model, config.blocks, self._kept)
        self.measure = _Measure(model, task, self.pool.of(task.held_out), of_target, untrained)

    def get(self, name: str, seed: int) -> dict[str, np.ndarray]:
        """What was measured of a run, which is done if it is not finished."""
        part = f"{self._task.name}-{name}-{seed}".replace(" ", "_").replace(",", "")
        return self._parts.get(part, lambda: self._make(name, seed, part))

    def _make(self, name: str, seed: int, part: str) -> dict[str, np.ndarray]:
        began = time.perf_counter()
        policy = lm.LastBlocks(self._model, self._config.blocks, self._kept)
        files = self._parts.folder / part
        found = _train(policy, self._task, self.pool, VARIANTS[name], self._config, seed, self.measure, files)
        moved = (found["logps"][-1] - self.pool.of(self._task.held_out).reference).mean()
        self._say(
            f"{self._task.name}, {name}, seed {seed}: JS per token {found['js'][0].mean():.4f} to "
            f"{found['js'][-1].mean():.4f}, chosen moved by {moved:+.2f} nats, in "
            f"{time.perf_counter() - began:.0f} s"
        )
        return found


def _train(
    policy: Any,
    task: Task,
    pool: Pool,
    variant: Variant,
    config: LanguageConfig,
    seed: int,
    measure: "_Measure",
    files: Path,
) -> dict[str, np.ndarray]:
    """Train one policy, with its pairs table, and give what was measured at each look."""
    count = -(-config.steps * config.batch_size // len(task.trained))
    rows = _rows(task, pool, task.trained, variant.rejected, count, config, seed)
    others = _rows(task, pool, task.held_out, variant.rejected, TABLE_PAIRS, config, seed)
    few = [rows[place] for place in range(0, len(rows), max(1, count // TABLE_PAIRS))]
    table = lm.PairsTable(
        files.with_suffix(".parquet"), {"train": few, "held out": others}, batch_size=_BATCH
    )

    def look(step: int) -> dict[str, Any]:
        table.write(step, policy)
        found = measure(policy) if step else measure.untrained
        return {name: values.tolist() for name, values in found.items()}

    trained = lm.train_dpo(
        policy,
        rows,
        beta=task.beta,
        steps=config.steps,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        keeps_chosen=variant.keeps_chosen,
        seed=seed,
        every=-(-config.steps // config.looks),
        at=look,
        checkpoint=files.with_suffix(".pt"),
    )
    files.with_suffix(".pt").unlink()
    diagnosis = didsim.diagnose(pairs=table.path, beta=task.beta)
    slopes = [one.numbers["slope"] for one in diagnosis.findings if "slope" in one.numbers]
    ends = [slopes[0].value, slopes[0].low, slopes[0].high] if slopes else [None] * 3
    looks = list(trained.records.values())
    return {
        "step": np.array(list(trained.records)),
        "loss": trained.losses,
        "calibration": np.array(ends, float),
        "verdict": np.array(diagnosis.verdict),
        **{name: np.array([one[name] for one in looks]) for name in looks[0]},
    }


def _rows(
    task: Task, pool: Pool, prompts: list[int], rejected: str, count: int, config: LanguageConfig, seed: int
) -> list[dict[str, Any]]:
    """Pairs of some prompts."""
    own = pool.of(prompts)
    chosen, other = lm.draw_pairs(rejected_weights(own, rejected, task.beta, config), count, seed)
    return [
        {
            "prompt_ids": task.prompts[prompt],
            "chosen_ids": own.responses[place][one],
            "rejected_ids": own.responses[place][two],
            "ref_chosen_logps": float(own.reference[place, one]),
            "ref_rejected_logps": float(own.reference[place, two]),
        }
        for place, prompt in enumerate(prompts)
        for one, two in zip(chosen[place], other[place], strict=True)
    ]


class _Measure:
    """What is measured of a policy, on held-out prompts.

    Responses of the target and of the reference are the same for every policy, and their next-token
    distributions are computed once. So are the measures of the policy before training, `untrained`.
    """

    def __init__(
        self, model: Any, task: Task, pool: Pool, of_target: list[list[int]], untrained: Any
    ) -> None:
        held = task.held_out
        self._prompts = [task.prompts[one] for one in held]
        self._answers = [task.answers[one] for one in held] if task.answers else []
        self._pool, self._of_target = pool, of_target
        self._before = _repeated(self._prompts, EVALUATED)
        context = _repeated([task.with_context[one] for one in held], EVALUATED)
        self._of_reference = [one for own in pool.responses for one in _cyclic(own, EVALUATED)]
        self._target = list(lm.next_token_log_probs(model, context, of_target))
        self._reference = list(lm.next_token_log_probs(model, self._before, self._of_reference))
        logps = [lm.score(model, before, of_target, _BATCH).logps for before in (context, self._before)]
        self.target_samples = np.stack(logps).reshape(2, len(held), EVALUATED)
        asked = [task.with_context[one] for one in held]
        self.answers_of_target = _answers(model, asked, self._answers)
        reference = lm.next_token_log_probs(model, self._before, of_target)
        did = lm.token_sums(self._target, reference).did_entropy
        self.did_entropy_of_target = _per_token(did, of_target)
        self.untrained = self(untrained)

    def __call__(self, policy: Any) -> dict[str, np.ndarray]:
        """Measures `[prompts]`, and log-probabilities `[prompts, samples]` of the reference's responses."""
        flat = [one for own in self._pool.responses for one in own]
        repeated = _repeated(self._prompts, len(self._pool.responses[0]))
        logps = lm.score(policy, repeated, flat, _BATCH).logps.reshape(self._pool.reference.shape)
        rows = lm.next_token_log_probs(policy, self._before, self._of_target)
        to_target = lm.token_sums(self._target, rows)
        own = list(lm.next_token_log_probs(policy, self._before, self._of_reference))
        fit, entropy = lm.token_sums(self._reference, own), lm.token_sums(own, self._reference)
        log_prob, rank = _answers(policy, self._prompts, self._answers)
        return {
            "logps": logps,
            "kl_from_target": to_target.kl.reshape(-1, EVALUATED).mean(1),
            "js": _per_token(to_target.js, self._of_target),
            "kl_from_reference": fit.kl.reshape(-1, EVALUATED).mean(1),
            "entropy": _per_token(entropy.entropy, self._of_reference),
            "did_entropy": _per_token(entropy.did_entropy, self._of_reference),
            "answer_log_prob": log_prob,
            "answer_rank": rank,
        }


def _answers(model: Any, prompts: list[list[int]], answers: list[Answer]) -> tuple[np.ndarray, np.ndarray]:
    """Log-probabilities of right answers after their stems, and ranks of their first tokens; NaN without."""
    if not answers:
        none = np.full(len(prompts), np.nan)
        return none, none
    before = [prompt + one.stem for prompt, one in zip(prompts, answers, strict=True)]
    tokens = [one.tokens for one in answers]
    logps = lm.score(model, before, tokens).logps
    rows = lm.next_token_log_probs(model, before, tokens)
    ranks = [1 + int((row[0] > row[0, one[0]]).sum()) for row, one in zip(rows, tokens, strict=True)]
    return logps, np.array(ranks, float)


def _per_token(sums: Float[np.ndarray, " responses"], responses: list[list[int]]) -> np.ndarray:
    """The mean over the tokens of each prompt's responses."""
    lengths = np.array([len(one) for one in responses]).reshape(-1, EVALUATED).sum(1)
    return np.asarray(sums.reshape(-1, EVALUATED).sum(1) / lengths)


def _as_dataset(
    task: Task,
    config: LanguageConfig,
    pool: Pool,
    measure: _Measure,
    found: Mapping[tuple[str, int], Mapping[str, np.ndarray]],
) -> xr.Dataset:
    """All runs of a task as labelled arrays."""
    keys = [[found[name, seed] for seed in range(config.seeds)] for name in VARIANTS]

    def stacked(name: str) -> np.ndarray:
        return np.array([[one[name] for one in row] for row in keys])

    rejected = {one.rejected for one in VARIANTS.values()}
    weights = {name: rejected_weights(pool.of(task.held_out), name, task.beta, config) for name in rejected}
    effective = {
        name: rejected_weights(pool.of(task.trained), name, task.beta, config).effective for name in rejected
    }
    runs, own = ("variant", "seed", "step"), pool.of(task.held_out)
    nats, per_token = {"units": "nats"}, {"units": "nats per token"}
    answer = measure.answers_of_target
    variables: dict[str, Any] = {
        "logps": ((*runs, "prompt", "sample"), stacked("logps"), nats),
        "reference_logps": (("prompt", "sample"), own.reference, nats),
        "target_logps": (("prompt", "sample"), own.target, nats),
        "rejected_log_weights": (
            ("variant", "prompt", "sample"),
            np.stack([weights[one.rejected].log_weights for one in VARIANTS.values()]),
            nats,
        ),
        "effective": (
            ("variant", "train_prompt"),
            np.stack([effective[one.rejected] for one in VARIANTS.values()]),
            {"units": "samples"},
        ),
        "kl_from_target": ((*runs, "prompt"), stacked("kl_from_target"), nats),
        "js": ((*runs, "prompt"), stacked("js"), per_token),
        "kl_from_reference": ((*runs, "prompt"), stacked("kl_from_reference"), nats),
        "entropy": ((*runs, "prompt"), stacked("entropy"), per_token),
        "did_entropy": ((*runs, "prompt"), stacked("did_entropy"), per_token),
        "did_entropy_of_target": (("prompt",), measure.did_entropy_of_target, per_token),
        "answer_log_prob": ((*runs, "prompt"), stacked("answer_log_prob"), nats),
        "answer_rank": ((*runs, "prompt"), stacked("answer_rank"), {"units": "1"}),
        "answer_log_prob_of_target": (("prompt",), answer[0], nats),
        "answer_rank_of_target": (("prompt",), answer[1], {"units": "1"}),
        "target_samples": (("policy", "prompt", "target_sample"), measure.target_samples, nats),
        "loss": (("variant", "seed", "update"), stacked("loss"), nats),
        "calibration": (("variant", "seed", "end"), stacked("calibration"), {"units": "1"}),
        "verdict": (("variant", "seed"), stacked("verdict").astype(str), {"units": "1"}),
        "beta": ((), task.beta, {"units": "1"}),
    }
    return xr.Dataset(
        variables,
        coords={
            "variant": list(VARIANTS),
            "step": keys[0][0]["step"],
            "policy": ["target", "reference"],
            "end": ["value", "low", "high"],
        },
    )


def _pool(drawn: Mapping[str, np.ndarray]) -> Pool:
    prompts, samples = drawn["reference"].shape
    flat = _as_lists(drawn["responses"])
    responses = [flat[one * samples : (one + 1) * samples] for one in range(prompts)]
    return Pool(responses, drawn["reference"], drawn["target"])


def _repeated(prompts: list[list[int]], times: int) -> list[list[int]]:
    return [one for one in prompts for _ in range(times)]


def _cyclic(responses: list[list[int]], count: int) -> list[list[int]]:
    """The first responses; from the beginning again if there are fewer."""
    return [responses[place % len(responses)] for place in range(count)]


def _as_array(responses: list[list[int]], length: int) -> Int[np.ndarray, "responses length"]:
    return np.array([one + [-1] * (length - len(one)) for one in responses])


def _as_lists(tokens: Int[np.ndarray, "responses length"]) -> list[list[int]]:
    return [[one for one in row if one >= 0] for row in tokens.tolist()]


def _digest(model: Any, end: int, tasks: Sequence[Task], config: LanguageConfig) -> str:
    """A hash of all that the parts depend on: weights, prompts and settings."""
    whole = hashlib.sha256(msgspec.json.encode([end, tasks, config]))
    for name, value in model.state_dict().items():
        whole.update(name.encode())
        whole.update(value.contiguous().numpy().data)
    return whole.hexdigest()
