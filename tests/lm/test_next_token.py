"""Sums over tokens against distributions over whole responses."""

import numpy as np
import pytest
import torch

import didsim
from didsim import lm
from tests.lm.spaces import LENGTH, VOCABULARY, exact, responses, tiny

PROMPT = [3, 1]


def sums(p_prompt: list[int], q_prompt: list[int], seed: int = 0) -> lm.TokenSums:
    """Along all responses, of one model after two prompts."""
    model, each = tiny(seed), responses()
    rows = [lm.next_token_log_probs(model, [one] * len(each), each) for one in (p_prompt, q_prompt)]
    return lm.token_sums(*rows)


@pytest.mark.parametrize("seed", range(4))
def test_means_under_p_are_the_divergence_and_the_entropy_of_whole_responses(seed: int) -> None:
    model, other = tiny(seed), [4, 0, 3]
    p, q = exact(model, PROMPT), exact(model, other)
    found = sums(PROMPT, other, seed)
    assert np.exp(p) @ found.kl == pytest.approx(float(didsim.kl(p, q)), rel=1e-9)
    assert np.exp(p) @ found.entropy == pytest.approx(float(didsim.entropy(p)), rel=1e-9)


def test_terms_are_those_of_each_place() -> None:
    model, response = tiny(), [3, 4, 0]
    found = sums(PROMPT, [4])
    expected = np.zeros(4)
    for place in range(LENGTH):
        p, q = (
            model(input_ids=torch.tensor([[*prompt, *response[:place]]])).logits[0, -1].log_softmax(-1)
            for prompt in (PROMPT, [4])
        )
        p, q = p.detach().numpy(), q.detach().numpy()
        expected += [didsim.kl(p, q), didsim.js(p, q), didsim.entropy(p), didsim.did_entropy(p, q)]
    place = responses().index(response)
    np.testing.assert_allclose([one[place] for one in found], expected, rtol=1e-9)


def test_bounds_and_equal_models() -> None:
    found, same = sums(PROMPT, [4]), sums(PROMPT, PROMPT)
    lengths = np.array([len(one) for one in responses()])
    assert (found.js <= lengths * np.log(2)).all()
    assert (found.did_entropy <= lengths * np.log(VOCABULARY) + 1e-12).all()
    np.testing.assert_allclose(same.kl, 0, atol=1e-12)
    np.testing.assert_allclose(same.js, 0, atol=1e-12)
    np.testing.assert_allclose(same.did_entropy, lengths * np.log(VOCABULARY), rtol=1e-12)


def test_an_impossible_token_adds_nothing_and_no_nan() -> None:
    p = torch.tensor([[0.5, 0.5, 0.0]]).double().log()
    q = torch.tensor([[0.25, 0.75, 0.0]]).double().log()
    found = lm.token_sums([p], [q])
    assert found.kl[0] == pytest.approx(0.5 * np.log(2) + 0.5 * np.log(2 / 3))
    assert found.entropy[0] == pytest.approx(np.log(2))
    assert np.isfinite(found.js[0])


def test_rows_that_do_not_fit_are_told() -> None:
    row = torch.zeros(2, 3).log_softmax(-1)
    with pytest.raises(ValueError, match="must have the same shapes"):
        lm.token_sums([row], [row[:1]])
    with pytest.raises(ValueError, match="must have as many responses"):
        lm.token_sums([row], [row, row])
