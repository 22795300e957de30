"""What the text of a log states of the run's settings: beta and the loss.

TRL prints `DPOConfig(…, beta=0.1, loss_type='sigmoid')`, LlamaFactory and axolotl YAML such as
`pref_beta: 0.1`, others the command line with `--beta 0.1`.
"""

import re
from typing import NamedTuple

from didsim.diagnostics.arguments import LOSS_TYPES

_MOST = 1000  # places that are looked at: a setting that stands in every line is a column of the log
# Each pattern begins with plain letters, so that a long log is searched fast.
_BETA = re.compile(r"beta[\"']?(\s*[=:]\s*|\s+)[\"']?(\d[\d.eE+-]*|\.\d[\d.eE+-]*)")
_LOSSES = tuple(
    re.compile(name + r"[\"']?(\s*[=:]\s*|\s+)([\"'\w]+|\[[^\]\n]*\])") for name in ("loss_type", "pref_loss")
)
_AXOLOTL = re.compile(r"\nrl:\s*[\"']?(\w+)")
_TRAINER = re.compile(r"Config\(")
_BEFORE = re.compile(r"[\w.-]*\Z")
_OWNERS = ("", "pref_", "dpo_", "rl_", "kto_", "orpo_", "simpo_", "cpo_")
_RECORD = re.compile(r"[\"']?(?:loss|rewards?/\w+)[\"']?\s*[:=]\s*[\"']?[-\d]")
_SAME = {"dpo": "sigmoid"}
_OF_TRAINERS = {"KTO": "kto", "ORPO": "orpo", "SimPO": "simpo", "CPO": "cpo"}
"""Trainers whose loss their own name tells: what CPO calls `sigmoid` has no reference."""


class Stated(NamedTuple):
    """Settings that the text of a log states, each distinct value once, in order.

    Attributes:
        betas: values of beta.
        losses: losses, as TRL names them.
    """

    betas: tuple[float, ...] = ()
    losses: tuple[str, ...] = ()


def stated_in(text: str) -> Stated:
    """The settings that a text states. What stands in a line of metrics is a metric, and no setting."""
    text = f"\n{text}"
    betas: dict[float, None] = {}
    for hit in _hits(_BETA, text):
        if _is_setting(text, hit) and (value := _number(hit[2])) is not None:
            betas[value] = None
    losses = [hit[1] for hit in _hits(_AXOLOTL, text)]
    for pattern in _LOSSES:
        found = [re.findall(r"\w+", hit[2]) for hit in _hits(pattern, text) if _is_setting(text, hit)]
        # Of several losses that are added up none is the loss.
        losses += [words[0] for words in found if len(words) == 1]
    if (trainer := _trainer(text)) is not None and not (trainer == "CPO" and "simpo" in losses):
        losses = [_OF_TRAINERS[trainer]]
    named = dict.fromkeys(_SAME.get(loss, loss) for loss in losses)
    return Stated(tuple(betas), tuple(loss for loss in named if loss in LOSS_TYPES))


def _trainer(text: str) -> str | None:
    """The trainer of a printed configuration such as `CPOConfig(…)`, if its name tells the loss."""
    for hit in _hits(_TRAINER, text):
        for trainer in _OF_TRAINERS:
            if re.search(rf"\b{trainer}$", text[max(0, hit.start() - 20) : hit.start()]):
                return trainer
    return None


def _hits(pattern: re.Pattern[str], text: str) -> list[re.Match[str]]:
    return [hit for hit, _ in zip(pattern.finditer(text), range(_MOST), strict=False)]


def _is_setting(text: str, hit: re.Match[str]) -> bool:
    """Whether a name is that of the setting itself, in a line that holds no metrics."""
    before = _BEFORE.search(text, max(0, hit.start() - 40), hit.start())
    name = before[0] if before is not None else ""
    is_option = name.startswith("--")
    if not hit[1].strip() and not is_option:
        return False  # a word in a sentence
    if name.removeprefix("--").rpartition(".")[2] not in _OWNERS:
        return False  # adam_beta
    start, end = text.rfind("\n", 0, hit.start()) + 1, text.find("\n", hit.end())
    line = text[start : end if end >= 0 else None]
    return _RECORD.search(line) is None


def _number(text: str) -> float | None:
    try:
        return float(text.rstrip(".,eE+-"))
    except ValueError:
        return None
