"""The names under which trainers log what a diagnosis needs: one table for all of them.

TRL and axolotl write `rewards/chosen`, the original DPO code `rewards_train/chosen`, OpenRLHF
`chosen_reward`, open-instruct `rewards/margin`, torchtune `log_probs/chosen`, LlamaFactory `sft_loss`, KTO
`kl`. Prefixes such as `eval_`, `eval/` and `train/` say which pairs a number is about.
"""

import difflib
import functools
import re
from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

Role = Literal["train", "eval"]

SHARED = ("step", "epoch")
"""Names that are about training and held-out pairs alike."""

KNOWN: dict[str, tuple[str, ...]] = {
    "step": (
        "global_step",
        "step",
        "_step",
        "current_steps",
        "training_step",
        "counters/updates",
        "iteration",
    ),
    "epoch": ("epoch",),
    "loss": ("loss", "dpo_loss", "preference_loss", "loss_mean"),
    "chosen_reward": ("rewards/chosen", "chosen_reward", "chosen_rewards", "reward/chosen", "reward_chosen"),
    "rejected_reward": (
        "rewards/rejected",
        "reject_reward",
        "rejected_reward",
        "rejected_rewards",
        "reward/rejected",
        "reward_rejected",
    ),
    "margin": ("rewards/margins", "rewards/margin", "reward_margin", "reward_margins", "margins", "margin"),
    "accuracy": (
        "rewards/accuracies",
        "rewards/accuracy",
        "reward_accuracy",
        "reward_accuracies",
        "accuracies",
        "accuracy",
        "acc",
        "acc_mean",
    ),
    "chosen_logps": ("logps/chosen", "log_probs/chosen", "chosen_logps", "policy_logps/chosen"),
    "rejected_logps": ("logps/rejected", "log_probs/rejected", "rejected_logps", "policy_logps/rejected"),
    "ref_chosen_logps": (
        "ref_logps/chosen",
        "reference_logps/chosen",
        "logps/ref_chosen",
        "ref_chosen_logps",
        "reference_chosen_logps",
    ),
    "ref_rejected_logps": (
        "ref_logps/rejected",
        "reference_logps/rejected",
        "logps/ref_rejected",
        "ref_rejected_logps",
        "reference_rejected_logps",
    ),
    "chosen_length": ("chosen_length", "chosen_lengths", "length/chosen", "lengths/chosen", "chosen_tokens"),
    "rejected_length": (
        "rejected_length",
        "rejected_lengths",
        "length/rejected",
        "lengths/rejected",
        "rejected_tokens",
    ),
    "nll": ("nll_loss", "sft_loss", "nll", "ce_loss"),
    "odds_ratio_loss": ("odds_ratio_loss", "log_odds_ratio", "log_odds_chosen"),
    "kl": ("kl",),
    "grad_norm": ("grad_norm", "gradient_norm"),
    "learning_rate": ("learning_rate", "lr"),
    "beta": ("beta",),
}
"""Our names, each with the names that trainers use for it, without prefixes, the most telling first."""

PREFERENCE = (
    "chosen_reward",
    "rejected_reward",
    "margin",
    "chosen_logps",
    "rejected_logps",
)
"""A log must have one of these. Losses and accuracies alone may be those of any training."""

PAIRS = (
    *("chosen_logps", "rejected_logps", "ref_chosen_logps", "ref_rejected_logps"),
    *("chosen_length", "rejected_length", "step", "split", "prompt_id", "checkpoint", "argmax_logps"),
    *("rejected_policy_chosen_logps", "rejected_policy_rejected_logps"),
    *("policy_logp", "ref_logp", "length"),
)
"""Columns of tables of pairs and of samples, which `--map` may name as well."""

_PREFIXES: tuple[tuple[str, Role], ...] = (
    *((prefix, "eval") for prefix in ("eval_", "eval/", "validation_", "validation/", "valid_", "valid/")),
    *((prefix, "eval") for prefix in ("val_", "val/", "test_", "test/", "dev_", "dev/")),
    *((prefix, "train") for prefix in ("training_", "training/", "train_", "train/")),
)
_WHOLE: dict[str, str] = {theirs: ours for ours, all_theirs in KNOWN.items() for theirs in all_theirs}
_LONG = 60  # characters: no name of a metric is longer
_MANY = 100
_CLOSE = 0.8  # of difflib's similarity: one or two letters in a name of ten


class Name(NamedTuple):
    """What a column of a log holds.

    Attributes:
        role: which pairs it is about.
        ours: our name of it.
        rank: 0 for the most telling of the names that trainers use for it.
    """

    role: Role
    ours: str
    rank: int


@functools.cache
def known_name(column: str) -> Name | None:
    """What a column holds, by its name; None if the name is in no table."""
    role, bare = split_role(column)
    # An evaluation on several data sets has `eval_NAME_loss`.
    parts = bare.split("_") if role == "eval" and len(bare) < _LONG else [bare]
    tails = ["_".join(parts[place:]) for place in range(len(parts))]
    found = next((tail for tail in tails if tail in _WHOLE), None)
    if found is None:
        return None
    ours = _WHOLE[found]
    return Name(role, ours, KNOWN[ours].index(found) + 100 * (found != bare))


def split_role(column: str) -> tuple[Role, str]:
    """Which pairs a column is about, and its name in lower case without the prefix that says so."""
    bare = re.sub(r"\s+", "_", column.strip().lower())
    role: Role = "train"
    # The original DPO code has `rewards_train/chosen` and `loss/train`.
    if (inner := re.fullmatch(r"(\w+?)(?:_(train|eval|test)/(.+)|/(train|eval|test))", bare)) is not None:
        role = "train" if "train" in (inner[2], inner[4]) else "eval"
        return role, f"{inner[1]}/{inner[3]}" if inner[3] else inner[1]
    while (prefix := next((one for one in _PREFIXES if bare.startswith(one[0])), None)) is not None:
        bare, role = bare.removeprefix(prefix[0]), prefix[1]
    return role, bare


def mapped(names: Mapping[str, str]) -> dict[str, Name]:
    """Columns that the user named, and what they hold.

    Args:
        names: our names, each with the file's own. `eval_loss` is our `loss` on held-out pairs.

    Raises:
        ValueError: a name is not one of ours.
    """
    found = {}
    for ours, theirs in names.items():
        bare = ours.removeprefix("eval_")
        if bare not in KNOWN and ours not in PAIRS:
            close = difflib.get_close_matches(bare, [*KNOWN, *PAIRS], 1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise ValueError(
                f"`names` must map names of ours; got {ours!r}{hint} Ours are {', '.join(KNOWN)}"
            )
        role: Role = "eval" if ours != bare else split_role(theirs)[0]
        found[theirs] = Name(role, bare, -1)
    return found


def suggestions(columns: Iterable[str], missing: Iterable[str]) -> list[str]:
    """A sentence for each column whose name nearly is one that trainers use for what is missing."""
    wanted = {theirs: ours for ours in missing for theirs in (ours, *KNOWN.get(ours, ()))}
    told = []
    for column in [column for column in columns if len(column) < _LONG][:_MANY]:
        role, bare = split_role(column)
        if close := difflib.get_close_matches(bare, wanted, 1, _CLOSE):
            ours = ("eval_" if role == "eval" else "") + wanted[close[0]]
            told.append(f"{column!r} looks like {close[0]!r}: --map {ours}={column} reads it as that")
    return told
