"""Tiny language models, made here, and preference pairs for them."""

from typing import Any

import numpy as np
import torch
import transformers

torch.set_num_threads(1)  # the models are tiny, and test processes share the cores

VOCABULARY = 20
BEGIN, END = 1, 2
ONE = {"vocab_size": VOCABULARY, "bos_token_id": BEGIN, "eos_token_id": END, "pad_token_id": END}


def gpt2(seed: int = 0, spread: float = 0.5) -> Any:
    """Two layers with learned positions and dropout. The spread of the weights makes it peaked."""
    torch.manual_seed(seed)
    config = transformers.GPT2Config(
        n_positions=32, n_embd=16, n_layer=2, n_head=2, initializer_range=spread, **ONE
    )
    return transformers.GPT2LMHeadModel(config)


def llama(seed: int = 0, spread: float = 0.5, **changes: Any) -> Any:
    """Two layers with rotary positions. Settings of its config can be changed."""
    torch.manual_seed(seed)
    settings: dict[str, Any] = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 32,
        "initializer_range": spread,
        **ONE,
    }
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**(settings | changes)))


MODELS = {"gpt2": gpt2, "llama": llama}


def rows(count: int, seed: int = 0) -> list[dict[str, list[int]]]:
    """Pairs in which the chosen response counts upwards and the rejected one is random; both end."""
    random = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        prompt = [BEGIN, *random.integers(3, VOCABULARY, random.integers(1, 5)).tolist()]
        start, size = int(random.integers(3, 12)), int(random.integers(1, 6))
        rejected = random.integers(3, VOCABULARY, random.integers(1, 7)).tolist()
        found.append(
            {
                "prompt_ids": prompt,
                "chosen_ids": [*range(start, start + size), END],
                "rejected_ids": [*rejected, END],
            }
        )
    return found


def by_hand(model: Any, prompt: list[int], response: list[int]) -> tuple[float, float]:
    """The log-probability of a response, and that of the likeliest tokens, a token and a pass at a time."""
    model.eval()
    total = likeliest = 0.0
    for place in range(len(response)):
        before = torch.tensor([[*prompt, *response[:place]]])
        with torch.no_grad():
            logits = model(input_ids=before).logits[0, -1].double().numpy()
        log_probs = logits - np.log(np.exp(logits - logits.max()).sum()) - logits.max()
        total += log_probs[response[place]]
        likeliest += log_probs.max()
    return total, likeliest


def expected(model: Any, pairs: list[dict[str, list[int]]], side: str) -> np.ndarray:
    return np.array([by_hand(model, one["prompt_ids"], one[f"{side}_ids"])[0] for one in pairs])
