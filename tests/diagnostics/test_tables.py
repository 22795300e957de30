import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from didsim.diagnostics.tables import Column, read_table, rows_to_keep
from tests.diagnostics.table_cases import FORMATS, write

COLUMNS = (
    Column("logp", required=True, aliases=("old_logp",)),
    Column("length"),
    Column("prompt", "label"),
)
ROWS = {
    "logp": [-1.5, -2.0, -3.25],
    "length": [3, 4, 5],
    "prompt": ["b", "a", "b"],
    "text": ["one, two", 'quo"ted', "three"],
}


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_gives_the_same_table(format: str, tmp_path: Path) -> None:
    table = read_table(write(tmp_path, ROWS, format), COLUMNS)
    assert table.format == format
    assert table.rows == 3
    assert table.numbers["logp"].tolist() == [-1.5, -2.0, -3.25]
    assert table.numbers["length"].tolist() == [3.0, 4.0, 5.0]
    assert table.labels["prompt"].tolist() == [0, 1, 0]
    assert table.words["prompt"] == ["b", "a"]
    assert "text" not in table.numbers


@pytest.mark.parametrize("format", FORMATS)
def test_labels_may_be_integers(format: str, tmp_path: Path) -> None:
    table = read_table(write(tmp_path, ROWS | {"prompt": [7, 2**40, 7]}, format), COLUMNS)
    assert table.labels["prompt"].tolist() == [0, 1, 0]


@pytest.mark.parametrize("format", [one for one in FORMATS if one != "CSV"])
def test_a_missing_number_is_nan_and_a_missing_label_is_minus_one(format: str, tmp_path: Path) -> None:
    rows = {"logp": [None, -2.0, float("nan")], "prompt": ["b", None, "a"]}
    table = read_table(write(tmp_path, rows, format), COLUMNS)
    assert np.isnan(table.numbers["logp"]).tolist() == [True, False, True]
    assert table.labels["prompt"].tolist() == [0, -1, 1]


def test_names_are_mapped_and_known_aliases_are_found(tmp_path: Path) -> None:
    path = write(tmp_path, {"old_logp": [-1.0], "n": [2]})
    table = read_table(path, COLUMNS, {"length": "n"})
    assert table.found == {"logp": "old_logp", "length": "n"}


def test_a_misspelt_column_is_named_with_the_map_that_mends_it(tmp_path: Path) -> None:
    path = write(tmp_path, {"log_p": [-1.0], "other": [2]})
    with pytest.raises(ValueError, match="no column 'logp'; its columns are 'log_p', 'other'") as error:
        read_table(path, COLUMNS)
    assert str(error.value).endswith("The nearest names: --map logp=log_p")
    assert read_table(path, COLUMNS, {"logp": "log_p"}).numbers["logp"].tolist() == [-1.0]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"nothing": "log_p"}, "--map nothing=log_p: there is no 'nothing' to map; there are 'logp'"),
        ({"logp": "logp"}, "--map logp=logp: .* has no column 'logp'; the nearest is 'log_p'"),
        ({"logp": "xyz"}, "has no column 'xyz'; its columns are 'log_p'"),
    ],
)
def test_a_map_must_name_what_is_there(names: dict[str, str], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        read_table(write(tmp_path, {"log_p": [-1.0]}), COLUMNS, names)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"logp,length\n", "has no rows"),
        (b"\x80\x81\x82\x83\x84\x85", "is no table in JSONL, CSV, Parquet or Arrow"),
        (b"some words\nwithout a table\n", "is no table in JSONL, CSV, Parquet or Arrow"),
        (b'{"logp": -1}\n{"logp": -2', "line 2, is no JSON object"),
        (b'{"logp": -1}\n[1]\n', "line 2, is no JSON object"),
        (b'{"logp": "-1"}\n', "is no whole JSONL table"),
        (b"logp,length\n-1,2\nx,2\n", "is no whole CSV table: .*'x'"),
        (b"logp,length\n-1,2\n-1\n", "is no whole CSV table"),
        (b"PAR1 and nothing more", "is no whole Parquet table|cannot be read|is no table"),
        (b"ARROW1 and nothing more", "is no whole Arrow file table|cannot be read|is no table"),
    ],
)
def test_broken_files_are_refused(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "table"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_table(path, COLUMNS)


def _refusal(path: Path) -> str:
    """The message with which a file is refused, if it is. Any other error is a fault."""
    try:
        read_table(path, COLUMNS)
    except ValueError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_a_file_that_is_cut_off_is_refused_or_whole_up_to_there(
    format: str, share: float, tmp_path: Path
) -> None:
    path = write(tmp_path, ROWS, format)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    assert str(path) in _refusal(path) or read_table(path, COLUMNS).rows <= 3


def test_no_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be read: No such file"):
        read_table(tmp_path / "none", COLUMNS)
    with pytest.raises(ValueError, match="cannot be read: Is a directory"):
        read_table(tmp_path, COLUMNS)


def test_lists_and_words_are_no_numbers(tmp_path: Path) -> None:
    path = write(tmp_path, {"logp": [[-1.0, -2.0]]})
    with pytest.raises(ValueError, match="'logp' holds lists, one number for each token; sum them"):
        read_table(path, COLUMNS)
    with pytest.raises(ValueError, match="'logp' must hold numbers; it holds values of type string"):
        read_table(write(tmp_path, {"logp": ["a"]}), COLUMNS)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(st.data())
def test_a_damaged_file_never_gives_another_error(tmp_path: Path, data: st.DataObject) -> None:
    format = data.draw(st.sampled_from(list(FORMATS)))
    content = bytearray(write(tmp_path, ROWS, format).read_bytes())
    for _ in range(data.draw(st.integers(1, 5))):
        place = data.draw(st.integers(0, len(content) - 1))
        if data.draw(st.booleans()):
            content[place] = data.draw(st.integers(0, 255))
        else:
            del content[place : place + data.draw(st.integers(1, 20))]
        if not content:
            break
    path = tmp_path / "damaged"
    path.write_bytes(content)
    assert str(path) in _refusal(path) or read_table(path, COLUMNS).rows


def test_a_key_that_comes_late_or_is_missing_in_some_rows(tmp_path: Path) -> None:
    path = tmp_path / "late.jsonl"
    rows = [{"logp": -1.0}] + [{"logp": -2, "length": 3, "prompt": "a"}] * 2
    path.write_text("\n".join(map(json.dumps, rows)))
    table = read_table(path, COLUMNS)
    assert np.isnan(table.numbers["length"]).tolist() == [True, False, False]
    assert table.labels["prompt"].tolist() == [-1, 0, 0]


def test_many_batches_are_one_table(tmp_path: Path) -> None:
    rows = 600_000
    numbers = -np.arange(1.0, rows + 1)
    table = pa.table({"logp": numbers, "prompt": pa.array(np.arange(rows) % 3).cast(pa.string())})
    path = tmp_path / "long.parquet"
    pa.parquet.write_table(table, path, row_group_size=50_000)
    read = read_table(path, COLUMNS)
    assert (read.numbers["logp"] == numbers).all()
    assert (read.labels["prompt"] == np.arange(rows) % 3).all()


def test_impossible_numbers_are_counted_and_their_rows_named(tmp_path: Path) -> None:
    logp = [-1.0, 0.5, float("nan"), -2.0, float("inf"), 0.1, float("-inf"), 0.2, 0.3, 0.4, 0.6]
    path = write(tmp_path, {"logp": logp, "length": [1, 1, 1, 0] + [1] * 7})
    table = read_table(path, COLUMNS)
    with pytest.raises(ValueError, match="impossible numbers in 10 of 11 rows") as error:
        rows_to_keep(table, False, positive=("length",))
    for part in (
        "`logp` is missing or not finite in 3 (rows 3, 5, 7)",
        "`logp` is positive in 6 (rows 2, 6, 8, 9, 10, …)",
        "`length` is not positive in 1 (rows 4)",
        "--drop-bad goes on without these rows",
    ):
        assert part in str(error.value)
    assert np.flatnonzero(rows_to_keep(table, True, positive=("length",))).tolist() == [0]
    with pytest.raises(ValueError, match="has no row with possible numbers"):
        rows_to_keep(table._replace(numbers={"logp": np.ones(11)}), True)


def test_without_pyarrow_the_error_names_the_extra(tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules['pyarrow'] = None\n"
        "from didsim.diagnostics.tables import read_table\n"
        "read_table('a', ())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stderr.strip().endswith("it comes with pip install 'didsim[parquet]'")
