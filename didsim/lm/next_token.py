"""What two models say about the next token, over the whole vocabulary, along given responses."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float

from didsim import _checks
from didsim.lm import arguments
from didsim.lm.logps import at_marked, evaluating, padded


class TokenSums(NamedTuple):
    """Functions of next-token distributions, summed over the tokens of each response, in nats.

    Attributes:
        kl: `[responses]`, `Σ_t KL(p_t ‖ q_t)`.
        js: `[responses]`, `Σ_t JS(p_t, q_t)`; each term is at most log 2.
        entropy: `[responses]`, `Σ_t H(p_t)`.
        did_entropy: `[responses]`, `Σ_t H(d_t)` with `d_t ∝ p_t / q_t`; each term is at most the logarithm of
            the vocabulary's size.
    """

    kl: Float[np.ndarray, " responses"]
    js: Float[np.ndarray, " responses"]
    entropy: Float[np.ndarray, " responses"]
    did_entropy: Float[np.ndarray, " responses"]


def next_token_log_probs(
    model: Any, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]], batch_size: int = 8
) -> Iterator[Any]:
    """Log-probabilities of every token of the vocabulary at each place of each response.

    Args:
        model: a causal language model. It is used as in evaluation.
        prompts: the tokens before each response.
        responses: the tokens of each response.
        batch_size: the number of sequences in a forward pass.

    Yields:
        For each response a tensor `[tokens, vocabulary]` in nats, without gradient.

    Raises:
        ValueError: as `score` does.

    Cost:
        A forward pass of every response. A response of T tokens gives T times the vocabulary's size of
        numbers; `list` keeps those of all responses in memory.
    """
    size = _checks.integer("batch_size", batch_size, 1)
    before, counted = arguments.prompts_and_responses(prompts, responses)
    for start in range(0, len(counted), size):
        rows = slice(start, start + size)
        with torch.no_grad(), evaluating(model):
            found = [log_probs for log_probs, _ in at_marked(model, *padded(before[rows], counted[rows]))]
        yield from found


def token_sums(p: Iterable[Any], q: Iterable[Any]) -> TokenSums:
    """Divergences between the next-token distributions of two models along the same responses.

    If the responses were drawn from `p`, the mean of `kl` is an unbiased estimate of the divergence between
    whole responses, by the chain rule

        KL(p ‖ q) = E_{y~p} Σ_t KL(p(·|y_<t) ‖ q(·|y_<t)).

    It has less variance than the mean of `log p(y) − log q(y)`, as each term is an expectation over the whole
    vocabulary, not its value at the one token that was drawn. The Jensen–Shannon divergence has no such rule:
    `js` is a sum over places, not the divergence between whole responses.

    Args:
        p: for each response log-probabilities `[tokens, vocabulary]`, as `next_token_log_probs` gives them.
        q: the same of the other model.

    Raises:
        ValueError: `p` and `q` are not as many, or have other shapes.
    """
    sums = []
    for place, (one, other) in enumerate(_together(p, q)):
        if one.shape != other.shape:
            raise ValueError(
                f"`p` and `q` must have the same shapes; they have {tuple(one.shape)} and "
                f"{tuple(other.shape)} at response {place}"
            )
        # A token that is impossible under both adds nothing.
        probs = one.exp()
        log_ratio = torch.where(probs > 0, one - other, 0.0)
        middle = torch.logaddexp(one, other) - np.log(2)
        half = [torch.where(each.exp() > 0, each.exp() * (each - middle), 0.0).sum() for each in (one, other)]
        did = (one - other).log_softmax(-1)
        sums.append(
            (
                (probs * log_ratio).sum(),
                sum(half) / 2,
                -torch.where(probs > 0, probs * one, 0.0).sum(),
                -(did.exp() * did).sum(),
            )
        )
    return TokenSums(*torch.tensor(sums, dtype=torch.float64).reshape(-1, 4).T.numpy())


def _together(p: Iterable[Any], q: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
    try:
        yield from zip(p, q, strict=True)
    except ValueError:
        raise ValueError("`p` and `q` must have as many responses; one of them has more") from None
