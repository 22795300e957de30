"""The pairs table of `didsim diagnose`, written while a causal language model is trained.

logps     log-probabilities of responses under a model
pairs     preference pairs as tokens, checked and cut to length
table     the pairs table, a checkpoint at a time
callback  the same at each evaluation of a `transformers.Trainer`, with the verdict

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
from didsim.lm.logps import Scores, score, sequence_logps
from didsim.lm.table import PairsTable

__all__ = ["DiagnoseCallback", "PairsTable", "Scores", "score", "sequence_logps"]
