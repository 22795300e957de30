"""The pairs table: its numbers, what a killed run leaves, and what a resumed one adds."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest

import didsim
from didsim import lm
from didsim.lm.table import read_table
from tests.lm.cases import BEGIN, END, expected, gpt2, rows

PAIRS = {"train": rows(5), "held out": rows(4, seed=1)}
ALL = [*PAIRS["train"], *PAIRS["held out"]]
FORMATS = pytest.mark.parametrize("name", ["pairs.parquet", "pairs.jsonl"])


@FORMATS
def test_the_numbers_are_those_of_a_loop_over_tokens(name: str, tmp_path: Path) -> None:
    policy, reference = gpt2(1), gpt2(0)
    path = tmp_path / name
    lm.PairsTable(path, PAIRS, reference).write(30, policy)
    table = read_table(path).to_pydict()
    for side in ("chosen", "rejected"):
        np.testing.assert_allclose(table[f"{side}_logps"], expected(policy, ALL, side), rtol=1e-5)
        np.testing.assert_allclose(table[f"ref_{side}_logps"], expected(reference, ALL, side), rtol=1e-5)
        assert table[f"{side}_length"] == [len(one[f"{side}_ids"]) for one in ALL]
    assert table["step"] == [30] * 9
    assert table["split"] == ["train"] * 5 + ["held out"] * 4
    assert (np.array(table["argmax_logps"]) >= np.array(table["chosen_logps"])).all()
    found = didsim.diagnose(pairs=path, beta=0.1)
    assert found.inputs[0].rows == 9
    displaced = next(one for one in found.findings if one.name == "displacement").numbers
    moved = (expected(policy, ALL, "chosen") - expected(reference, ALL, "chosen"))[:5].mean()
    assert displaced["chosen"].value == pytest.approx(moved, rel=1e-4)


def test_pairs_of_one_prompt_share_its_number(tmp_path: Path) -> None:
    one, other = {"prompt_ids": [1, 5], "chosen_ids": [6, 2], "rejected_ids": [7, 2]}, rows(1)[0]
    lm.PairsTable(tmp_path / "p.jsonl", {"train": [one, other], "test": [one]}).write(0, gpt2())
    table = read_table(tmp_path / "p.jsonl").to_pydict()
    assert table["prompt_id"] == ["0", "1", "0"]


@FORMATS
def test_a_resumed_run_adds_to_the_table_and_writes_no_step_twice(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    first = lm.PairsTable(path, PAIRS)
    for step in (0, 10, 20, 30):
        first.write(step, gpt2(step))
    resumed = lm.PairsTable(path, PAIRS)
    assert resumed.steps == [0, 10, 20, 30]
    resumed.write(20, gpt2(77))  # it went on from a checkpoint at step 10
    assert resumed.steps == [0, 10, 20]
    resumed.write(40, gpt2(40))
    table = read_table(path)
    assert table.equals(read_table(path))
    whole = table.to_pydict()
    assert whole["step"] == [0] * 9 + [10] * 9 + [20] * 9 + [40] * 9
    for place, seed in enumerate((0, 10, 77, 40)):
        rows_of = slice(9 * place, 9 * place + 9)
        np.testing.assert_allclose(
            whole["chosen_logps"][rows_of], expected(gpt2(seed), ALL, "chosen"), rtol=1e-5
        )
        np.testing.assert_allclose(
            whole["ref_chosen_logps"][rows_of], expected(gpt2(0), ALL, "chosen"), rtol=1e-5
        )


@FORMATS
@pytest.mark.parametrize("moment", ["while it writes", "before it takes its place"])
def test_a_killed_run_leaves_every_finished_checkpoint(
    name: str, moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / name
    table = lm.PairsTable(path, PAIRS)
    table.write(0, gpt2())
    before = path.read_bytes()

    def killed(*arguments: Any) -> None:
        if moment == "while it writes":
            arguments[0].write_bytes(before[:100])
        raise KeyboardInterrupt

    place = "didsim.lm.table.write_table" if moment == "while it writes" else "didsim._files.os.replace"
    with monkeypatch.context() as patch:
        patch.setattr(place, killed)
        with pytest.raises(KeyboardInterrupt):
            table.write(10, gpt2(1))
    assert path.read_bytes() == before
    assert [one.name for one in tmp_path.iterdir()] == [name]
    table.write(10, gpt2(1))
    assert lm.PairsTable(path, PAIRS).steps == [0, 10]


@FORMATS
@pytest.mark.parametrize("damage", ["cut off", "a byte", "empty", "another table"])
def test_damage_is_told_and_the_file_stays(name: str, damage: str, tmp_path: Path) -> None:
    path = tmp_path / name
    lm.PairsTable(path, PAIRS).write(0, gpt2())
    whole = path.read_bytes()
    damaged = {
        "cut off": whole[: len(whole) * 2 // 3],
        "a byte": whole[:-3] + b"\xff" + whole[-2:],
        "empty": b"",
        "another table": b'{"a": 1}\n',
    }[damage]
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match="is there and is no whole pairs table of ours"):
        lm.PairsTable(path, PAIRS)
    assert path.read_bytes() == damaged


def test_a_flipped_bit_of_a_parquet_file_is_told(tmp_path: Path) -> None:
    path = tmp_path / "pairs.parquet"
    lm.PairsTable(path, PAIRS).write(0, gpt2())
    whole = path.read_bytes()
    number = np.float64(read_table(path)["chosen_logps"][0].as_py()).tobytes()
    place = whole.index(number)
    path.write_bytes(whole[:place] + bytes([number[0] ^ 1]) + whole[place + 1 :])
    with pytest.raises(ValueError, match=r"is there and is no whole pairs table of ours: .*checksum"):
        lm.PairsTable(path, PAIRS)
    with pytest.raises(ValueError, match=r"cannot be read: .*checksum"):
        didsim.diagnose(pairs=path)


def test_a_row_that_is_missing_is_told(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    lm.PairsTable(path, PAIRS).write(0, gpt2())
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(ValueError, match="is the table of other pairs"):
        lm.PairsTable(path, PAIRS)


def test_the_table_of_other_pairs_or_of_another_reference_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "pairs.parquet"
    lm.PairsTable(path, PAIRS, gpt2(0)).write(0, gpt2(0))
    before = path.read_bytes()
    with pytest.raises(ValueError, match="is the table of other pairs"):
        lm.PairsTable(path, {"train": rows(5), "held out": rows(4, seed=2)})
    with pytest.raises(ValueError, match="is the table of other pairs"):
        lm.PairsTable(path, {"test": PAIRS["train"], "held out": PAIRS["held out"]})
    with pytest.raises(ValueError, match="is of another reference: log-probabilities differ by up to"):
        lm.PairsTable(path, PAIRS, gpt2(3)).write(10, gpt2(1))
    with pytest.raises(ValueError, match="is of another reference"):
        lm.PairsTable(path, PAIRS).write(0, gpt2(3))  # a run from the start, of another model
    assert path.read_bytes() == before
    lm.PairsTable(path, PAIRS, gpt2(0)).write(10, gpt2(1))
    again = lm.PairsTable(path, PAIRS)
    again.write(0, gpt2(0))  # the same run from the start
    assert again.steps == [0]


def test_without_a_reference_a_table_begins_at_step_0(tmp_path: Path) -> None:
    table = lm.PairsTable(tmp_path / "p.parquet", PAIRS)
    with pytest.raises(ValueError, match="`reference` must be given: by default it is the policy at step 0"):
        table.write(10, gpt2())
    assert list(tmp_path.iterdir()) == []


def test_a_policy_that_is_not_finite_is_not_written(tmp_path: Path) -> None:
    table = lm.PairsTable(tmp_path / "p.parquet", PAIRS)
    table.write(0, gpt2())
    lost = gpt2()
    lost.transformer.ln_f.weight.data[0] = np.nan
    with pytest.raises(FloatingPointError, match="step 10: 18 of 18 log-probabilities are not finite"):
        table.write(10, lost)
    assert lm.PairsTable(tmp_path / "p.parquet", PAIRS).steps == [0]


@pytest.mark.parametrize("keep", ["keep_start", "keep_end"])
@pytest.mark.parametrize("length", [5, 7, 9, 30])
def test_responses_are_cut_as_trl_cuts_them(keep: Any, length: int, tmp_path: Path) -> None:
    """Of the tokens that are left those of the response count, but for a first one with nothing before it."""
    one = {"prompt_ids": [BEGIN, 4, 5, 6], "chosen_ids": [7, 8, 9, END], "rejected_ids": [3, 3, 3, 3, END]}
    path = tmp_path / "p.jsonl"
    lm.PairsTable(path, {"train": [one]}, max_length=length, keep=keep).write(0, gpt2())
    (row,) = [json.loads(line) for line in path.read_text().splitlines()]
    for side in ("chosen", "rejected"):
        prompt, response = one["prompt_ids"], one[f"{side}_ids"]
        mask = [0] * len(prompt) + [1] * len(response)
        part = slice(None, length) if keep == "keep_start" else slice(-length, None)
        tokens, mask = (prompt + response)[part], mask[part]
        count = sum(mask[1:])
        assert row[f"{side}_length"] == count
        cut = {"prompt_ids": tokens[: len(tokens) - count], "it_ids": tokens[len(tokens) - count :]}
        assert row[f"{side}_logps"] == pytest.approx(expected(gpt2(), [cut], "it")[0], rel=1e-5)


ROW = rows(1)[0]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"path": "p.csv"}, r"`path` must be a file ending in \.parquet or \.jsonl; got 'p\.csv'"),
        ({"path": "nowhere/p.jsonl"}, "`path` must be in a folder that is there; nowhere is not"),
        ({"path": 3}, "`path` must be a path"),
        ({"pairs": [ROW]}, "`pairs` must map names of splits"),
        ({"pairs": {}}, "`pairs` must map names of splits"),
        ({"pairs": {"train": []}}, "`pairs` must hold at least one pair"),
        ({"pairs": {"train": [{"prompt": "a"}]}}, "must have tokens under 'prompt_ids'; it has prompt"),
        (
            {"pairs": {"train": [ROW | {"chosen_ids": []}]}},
            r"\['chosen_ids'\]` must be a list of at least one",
        ),
        ({"pairs": {"train": [ROW | {"chosen_ids": "abc"}]}}, r"\['chosen_ids'\]` must be a list"),
        ({"pairs": {"train": [ROW]}, "max_length": 2}, "must keep a token of its chosen response"),
        ({"max_length": 0}, "`max_length` must be an integer of at least 2"),
        ({"keep": "start"}, "`keep` must be 'keep_start' or 'keep_end'"),
        ({"reference": "gpt2"}, "`reference` must be a model or None; got str"),
        ({"batch_size": 0.5}, "`batch_size` must be an integer"),
    ],
)
def test_wrong_arguments_are_refused_by_name(
    changed: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        lm.PairsTable(**({"path": "p.jsonl", "pairs": PAIRS} | changed))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("step", [-1, 0.5, True, None])
def test_a_step_is_an_integer(step: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`step` must be an integer"):
        lm.PairsTable(tmp_path / "p.jsonl", PAIRS).write(step, gpt2())


def test_names_of_older_trl_are_read_too(tmp_path: Path) -> None:
    older = [{f"{name.removesuffix('_ids')}_input_ids": ids for name, ids in one.items()} for one in rows(5)]
    lm.PairsTable(tmp_path / "one.jsonl", {"train": rows(5)}).write(0, gpt2())
    lm.PairsTable(tmp_path / "two.jsonl", {"train": older}).write(0, gpt2())
    assert (tmp_path / "one.jsonl").read_text() == (tmp_path / "two.jsonl").read_text()


def test_parquet_is_read_by_others(tmp_path: Path) -> None:
    lm.PairsTable(tmp_path / "p.parquet", PAIRS).write(0, gpt2())
    assert pyarrow.parquet.read_table(tmp_path / "p.parquet").num_rows == 9
