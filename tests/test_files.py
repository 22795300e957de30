from pathlib import Path

import pytest

from didsim._files import written_whole


def test_files_take_their_places_together(tmp_path: Path) -> None:
    paths = [tmp_path / "one.txt", tmp_path / "two.txt"]
    paths[0].write_text("old")
    with written_whole(*paths) as drafts:
        for draft, text in zip(drafts, ("1", "2"), strict=True):
            draft.write_text(text)
        assert paths[0].read_text() == "old"
        assert [draft.name for draft in drafts] == ["one.txt", "two.txt"]
    assert [path.read_text() for path in paths] == ["1", "2"]
    assert sorted(tmp_path.iterdir()) == paths


def test_an_error_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "one.txt"
    path.write_text("old")

    def fail() -> None:
        with written_whole(path) as (draft,):
            draft.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_is_written_whole_and_replaces_none_that_is_full(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    with written_whole(path) as (draft,):
        draft.mkdir()
        (draft / "in it").write_text("1")
    assert (path / "in it").read_text() == "1"
    with pytest.raises(OSError, match="folder"), written_whole(path) as (draft,):
        draft.mkdir()
    assert (path / "in it").read_text() == "1"


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="missing"), written_whole(tmp_path / "missing" / "one.txt"):
        pass
