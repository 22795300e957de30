"""Arguments about tokens and batches of them, checked before a model sees them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch


def batch(input_ids: Any, **masks: Any) -> tuple[Any, Any, Any]:
    """Tokens, attention mask and response mask as tensors of one shape, the masks as booleans."""
    tokens = _tensor("input_ids", input_ids)
    if tokens.ndim != 2 or not tokens.numel() or tokens.is_floating_point() or tokens.dtype == torch.bool:
        raise ValueError(
            f"`input_ids` must be integers [sequences, tokens]; got shape {tuple(tokens.shape)} of "
            f"{tokens.dtype}"
        )
    checked = []
    for name, value in masks.items():
        mask = _tensor(name, value)
        if mask.shape != tokens.shape:
            raise ValueError(
                f"`{name}` must have the shape of `input_ids`, {tuple(tokens.shape)}; got {tuple(mask.shape)}"
            )
        if not ((mask == 0) | (mask == 1)).all():
            raise ValueError(f"`{name}` must be 0 or 1; got {mask.unique().tolist()[:9]}")
        checked.append(mask.bool())
    attention, marked = checked
    edges = attention.long().diff(dim=1, prepend=attention.new_zeros(len(tokens), 1).long())
    if ((edges == 1).sum(1) != 1).any():
        raise ValueError("`attention_mask` must be 1 at one stretch of tokens in each sequence; it is not")
    if (marked & ~attention).any():
        raise ValueError("`response_mask` must be 0 where `attention_mask` is; it marks padding")
    if (marked & (edges == 1)).any():
        raise ValueError(
            "`response_mask` must be 0 at the first token of each sequence: nothing stands before it, so "
            "the model gives it no probability"
        )
    if not marked.any(1).all():
        row = int((~marked.any(1)).long().argmax())
        raise ValueError(f"`response_mask` must mark a token of each sequence; it marks none of {row}")
    return tokens, attention, marked


def _tensor(name: str, value: Any) -> Any:
    try:
        return torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"`{name}` must be a tensor of numbers; got {type(value).__name__}") from None


def token_lists(name: str, value: Any) -> list[list[int]]:
    """Lists of tokens, none of them empty."""
    if not _is_list(value) or not len(value):
        raise ValueError(f"`{name}` must be a list of lists of tokens; got {str(value)[:60]!r}")
    return [tokens(f"{name}[{place}]", one) for place, one in enumerate(value)]


def prompts_and_responses(prompts: Any, responses: Any) -> tuple[list[list[int]], list[list[int]]]:
    """Lists of tokens, one prompt for each response."""
    before, counted = token_lists("prompts", prompts), token_lists("responses", responses)
    if len(before) != len(counted):
        raise ValueError(f"`prompts` must be as many as `responses`, {len(counted)}; got {len(before)}")
    return before, counted


def fits_window(model: Any, length: int) -> None:
    """Whether a model takes so many tokens at once, as far as it says."""
    window = getattr(getattr(model, "config", None), "max_position_embeddings", None)
    if window is not None and length > window:
        raise ValueError(
            f"prompt and response together must fit the model's window of {window:,} tokens; they have "
            f"{length:,}"
        )


def tokens(name: str, value: Any) -> list[int]:
    """Tokens as a list, which must not be empty."""
    try:
        found = np.asarray(value)
    except (TypeError, ValueError, RuntimeError):
        found = np.empty(0)
    if found.dtype.kind not in "iu" or found.ndim != 1 or not found.size or found.min() < 0:
        raise ValueError(f"`{name}` must be a list of at least one token; got {str(value)[:60]!r}")
    listed: list[int] = found.tolist()
    return listed


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence | np.ndarray | torch.Tensor) and not isinstance(value, str | bytes)


def splits(name: str, value: Any) -> dict[str, Any]:
    """Sets of pairs by the name of their split."""
    if not isinstance(value, Mapping) or not value or not all(isinstance(one, str) and one for one in value):
        raise ValueError(
            f"`{name}` must map names of splits, such as 'train' and 'held out', to pairs; got "
            f"{type(value).__name__}"
        )
    return dict(value)
