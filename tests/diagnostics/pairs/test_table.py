from pathlib import Path
from typing import Any

import numpy as np
import pytest

from didsim.diagnostics.pairs.table import read_pairs
from tests.diagnostics.table_cases import FORMATS, columns_of, write

RANDOM = np.random.default_rng(0)


def _two_checkpoints() -> dict[str, Any]:
    """Forty pairs at two checkpoints; the later one comes first."""
    one = columns_of(np.full(40, 1.0), np.full(40, -1.0))
    two = columns_of(np.full(40, 2.0), np.full(40, -3.0))
    both: dict[str, Any] = {name: [*two[name], *one[name]] for name in one}
    both["step"] = [200] * 40 + [100] * 40
    both["prompt_id"] = [f"prompt {k}" for k in range(40)] * 2
    both["split"] = (["train"] * 30 + ["validation"] * 10) * 2
    return both


@pytest.mark.parametrize("format", FORMATS)
def test_rows_are_sorted_by_checkpoint_in_every_format(format: str, tmp_path: Path) -> None:
    pairs = read_pairs(write(tmp_path, _two_checkpoints(), format))
    assert pairs.steps.tolist() == [100, 200]
    assert pairs.starts.tolist() == [0, 40, 80]
    moved = pairs.numbers["chosen_logps"] - pairs.numbers["ref_chosen_logps"]
    np.testing.assert_allclose(moved, [1.0] * 40 + [2.0] * 40)
    assert pairs.prompts == 40
    assert (pairs.prompt[:40] == pairs.prompt[40:]).all()
    assert pairs.held_out is not None
    assert pairs.held_out.tolist() == ([False] * 30 + [True] * 10) * 2
    assert pairs.input.rows == 80
    assert pairs.input.notes == ("Taken for held out: rows whose `split` is 'validation'.",)


def test_without_prompt_ids_a_pair_is_known_by_its_reference(tmp_path: Path) -> None:
    columns = _two_checkpoints()
    del columns["prompt_id"]
    pairs = read_pairs(write(tmp_path, columns))
    assert pairs.prompts == 40
    assert (pairs.prompt[:40] == pairs.prompt[40:]).all()
    assert not pairs.has_prompts
    assert "No `prompt_id`" in " ".join(pairs.input.notes)


def test_mixed_checkpoints_are_refused(tmp_path: Path) -> None:
    columns = _two_checkpoints()
    del columns["step"]
    with pytest.raises(ValueError, match=r"holds several checkpoints .* 40 pairs have more than one"):
        read_pairs(write(tmp_path, columns))
    del columns["prompt_id"]
    with pytest.raises(ValueError, match="holds several checkpoints"):
        read_pairs(write(tmp_path, columns))


def test_the_same_pair_twice_is_no_second_checkpoint(tmp_path: Path) -> None:
    columns = columns_of(np.zeros(20), np.zeros(20))
    twice = {name: [*values, *values] for name, values in columns.items()}
    assert len(read_pairs(write(tmp_path, twice)).steps) == 1


def test_bad_rows_are_refused_or_dropped(tmp_path: Path) -> None:
    columns: dict[str, Any] = columns_of(np.zeros(30), np.zeros(30), chosen_length=np.full(30, 5.0))
    columns["chosen_logps"][3] = 0.25
    columns["ref_rejected_logps"][7] = np.nan
    columns["chosen_length"][9] = 0
    path = write(tmp_path, columns)
    with pytest.raises(ValueError, match="impossible numbers in 3 of 30 rows") as error:
        read_pairs(path)
    for part in (
        "`chosen_logps` is positive in 1 (rows 4)",
        "`ref_rejected_logps` is missing or not finite in 1 (rows 8)",
        "`chosen_length` is not positive in 1 (rows 10)",
    ):
        assert part in str(error.value)
    pairs = read_pairs(path, drop_bad=True)
    assert len(pairs.prompt) == 27
    assert pairs.bad_rows == 3
    assert pairs.input.notes[0] == "3 of 30 rows had impossible numbers and were left out."
    assert (pairs.numbers["chosen_logps"] <= 0).all()


@pytest.mark.parametrize("column", ["prompt_id", "split"])
def test_a_missing_label_is_refused(column: str, tmp_path: Path) -> None:
    columns = _two_checkpoints()
    columns[column][5] = None
    with pytest.raises(ValueError, match=f"1 rows have no `{column}`"):
        read_pairs(write(tmp_path, columns))


def test_other_names_and_other_responses(tmp_path: Path) -> None:
    columns: dict[str, Any] = columns_of(np.zeros(20), np.zeros(20))
    columns["reference_chosen_logps"] = columns.pop("ref_chosen_logps")
    columns["old"] = columns.pop("rejected_logps")
    columns["rephrased_logps"] = np.full(20, -3.0)
    columns["checkpoint"] = np.full(20, 7)
    pairs = read_pairs(write(tmp_path, columns), names={"rejected_logps": "old"})
    assert pairs.others == ("rephrased_logps",)
    assert pairs.steps.tolist() == [7]
    assert (
        "Read old as rejected_logps, reference_chosen_logps as ref_chosen_logps, checkpoint as step."
        in pairs.input.notes
    )
