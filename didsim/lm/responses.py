"""Responses drawn from a causal language model itself: no temperature, no cut of unlikely tokens."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import GenerationConfig

from didsim import _checks
from didsim.lm import arguments
from didsim.lm.logps import evaluating

_AT_ONCE = 64
"""The most responses of a prompt that are drawn side by side."""


def draw(
    model: Any, prompts: Sequence[Sequence[int]], count: int, max_new_tokens: int, end: int, seed: int = 0
) -> list[list[list[int]]]:
    """Responses to each prompt, each token drawn from the model's own distribution.

    A response ends with the ending token, or is cut after `max_new_tokens`. So the model is a distribution
    over finitely many responses, those of `SequenceSpace(…, eos=True)`, and `score` gives the exact
    log-probability of each.

    Args:
        model: a causal language model with transformers' `generate`. Its own settings of generation, such as
            a temperature, are not used.
        prompts: the tokens of each prompt.
        count: the number of responses to each prompt.
        max_new_tokens: the largest number of tokens of a response.
        end: the ending token. It is the last token of a response that ends.
        seed: what makes the draws. The global random state stays as it is.

    Returns:
        For each prompt `count` responses, lists of tokens.

    Raises:
        ValueError: an argument is wrong, or prompt and response together are longer than the model's window.

    Cost:
        A forward pass for each token of a response; responses to the same prompt share it.
    """
    before = arguments.token_lists("prompts", prompts)
    count = _checks.integer("count", count, 1)
    longest = _checks.integer("max_new_tokens", max_new_tokens, 1)
    end = _checks.integer("end", end, 0)
    arguments.fits_window(model, max(map(len, before)) + longest)
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    found = []
    with torch.random.fork_rng(devices), evaluating(model), torch.no_grad():
        torch.manual_seed(seed)
        for prompt in before:
            own: list[list[int]] = []
            while len(own) < count:
                own += _drawn(model, prompt, min(_AT_ONCE, count - len(own)), longest, end)
            found.append(own)
    return found


def _drawn(model: Any, prompt: list[int], count: int, longest: int, end: int) -> list[list[int]]:
    config = GenerationConfig(
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        max_new_tokens=longest,
        num_return_sequences=count,
        eos_token_id=end,
        pad_token_id=end,
    )
    tokens = torch.tensor([prompt], device=model.device)
    drawn = model.generate(tokens, attention_mask=torch.ones_like(tokens), generation_config=config)
    responses: list[list[int]] = drawn[:, len(prompt) :].tolist()
    return [one[: one.index(end) + 1] if end in one else one for one in responses]
