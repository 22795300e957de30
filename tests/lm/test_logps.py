"""Log-probabilities of responses, against a loop over single tokens."""

from typing import Any

import numpy as np
import pytest
import torch

from didsim import lm
from tests.lm.cases import BEGIN, END, MODELS, by_hand, gpt2, rows

PAIRS = rows(7)
PROMPTS = [one["prompt_ids"] for one in PAIRS]
RESPONSES = [one["rejected_ids"] for one in PAIRS]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_scores_are_those_of_a_loop_over_tokens(name: str, batch_size: int) -> None:
    model = MODELS[name]()
    scores = lm.score(model, PROMPTS, RESPONSES, batch_size)
    both = np.array([by_hand(model, *one) for one in zip(PROMPTS, RESPONSES, strict=True)])
    np.testing.assert_allclose(scores.logps, both[:, 0], rtol=1e-5)
    np.testing.assert_allclose(scores.argmax_logps, both[:, 1], rtol=1e-5)
    assert scores.lengths.tolist() == [len(one) for one in RESPONSES]
    assert np.ptp(scores.logps) > 5


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("pad", [0, END])
def test_padding_at_either_side_of_any_token_changes_nothing(name: str, side: str, pad: int) -> None:
    model = MODELS[name]()
    width = 16
    tokens = torch.full((len(PAIRS), width), pad)
    attention, marked = torch.zeros(2, len(PAIRS), width, dtype=torch.long)
    for row, (prompt, response) in enumerate(zip(PROMPTS, RESPONSES, strict=True)):
        size = len(prompt) + len(response)
        first = width - size if side == "left" else 0
        tokens[row, first : first + size] = torch.tensor(prompt + response)
        attention[row, first : first + size] = 1
        marked[row, first + len(prompt) : first + size] = 1
    found = lm.sequence_logps(model, tokens, attention, marked)
    wanted = [by_hand(model, *one)[0] for one in zip(PROMPTS, RESPONSES, strict=True)]
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-5)
    assert found.dtype == torch.float32
    assert not found.requires_grad


def test_the_ending_token_counts_if_it_is_in_the_response() -> None:
    model = gpt2()
    with_end, without = lm.score(model, [[BEGIN, 5]] * 2, [[7, 8, END], [7, 8]]).logps
    assert with_end - without == pytest.approx(by_hand(model, [BEGIN, 5, 7, 8], [END])[0], rel=1e-4)


def test_the_first_token_is_predicted_from_the_prompt() -> None:
    model = gpt2()
    assert lm.score(model, [[BEGIN]], [[9]]).logps[0] == pytest.approx(by_hand(model, [BEGIN], [9])[0])


def test_low_precision_is_summed_in_single_precision_and_double_stays_double() -> None:
    class Fixed(torch.nn.Module):
        """Logits of 0 and 9 in turn, whatever the tokens."""

        def __init__(self, dtype: Any) -> None:
            super().__init__()
            self.scores = torch.nn.Parameter(torch.tensor([0.0, 9.0] * 10, dtype=dtype))

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            return type("Output", (), {"logits": self.scores.expand(*input_ids.shape, -1)})

    exact = 1000 * (0 - np.log(10 * (1 + np.exp(9.0))))
    for dtype, tolerance in ((torch.bfloat16, 1e-6), (torch.float32, 1e-6), (torch.float64, 1e-14)):
        ids = torch.zeros(1, 1001, dtype=torch.long)
        marked = torch.ones_like(ids)
        marked[0, 0] = 0
        found = lm.sequence_logps(Fixed(dtype), ids, torch.ones_like(ids), marked)
        assert float(found) == pytest.approx(exact, rel=tolerance)
        assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


def test_a_model_in_training_is_scored_without_dropout_and_left_as_it_was() -> None:
    model = gpt2().train()
    model.transformer.h[0].eval()
    before = {name: module.training for name, module in model.named_modules()}
    state = torch.random.get_rng_state()
    first, again = (lm.score(model, PROMPTS, RESPONSES).logps for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert {name: module.training for name, module in model.named_modules()} == before
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(one.grad is None for one in model.parameters())


IDS, ONES = [[1, 5, 7, 2]], [[1, 1, 1, 1]]


@pytest.mark.parametrize(
    ("ids", "attention", "marked", "message"),
    [
        (IDS, ONES, ONES, "`response_mask` must be 0 at the first token"),
        (IDS, [[0, 1, 1, 1]], [[0, 1, 1, 1]], "`response_mask` must be 0 at the first token"),
        (IDS, [[1, 1, 1, 0]], [[0, 0, 1, 1]], "it marks padding"),
        (IDS, [[1, 0, 1, 1]], [[0, 0, 1, 1]], "`attention_mask` must be 1 at one stretch"),
        (IDS, [[0, 0, 0, 0]], [[0, 0, 0, 0]], "`attention_mask` must be 1 at one stretch"),
        (IDS, ONES, [[0, 0, 0, 0]], "`response_mask` must mark a token of each sequence; it marks none of 0"),
        (IDS, ONES, [[0, 0, 2, 1]], "`response_mask` must be 0 or 1"),
        (IDS, ONES, [0, 0, 1, 1], r"`response_mask` must have the shape of `input_ids`, \(1, 4\)"),
        ([1, 5, 7, 2], ONES, ONES, r"`input_ids` must be integers \[sequences, tokens\]"),
        ([[1.0, 2.0, 3.0, 4.0]], ONES, ONES, "`input_ids` must be integers"),
        ("tokens", ONES, ONES, "`input_ids` must be a tensor of numbers"),
    ],
)
def test_wrong_masks_are_refused_by_name(ids: Any, attention: Any, marked: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        lm.sequence_logps(gpt2(), ids, attention, marked)


@pytest.mark.parametrize(
    ("prompts", "responses", "more", "message"),
    [
        ([[]], [[4]], {}, r"`prompts\[0\]` must be a list of at least one token"),
        ([[1]], [[]], {}, r"`responses\[0\]` must be a list of at least one token"),
        ([[1]], [[True]], {}, r"`responses\[0\]`"),
        ([[1]], [[0.5]], {}, r"`responses\[0\]`"),
        ([[1]], ["ab"], {}, r"`responses\[0\]`"),
        ([[1], [-1]], [[1], [1]], {}, r"`prompts\[1\]`"),
        ([[1]], [[4], [5]], {}, "`prompts` must be as many as `responses`, 2; got 1"),
        ([], [], {}, "`prompts` must be a list of lists of tokens"),
        ([[1]], [[4]], {"batch_size": 0}, "`batch_size`"),
    ],
)
def test_wrong_tokens_are_refused_by_name(
    prompts: Any, responses: Any, more: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        lm.score(gpt2(), prompts, responses, **more)
