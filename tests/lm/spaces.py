"""A language model so small that all of its responses can be listed, in double precision."""

from typing import Any

import numpy as np

from tests.lm.cases import by_hand, llama

VOCABULARY, END, LENGTH = 5, 2, 3


def tiny(seed: int = 0, spread: float = 0.3) -> Any:
    """Two layers over five tokens."""
    tokens = {"vocab_size": VOCABULARY, "bos_token_id": None, "eos_token_id": END, "pad_token_id": END}
    return llama(seed, spread, max_position_embeddings=16, **tokens).double()


def responses() -> list[list[int]]:
    """All responses of at most three tokens: they end, or are cut."""
    found: list[list[int]] = []
    begun: list[list[int]] = [[]]
    for place in range(LENGTH):
        longer = [[*one, token] for one in begun for token in range(VOCABULARY)]
        found += [one for one in longer if one[-1] == END or place == LENGTH - 1]
        begun = [one for one in longer if one[-1] != END]
    return found


def exact(model: Any, prompt: list[int]) -> np.ndarray:
    """The log-probability of every response, a token and a pass at a time."""
    return np.array([by_hand(model, prompt, one)[0] for one in responses()])
