"""Log-probabilities of responses under a causal language model: sums over the tokens of a response alone."""

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
    device = next((one.device for one in model.parameters()), tokens.device)
    tokens, attention, marked = (one.to(device) for one in (tokens, attention, marked))
    with _evaluating(model):
        logits = model(input_ids=tokens, attention_mask=attention.long()).logits
    sums = []
    for scores, following, counted in zip(logits[:, :-1], tokens[:, 1:], marked[:, 1:], strict=True):
        scores = scores[counted]
        log_probs = scores.to(torch.promote_types(scores.dtype, torch.float32)).log_softmax(-1)
        of_tokens = log_probs.gather(1, following[counted, None])
        sums.append(torch.stack([of_tokens.sum(), log_probs.amax(1).sum()]))
    return torch.stack(sums, 1)


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
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
    before = arguments.token_lists("prompts", prompts)
    counted = arguments.token_lists("responses", responses)
    if len(before) != len(counted):
        raise ValueError(f"`prompts` must be as many as `responses`, {len(counted)}; got {len(before)}")
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
        width = int(sizes[rows].max())
        tokens = torch.full((len(rows), width), _PAD)
        attention, marked = torch.zeros(2, len(rows), width, dtype=torch.bool)
        for row, place in enumerate(rows):
            tokens[row, : sizes[place]] = torch.tensor(prompts[place] + responses[place])
            attention[row, : sizes[place]] = True
            marked[row, len(prompts[place]) : sizes[place]] = True
        sums[:, rows] = _sums(model, tokens, attention, marked).double().cpu().numpy()
    return Scores(sums[0], sums[1], np.array([len(one) for one in responses]))
