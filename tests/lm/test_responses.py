"""Drawn responses against the distribution over all responses."""

import numpy as np
import pytest
import torch

from didsim import lm
from tests.lm.spaces import END, LENGTH, VOCABULARY, exact, responses, tiny

PROMPT = [3, 1]


def test_all_responses_together_have_probability_one() -> None:
    log_probs = exact(tiny(), PROMPT)
    assert len(log_probs) == 1 + 4 + 16 * VOCABULARY
    assert np.exp(log_probs).sum() == pytest.approx(1, abs=1e-12)


def test_frequencies_are_the_models_own() -> None:
    count, model = 4000, tiny()
    (drawn,) = lm.draw(model, [PROMPT], count, LENGTH, END, seed=1)
    places = {tuple(one): place for place, one in enumerate(responses())}
    frequency = np.bincount([places[tuple(one)] for one in drawn], minlength=len(places)) / count
    probs = np.exp(exact(model, PROMPT))
    spread = np.sqrt(probs * (1 - probs) / count)
    assert (abs(frequency - probs) <= 5 * spread + 1e-3).all()
    assert abs(frequency - probs).sum() <= 1.5 * spread.sum()


def test_the_seed_decides_and_the_global_state_stays() -> None:
    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    one, two, other = (lm.draw(tiny(), [PROMPT, [4]], 5, LENGTH, END, seed=seed) for seed in (0, 0, 1))
    torch.manual_seed(7)
    assert (torch.random.get_rng_state() == before).all()
    assert one == two != other
    assert all(one[-1] == END or len(one) == LENGTH for own in one for one in own)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"prompts": []}, "`prompts` must be a list of lists of tokens"),
        ({"count": 0}, "`count` must be an integer of at least 1"),
        ({"max_new_tokens": 15}, "must fit the model's window of 16 tokens; they have 17"),
        ({"end": -1}, "`end` must be an integer of at least 0"),
    ],
)
def test_a_wrong_argument_is_told(changes: dict[str, object], said: str) -> None:
    arguments = {"prompts": [PROMPT], "count": 2, "max_new_tokens": LENGTH, "end": END} | changes
    with pytest.raises(ValueError, match=said):
        lm.draw(tiny(), **arguments)  # type: ignore[arg-type]
