"""Log-probabilities of responses under a causal language model: sums over the tokens of a response alone."""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int

from didsim import _checks
from didsim.lm import arguments

_PAD = 0  # any token: it is masked


class Scores(NamedTuple):
    """Responses under a model.

    Attributes:
        logps: `[responses]`, log-probability of each response given its prompt, in nats.
        argmax_logps: `[responses]`, log-probability of the most likely token at each place of the response,
            summed.
        lengths: `[responses]`, the number of tokens of each response.
    """

    logps: Float[np.ndarray, " responses"]
    argmax_logps: Float[np.ndarray, " responses"]
    lengths: Int[np.ndarray, " responses"]


def sequence_logps(model: Any, input_ids: Any, attention_mask: Any, response_mask: Any) -> Any:
    """Log-probability of the marked tokens of each sequence, given all tokens before them.

        Σ_t m_t log p(y_t | y_<t),   m the response mask

    A causal model's output at a place is about the token after it. So the outputs are held against tokens and
    mask one place further on. Padding may stand at the left or at the right, and its token may be one of the
    response's own, such as the ending token: masks alone decide. Padding at the left is moved to the right
    first, so that every model counts its positions from the first token on.

    The model is used as in evaluation, without dropout, and every one of its modules is then put back into
    the mode that it was in. Outputs below single precision are turned into it before the softmax.

    Args:
        model: a causal language model, called as `model(input_ids=…, attention_mask=…).logits`.
        input_ids: `[sequences, tokens]`, integers: prompt, response and padding.
        attention_mask: `[sequences, tokens]`, 1 for tokens of prompt and response, 0 for padding.
        response_mask: `[sequences, tokens]`, 1 for the tokens that count.

    Returns:
        `[sequences]`, a tensor in nats without gradient, in float32 (float64 if the model computes in that).

    Raises:
        ValueError: shapes differ; a mask has other values than 0 and 1; padding stands between tokens; a
            sequence has no marked token; or padding is marked, or a first token, which the model gives no
            probability as nothing stands before it.

    Cost:
        One forward pass, and the softmax of one sequence at a time.
    """
    masks = {"attention_mask": attention_mask, "response_mask": response_mask}
    tokens, attention, marked = arguments.batch(input_ids, **masks)
    first = attention.long().argmax(1, keepdim=True)
    order = (torch.arange(tokens.shape[1], device=tokens.device) + first) % tokens.shape[1]
    return _sums(model, *(one.gather(1, order) for one in (tokens, attention, marked)))[0]


@torch.no_grad()
def _sums(model: Any, tokens: Any, attention: Any, marked: Any) -> Any:
    """Sums of the log-probabilities of the marked tokens, and of the most likely ones, `[2, sequences]`."""
    with evaluating(model):
        sums = [
            torch.stack([log_probs.gather(1, following[:, None]).sum(), log_probs.amax(1).sum()])
            for log_probs, following in at_marked(model, tokens, attention, marked)
        ]
    return torch.stack(sums, 1)


def at_marked(model: Any, tokens: Any, attention: Any, marked: Any) -> Iterator[tuple[Any, Any]]:
    """Of each sequence, log-probabilities `[marked, vocabulary]` of what may stand at the marked tokens.

    The marked tokens come with them. Gradients flow; the model is used in the mode that it is in.
    """
    device = next((one.device for one in model.parameters()), tokens.device)
    tokens, attention, marked = (one.to(device) for one in (tokens, attention, marked))
    # Outputs before the first response are not needed, and the head is a large part of a small model.
    start = int(marked.any(0).long().argmax())
    rest = {"logits_to_keep": tokens.shape[1] - start + 1} if _keeps_logits(model) else {}
    logits = model(input_ids=tokens, attention_mask=attention.long(), **rest).logits
    logits = logits[:, start - 1 - tokens.shape[1] : -1]
    for scores, following, counted in zip(logits, tokens[:, start:], marked[:, start:], strict=True):
        scores = scores[counted]
        yield scores.to(torch.promote_types(scores.dtype, torch.float32)).log_softmax(-1), following[counted]


def _keeps_logits(model: Any) -> bool:
    return "logits_to_keep" in inspect.signature(model.forward).parameters


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Without dropout; then every module as it was, since some may be kept in evaluation on purpose."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def score(
    model: Any, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]], batch_size: int = 8
) -> Scores:
    """Log-probabilities of responses to prompts, both as lists of tokens, by `sequence_logps` in batches.

    Responses of about the same length share a batch, so that little is computed for padding. An ending token
    counts if it is the response's last token. None is added.

    Args:
        model: a causal language model.
        prompts: the tokens of the prompt of each response, with a beginning token if the model was trained
            with one. There must be at least one token, since the response's first token is predicted from it.
        responses: the tokens of each response.
        batch_size: the number of sequences in a forward pass.

    Raises:
        ValueError: a prompt or response is empty or no list of integers, there is not one prompt for each
            response, or `batch_size` is no positive integer.
    """
    size = _checks.integer("batch_size", batch_size, 1)
    before, counted = arguments.prompts_and_responses(prompts, responses)
    return score_checked(model, before, counted, size)


def score_checked(
    model: Any, prompts: list[list[int]], responses: list[list[int]], batch_size: int
) -> Scores:
    """What `score` gives, for arguments that were checked before."""
    sizes = np.array([len(one) + len(other) for one, other in zip(prompts, responses, strict=True)])
    sums = np.empty((2, len(sizes)))
    longest_first = np.argsort(-sizes, kind="stable")  # so that memory that is too small shows at once
    for start in range(0, len(sizes), batch_size):
        rows = longest_first[start : start + batch_size]
        batch = padded([prompts[place] for place in rows], [responses[place] for place in rows])
        sums[:, rows] = _sums(model, *batch).double().cpu().numpy()
    return Scores(sums[0], sums[1], np.array([len(one) for one in responses]))


def padded(prompts: Sequence[list[int]], responses: Sequence[list[int]]) -> tuple[Any, Any, Any]:
    """Tokens, attention mask and response mask of responses to prompts, padded at the right."""
    sizes = [len(one) + len(other) for one, other in zip(prompts, responses, strict=True)]
    tokens = torch.full((len(sizes), max(sizes)), _PAD)
    attention, marked = torch.zeros(2, *tokens.shape, dtype=torch.bool)
    for row, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        tokens[row, : sizes[row]] = torch.tensor(prompt + response)
        attention[row, : sizes[row]] = True
        marked[row, len(prompt) : sizes[row]] = True
    return tokens, attention, marked
