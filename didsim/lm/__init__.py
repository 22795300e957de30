"""Causal language models: their log-probabilities, responses, divergences, and preference training.

logps        log-probabilities of responses under a model
next_token   what two models say about the next token, over the whole vocabulary
responses    responses drawn from a model
resample     rejected responses by resampling what the reference gave
last_blocks  a model of which only the last blocks are trained
train        DPO and DPO-PG, a loop that can be stopped and resumed
pairs        preference pairs as tokens, checked and cut to length
table        the pairs table of `didsim diagnose`, a checkpoint at a time
callback     the same at each evaluation of a `transformers.Trainer`, with the verdict

Needs PyTorch and transformers, from the extra `lm`. Neither `import didsim` nor any other of its packages
imports them.
"""

try:
    import torch  # noqa: F401
    import transformers  # noqa: F401
except ImportError as error:
    raise ImportError(
        f"didsim.lm needs PyTorch and transformers, and {error.name or error} is not installed; "
        "they come with pip install 'didsim[lm]'"
    ) from error

from didsim.lm.callback import DiagnoseCallback
from didsim.lm.last_blocks import LastBlocks
from didsim.lm.logps import Scores, score, sequence_logps
from didsim.lm.next_token import TokenSums, next_token_log_probs, token_sums
from didsim.lm.resample import Weights, draw_pairs, optimal_rejected_weights, resampling_weights
from didsim.lm.responses import draw
from didsim.lm.table import PairsTable
from didsim.lm.train import Trained, train_dpo

__all__ = [
    "DiagnoseCallback",
    "LastBlocks",
    "PairsTable",
    "Scores",
    "TokenSums",
    "Trained",
    "Weights",
    "draw",
    "draw_pairs",
    "next_token_log_probs",
    "optimal_rejected_weights",
    "resampling_weights",
    "score",
    "sequence_logps",
    "token_sums",
    "train_dpo",
]
