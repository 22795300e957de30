"""The experiment with a language model, on a random model of a few thousand parameters."""

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import xarray as xr

torch = pytest.importorskip("torch", reason="needs the extra: pip install 'didsim[lm]'")
transformers = pytest.importorskip("transformers", reason="needs the extra: pip install 'didsim[lm]'")

import didsim  # noqa: E402
from didsim import lm  # noqa: E402
from experiments import real_lm  # noqa: E402
from experiments.shared import language  # noqa: E402
from experiments.shared.chat_model import ending_token  # noqa: E402
from experiments.shared.configs import override  # noqa: E402
from experiments.shared.questions import FACTS, OPEN  # noqa: E402
from experiments.shared.running import Job, run  # noqa: E402
from tests.clipping import clipped  # noqa: E402
from tests.experiment_cases import invoke  # noqa: E402
from tests.lm.cases import llama  # noqa: E402
from tests.lm.spaces import END, LENGTH, exact, responses, tiny  # noqa: E402

SMALL = {
    "questions": 6,
    "seeds": 2,
    "samples": 12,
    "length": 3,
    "blocks": 1,
    "steps": 4,
    "batch_size": 4,
    "least_effective": 1.0,
}


def words(**changes: Any) -> list[str]:
    return [word for key, value in (SMALL | changes).items() for word in ("--set", f"{key}={value}")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model of two layers, with a tokenizer of the words of the questions."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    path = tmp_path_factory.mktemp("model")
    examples = [text for one in real_lm.EXAMPLES for text in one]
    text = " ".join(
        [real_lm.SYSTEM, real_lm.POET, *OPEN, *(part for one in FACTS for part in one), *examples]
    )
    known = sorted(set(re.findall(r"\w+|[^\w\s]+", f"{text} Question Answer :")))
    vocabulary = {word: place for place, word in enumerate(["<unknown>", "<end>", *known])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unknown>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<end>", unk_token="<unknown>"
    )
    fast.save_pretrained(path)
    tokens: dict[str, Any] = {
        "vocab_size": len(vocabulary),
        "bos_token_id": None,
        "eos_token_id": 1,
        "pad_token_id": 1,
    }
    llama(0, hidden_size=8, intermediate_size=8, max_position_embeddings=80, **tokens).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def done(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the command writes."""
    out = tmp_path_factory.mktemp("out")
    result = invoke(
        "real_lm",
        "--model",
        str(folder),
        *words(folder=out / "parts"),
        "--out",
        str(out),
        "--quiet",
        "--debug",
    )
    assert result.exit_code == 0, result.exception
    return out


def data(done: Path) -> xr.Dataset:
    return xr.load_dataset(done / "real_lm.nc")


def test_the_command_writes_data_pictures_and_the_log(done: Path) -> None:
    files = {path.name for path in done.iterdir() if path.is_file()}
    runs = "real_lm_runs.json"
    assert files >= {"real_lm.nc", "real_lm.png", "real_lm.pdf", runs, "findings.json", "real_lm.done"}
    found = json.loads((done / runs).read_text())
    assert len(found["runs"]) == 2 * len(language.VARIANTS) * 2
    assert all(one["verdict"] for one in found["runs"])
    assert found["log"][-1].endswith("finished")
    for variable in data(done).data_vars.values():
        assert {"long_name", "units"} <= set(variable.attrs)
    assert clipped(real_lm.plot(data(done))) == []


def test_every_run_has_a_pairs_table_that_is_diagnosed(done: Path) -> None:
    tables = list((done / "parts").glob("*.parquet"))
    assert len(tables) == 2 * len(language.VARIANTS) * 2
    assert didsim.diagnose(pairs=tables[0], beta=0.25).verdict


def test_policies_begin_at_the_reference(done: Path) -> None:
    start = data(done).isel(step=0)
    np.testing.assert_allclose(start["logps"] - start["reference_logps"], 0, atol=1e-4)
    np.testing.assert_allclose(start["kl_from_reference"], 0, atol=1e-4)
    assert (start["js"] > 0).all()


def test_the_power_law_holds_for_the_optimal_distribution_alone(done: Path) -> None:
    dataset = data(done)
    target = dataset.assign(logps=dataset["target_logps"].expand_dims(step=dataset["step"]))
    found = real_lm.orders(target).sel(variant="optimal")
    np.testing.assert_allclose(found["exponent"], dataset["beta"], rtol=1e-6)
    np.testing.assert_allclose(found["residual"], 0, atol=1e-6)
    np.testing.assert_allclose(found["ordered"], 1)
    assert (real_lm.orders(target).sel(variant="worst of n")["residual"] > 1e-3).all()


def test_a_second_run_gives_the_same_numbers_and_goes_on_from_its_parts(done: Path, folder: Path) -> None:
    before = data(done)
    again = done / "parts" / "open-optimal-1.npz"
    kept = done / "parts" / "open-pool.npz"
    stamp = kept.stat().st_mtime_ns
    again.unlink()
    config = override(
        real_lm.Config, [word for word in words(folder=done / "parts", model=folder) if word != "--set"]
    )
    xr.testing.assert_allclose(real_lm.run(config), before, rtol=1e-4, atol=1e-5)
    assert again.exists()
    assert kept.stat().st_mtime_ns == stamp


def test_damaged_parts_and_those_of_other_settings_are_told(done: Path, folder: Path) -> None:
    part = done / "parts" / "open-pool.npz"
    content = part.read_bytes()
    place = len(content) // 2
    try:
        for damaged in (content[:place], content[:place] + b"\xff\x00\xff" + content[place + 3 :]):
            part.write_bytes(damaged)
            result = invoke(
                "real_lm", "--model", str(folder), *words(folder=done / "parts"), "--again", "--quiet",
                "--out", str(done),
            )  # fmt: skip
            assert result.exit_code != 0
            assert "open-pool.npz is damaged" in " ".join(result.output.split())
    finally:
        part.write_bytes(content)
    config = override(
        real_lm.Config,
        [word for word in words(folder=done / "parts", model=folder, steps=5) if word != "--set"],
    )
    with pytest.raises(ValueError, match="of another model, other prompts or other settings"):
        real_lm.run(config)


def test_the_picture_is_drawn_from_the_data(done: Path) -> None:
    job = Job("real_lm", real_lm.Config(), "python -m experiments real_lm", (), done, from_data=True)
    before = data(done)
    found = run(job, progress=False)
    assert found.pictures == ("real_lm.png",)
    assert found.seconds == before.attrs["seconds"]
    xr.testing.assert_identical(data(done), before)


def test_all_trains_no_language_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("experiments.__main__.EXPERIMENTS", ["real_lm"])
    result = invoke("all", "--out", str(tmp_path), "--quiet")
    assert result.exit_code == 0
    words = " ".join(result.output.split())
    assert f"real_lm: no data in {tmp_path} to draw; `python -m experiments real_lm` makes them" in words
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": "no/such/folder"}, "`model` must be a folder of a causal language model; got"),
        ({"length": 70}, "must fit the model's window of 80 tokens"),
        ({"least_effective": 11.9}, "samples of a prompt count for"),
    ],
)
def test_what_cannot_work_is_told_first(
    changes: dict[str, Any], said: str, folder: Path, tmp_path: Path
) -> None:
    settings = words(folder=tmp_path, **({"model": folder} | changes))
    config = override(real_lm.Config, [word for word in settings if word != "--set"])
    with pytest.raises(ValueError, match=said):
        real_lm.run(config)
    assert not list(tmp_path.glob("*.parquet"))


def test_variants_that_took_the_same_steps_are_told(done: Path) -> None:
    dataset = data(done).copy(deep=True)
    ends = dataset["logps"].transpose("variant", ...)
    for name in ("optimal, DPO-PG", "uniform"):
        own = list(dataset["variant"].values).index(name)
        ends[own] = ends.sel(variant="optimal").values
    ends[own] += 1e-3
    dataset["logps"] = ends
    assert real_lm.same_as_optimal(dataset.isel(task=0)) == ["optimal, DPO-PG"]
    assert real_lm.finding(dataset).count("“optimal, DPO-PG” took the same steps") == 2


def test_a_tokenizer_without_an_ending_token_is_told() -> None:
    with pytest.raises(ValueError, match="with an ending token"):
        ending_token(type("Tokenizer", (), {"eos_token_id": None}))


def test_estimates_agree_with_the_distributions_over_all_responses() -> None:
    """Each measure of the study, with its samples, against the sum over the whole space."""
    model, count = tiny(), 400
    prompt, context = [3, 1], [4, 0, 3]
    policy = lm.LastBlocks(model, 1)
    with torch.no_grad():
        for one in policy.parameters():
            if one.requires_grad and one.ndim > 1:
                one.mul_(1.5)
    reference, target = exact(model, prompt), exact(model, context)
    each = responses()
    learned = lm.score(policy, [prompt] * len(each), each).logps
    (drawn,) = lm.draw(model, [prompt], count, LENGTH, END, 1)
    (of_target,) = lm.draw(model, [context], count, LENGTH, END, 2)
    places = {tuple(one): place for place, one in enumerate(each)}
    index = [places[tuple(one)] for one in drawn]
    # The third prompt is held out.
    task = language.Task("x", 0.5, [[0], [0], prompt], [[0], [0], context], [])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(language, "EVALUATED", count)
        pool = language.Pool([drawn], reference[index][None], target[index][None])
        measure = language._Measure(model, task, pool, of_target, lm.LastBlocks(model, 1))
        found = measure(policy)
    expected = {
        "kl_from_target": didsim.kl(target, learned),
        "kl_from_reference": didsim.kl(reference, learned),
    }
    for name, value in expected.items():
        assert found[name][0] == pytest.approx(float(value), rel=0.15), name
    fall = (found["logps"] - reference[index]).mean()
    assert fall == pytest.approx(-float(didsim.kl(reference, learned)), abs=0.15)
    np.testing.assert_allclose(found["logps"][0], learned[index], rtol=1e-9)
    np.testing.assert_allclose(measure.untrained["logps"][0], reference[index], rtol=1e-5)
    assert measure.untrained["kl_from_reference"][0] == pytest.approx(0, abs=1e-6)


def test_other_distributions_are_those_of_the_library_on_all_responses() -> None:
    """The reference's draws as the whole space, each response as often as its probability says."""
    random = np.random.default_rng(0)
    reference, target = np.log(random.dirichlet(np.ones(6), 2))
    every = [[[place] for place in range(6)]]
    pool = language.Pool(every, reference[None], target[None])
    config = msgspec.structs.replace(real_lm.Config(), least_effective=1e-9)
    tempered = reference + language.rejected_weights(pool, "tempered", 0.5, config).log_weights[0]
    tempered -= np.logaddexp.reduce(tempered)
    np.testing.assert_allclose(tempered, didsim.temper(reference, config.exponent), rtol=1e-9)
    same = language.rejected_weights(pool, "reference", 0.5, config)
    np.testing.assert_allclose(same.log_weights, -np.log(6))
    worst = np.exp(language.rejected_weights(pool, "worst of n", 0.5, config).log_weights[0])
    rank = np.argsort(np.argsort(target))
    np.testing.assert_allclose(worst, ((6 - rank) ** 4 - (5 - rank) ** 4) / 6**4, atol=1e-9)
    twice = language.Pool([[[1], [1], [2]]], np.zeros((1, 3)), np.zeros((1, 3)))
    weights = language.rejected_weights(twice, "uniform", 0.5, config).log_weights
    np.testing.assert_allclose(np.exp(weights), [[0.25, 0.25, 0.5]])
