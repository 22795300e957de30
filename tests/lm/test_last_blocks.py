"""Last blocks against the whole model."""

import numpy as np
import pytest
import torch

from didsim import lm
from tests.lm.cases import gpt2
from tests.lm.spaces import END, LENGTH, exact, responses, tiny

PROMPT = [3, 1]


@pytest.mark.parametrize("blocks", [1, 2])
def test_outputs_are_those_of_the_whole_model(blocks: int) -> None:
    model, each = tiny(), responses()
    policy = lm.LastBlocks(model, blocks)
    expected = exact(model, PROMPT)
    for _ in range(2):  # the second time nothing runs but the last blocks
        np.testing.assert_allclose(lm.score(policy, [PROMPT] * len(each), each, 5).logps, expected, rtol=1e-9)
    tokens = torch.tensor([[3, 1, 4, 0]])
    mask = torch.ones_like(tokens)
    whole = model(input_ids=tokens, attention_mask=mask).logits
    torch.testing.assert_close(policy(tokens, mask).logits, whole)
    torch.testing.assert_close(policy(tokens, mask, logits_to_keep=2).logits, whole[:, -2:])


def test_its_blocks_are_its_own_and_generate_uses_them() -> None:
    model = tiny()
    before = exact(model, PROMPT)
    policy = lm.LastBlocks(model, 1)
    with torch.no_grad():
        for one in policy.parameters():
            if one.requires_grad:
                one.mul_(3)
    np.testing.assert_array_equal(exact(model, PROMPT), before)
    each = responses()
    moved = np.exp(lm.score(policy, [PROMPT] * len(each), each).logps)
    assert abs(moved - np.exp(before)).max() > 0.05
    (drawn,) = lm.draw(policy, [PROMPT], 3000, LENGTH, END)
    places = {tuple(one): place for place, one in enumerate(each)}
    frequency = np.bincount([places[tuple(one)] for one in drawn], minlength=len(each)) / 3000
    assert abs(frequency - moved).max() < 0.05


def test_what_is_kept_can_be_shared() -> None:
    model, kept = tiny(), {}  # type: ignore[var-annotated]
    lm.score(lm.LastBlocks(model, 1, kept), [PROMPT], [[3, END]])
    count = len(kept)
    lm.score(lm.LastBlocks(model, 1, kept), [PROMPT], [[3, END]])
    assert len(kept) == count


def test_other_models_are_refused() -> None:
    with pytest.raises(ValueError, match="got GPT2LMHeadModel"):
        lm.LastBlocks(gpt2(), 1)
    with pytest.raises(ValueError, match="`blocks`"):
        lm.LastBlocks(tiny(), 3)
