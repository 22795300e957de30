"""Examples with real data, held against what is published of these data."""

from pathlib import Path

import numpy as np
import pytest

import didsim

pytest.importorskip("statsmodels")

from examples import real_choices

# Greene, "Econometric Analysis", 7th edition, table 18.3: the unweighted fit, and its standard errors.
PUBLISHED = {
    "air": (5.2074, 0.7791),
    "train": (3.8690, 0.4431),
    "bus": (3.1632, 0.4503),
    "cost": (-0.0155, 0.0044),
    "waiting": (-0.0961, 0.0104),
    "income of air": (0.0133, 0.0103),
}


def test_the_fit_to_real_choices_is_the_published_one() -> None:
    choices, features = real_choices.load()
    fit = didsim.reward_model(choices, features=features)
    assert fit.log_likelihood == pytest.approx(-199.1284, abs=6e-5)
    estimates = fit.coefficient_estimates()
    for k, name in enumerate(real_choices.NAMES):
        value, error = PUBLISHED[name]
        assert estimates.value[k] == pytest.approx(value, abs=6e-5)
        assert estimates.standard_error[k] == pytest.approx(error, abs=6e-5)


def test_the_example_draws_its_picture_and_prints_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = real_choices.answer(resamples=50)
    monkeypatch.setattr(real_choices, "answer", lambda: answer)
    monkeypatch.setattr("sys.argv", ["real_choices", "--out", str(tmp_path / "a.png")])
    real_choices.main()
    assert "traveller 001 by car against traveller 001 by air" in capsys.readouterr().out
    assert (tmp_path / "a.png").stat().st_size > 10_000
    # With a constant for each mode, the score says that mean probabilities are the shares in the data.
    np.testing.assert_allclose(answer.shares[1], answer.shares[0], atol=1e-9)
    np.testing.assert_allclose(answer.shares[0] * 210, [58, 63, 30, 59])
