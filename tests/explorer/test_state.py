"""What a state takes and refuses."""

import msgspec
import pytest

from didsim.explorer.answers import answer, settings
from didsim.explorer.presets import PRESETS
from didsim.explorer.state import State, read_state
from didsim.preferences import REJECTED
from didsim.sweeps.makers import REFERENCES, TARGETS

FIRST = next(iter(PRESETS.values()))().state


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_survives_being_written_and_read(name: str) -> None:
    state = PRESETS[name]().state
    assert read_state(msgspec.json.encode(state)) == state


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"beta": 0}, "beta: Expected `float` >= 0.01"),
        ({"beta": None}, "beta: Expected `float`"),
        ({"version": 2}, "version"),
        ({"pairs": 61}, "pairs"),
        ({"chosen": [0.5, 0.5, 0.0, 0.0]}, "chosen"),
        ({"chosen": [0.5, 0.5]}, "chosen"),
        ({"chosen": [0.2] * 5}, "`chosen` must have a share for each of 4 names; got 5"),
        ({"target": [0.5, 0.5]}, "`target` must have a share for each of 4 names; got 2"),
        ({"names": ["A", "A", "B", "C"]}, "`names` must be different"),
        ({"names": ["A,B", "C", "D", "E"]}, "names"),
        ({"names": ["", "C", "D", "E"]}, "names"),
        ({"vocabulary": 7, "length": 3}, "at most 256 sequences; got 7^3 = 343"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_a_wrong_field_is_named(fields: dict[str, object], told: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 -- `told` is looked for below
        read_state(msgspec.json.encode({**msgspec.to_builtins(FIRST), **fields}))
    assert told in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"[1]", b"{", b"\xff"])
def test_what_is_no_state_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="state"):
        read_state(data)


@pytest.mark.parametrize(
    ("field", "question"),
    [
        ("objective", "limit"),
        ("objective", "program"),
        ("family", "sequences"),
        ("update", "sequences"),
        ("sampler", "sequences"),
    ],
)
def test_an_unknown_name_is_refused_with_those_that_there_are(field: str, question: str) -> None:
    state = msgspec.structs.replace(
        FIRST, tab="sequences" if question == "sequences" else "responses", **{field: "nothing"}
    )
    with pytest.raises(ValueError, match="nothing"):
        answer(question, state)
    with pytest.raises(ValueError, match="question"):
        answer("nothing", FIRST)


def test_the_schema_has_every_field_and_every_choice() -> None:
    schema = settings()["schema"]
    assert set(schema) == set(State.__struct_fields__)
    assert schema["family"]["enum"] == list(REFERENCES)
    assert schema["update"]["enum"] == list(TARGETS)
    assert schema["sampler"]["enum"] == list(REJECTED)
    assert len(REJECTED) == 9
    assert {"dpo", "ipo", "simpo", "slic", "kto"} <= set(schema["objective"]["enum"])
    for field in ("objective", "family", "update", "sampler"):
        assert getattr(FIRST, field) in schema[field]["enum"]
