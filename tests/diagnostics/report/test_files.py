"""Reports: the page, Markdown, JSON, pictures, the terminal, and the command that writes them."""

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from typer.testing import CliRunner

from didsim import diagnose
from didsim.cli import app
from didsim.diagnostics import Diagnosis, Finding, Grade, Number, Pictures, write_report
from tests.diagnostics.log_cases import TEXT, simulated, written

RUNNER = CliRunner()
HOSTILE = '<script>alert("x")</script> | \x1b[31m {{ 7 * 7 }} `'


def output_of(*arguments: str | Path, status: int = 0) -> str:
    result = RUNNER.invoke(app, ["diagnose", *map(str, arguments)])
    assert result.exit_code == status, result.output
    return result.output


class Page(HTMLParser):
    """The tags of a page that are open at its end, all addresses it names, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "img", "source", "br", "link"):
            self.open.append(tag)
        self.addresses += [value or "" for name, value in attributes if name in ("src", "href", "srcset")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def displaced(tmp_path: Path) -> Path:
    return written(tmp_path, simulated(chosen=-2.5, rejected=-3.6, spread=1.5))


def test_the_terminal_begins_with_the_grade_and_the_verdict(displaced: Path) -> None:
    printed = " ".join(output_of(displaced, "--beta", "0.1").split())
    assert printed.startswith("LOOK The chosen responses are displaced: on training pairs they end 23")
    for part in (
        "What it rests on",
        "Why: With π_w the distribution of the chosen",
        "What these files cannot tell",
        "--pairs",
        "63 rows",
    ):
        assert part in printed


@pytest.mark.parametrize(
    ("rows", "grade", "words"),
    [
        (simulated(), Grade.FINE, "Healthy: on training pairs the chosen responses end 4.43 nats"),
        (simulated(chosen=-2.5, rejected=-3.6, spread=1.5), Grade.LOOK, "The chosen responses are displaced"),
        (simulated(chosen=-9.0, rejected=-19.0), Grade.WRONG, "both responses collapse together"),
    ],
    ids=["healthy", "displaced", "collapsed"],
)
@pytest.mark.parametrize("form", TEXT)
def test_three_made_files(
    rows: list[dict[str, float]], grade: Grade, words: str, form: str, tmp_path: Path
) -> None:
    diagnosis = diagnose(written(tmp_path, rows, form), beta=0.1)
    assert diagnosis.grade is grade
    assert words in diagnosis.verdict


def test_a_report_is_a_folder_of_files_that_need_nothing_else(displaced: Path, tmp_path: Path) -> None:
    out = tmp_path / "report"
    assert f"Written to {out / 'report.html'}" in output_of(displaced, "--beta", "0.1", "--out", out).replace(
        "\n", ""
    )
    assert {path.name for path in out.iterdir()} == {"report.html", "report.md", "report.json", "log-1.png"}
    page = Page((out / "report.html").read_text())
    assert page.open == []
    assert len(page.addresses) == 2
    assert all(address.startswith("data:image/png;base64,") for address in page.addresses)
    source = (out / "report.html").read_text()
    assert "prefers-color-scheme: dark" in source
    assert "http" not in source.replace("</html>", "")
    found = json.loads((out / "report.json").read_text())
    diagnosis = diagnose(displaced, beta=0.1)
    assert (found["grade"], found["verdict"]) == ("look", diagnosis.verdict)
    assert [one["name"] for one in found["findings"]] == [one.name for one in diagnosis.findings]
    number = diagnosis.findings[0].numbers["chosen displacement, training pairs"]
    assert found["findings"][0]["numbers"]["chosen displacement, training pairs"]["low"] == number.low
    markdown = (out / "report.md").read_text()
    assert markdown.startswith(f"# LOOK: {diagnosis.verdict}\n")
    assert "![" in markdown
    assert "](log-1.png)" in markdown
    for finding in diagnosis.findings:
        assert finding.sentence in page.text
        assert finding.sentence in markdown
    # A second report takes the place of the first; other files in the folder stay.
    (out / "mine.txt").write_text("mine")
    output_of(displaced, "--out", out)
    assert (out / "mine.txt").read_text() == "mine"
    assert (
        json.loads((out / "report.json").read_text())["findings"][0]["numbers"]
        != found["findings"][0]["numbers"]
    )


def test_text_of_others_is_text_in_every_report(tmp_path: Path) -> None:
    finding = Finding(
        name="hostile",
        grade=Grade.LOOK,
        sentence=HOSTILE,
        reason=HOSTILE,
        advice=HOSTILE,
        numbers={HOSTILE: Number(value=1.0, no_interval=HOSTILE)},
    )
    picture = Pictures(draw=lambda: {"odd": Figure()}, captions={"odd": HOSTILE})
    write_report(
        Diagnosis(inputs=(), findings=(finding,), unknowns=(), pictures=(picture,)), tmp_path / "report"
    )
    source = (tmp_path / "report" / "report.html").read_text()
    assert "<script" not in source
    assert "\x1b" not in source
    assert "{{ 7 * 7 }}" in source
    assert Page(source).open == []
    table = [
        line for line in (tmp_path / "report" / "report.md").read_text().splitlines() if line.startswith("|")
    ]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in table} == {4}


def test_a_report_that_fails_leaves_nothing(displaced: Path, tmp_path: Path) -> None:
    def fail() -> dict[str, Figure]:
        raise RuntimeError("no ink")

    diagnosis = diagnose(displaced)
    broken = Diagnosis(
        inputs=diagnosis.inputs,
        findings=diagnosis.findings,
        unknowns=(),
        pictures=(*diagnosis.pictures, Pictures(draw=fail, captions={})),
    )
    with pytest.raises(RuntimeError, match="no ink"):
        write_report(broken, tmp_path / "report")
    assert [path.name for path in tmp_path.iterdir()] == ["log"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent.json"], "`files` must be a file; absent.json is not there"),
        (["."], "`files` must be a file; . is a folder"),
        ([], "`files` must be at least one file"),
        (["LOG", "--beta", "0"], "`beta` must be a positive number; got 0.0"),
        (["LOG", "--beta", "nan"], "`beta` must be a positive number"),
        (["LOG", "--loss-type", "sigmod"], "did you mean 'sigmoid'?"),
        (["LOG", "--map", "chosen_reward"], "--map must be ours=theirs; got 'chosen_reward'"),
        (["LOG", "--map", "chosen_rewards=x"], "did you mean 'chosen_reward'?"),
        (["LOG", "--map", "margin=x"], "has no 'x'"),
        (["LOG", "--out", "LOG"], "`out` must be a folder"),
        (["LOG", "--out", "a/b"], "`out` must be in a folder that is there"),
        (["LOG", "--out", "s3://a/b"], "`out` must be a path on this machine"),
        (["LOG", "--pairs", "absent.csv"], "`pairs` must be a file; absent.csv is not there"),
        (["EMPTY", "--out", "report"], "empty is empty"),
    ],
)
def test_wrong_arguments_end_with_status_2_and_leave_nothing(
    arguments: list[str], message: str, displaced: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(displaced.parent)
    Path("empty").write_text("")
    given = [{"LOG": "log", "EMPTY": "empty"}.get(one, one) for one in arguments]
    printed = output_of(*given, status=2)
    assert message in printed
    assert printed.startswith("Error: ")
    assert sorted(path.name for path in Path().iterdir()) == ["empty", "log"]


def test_several_logs_are_told_apart(displaced: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(TEXT["CSV"](simulated()))
    diagnosis = diagnose([other, displaced], beta=0.1)
    assert diagnosis.verdict.startswith(f"{displaced}: The chosen responses")
    assert [source.path for source in diagnosis.inputs] == [str(other), str(displaced)]
    assert [*diagnosis.pictures[0].captions, *diagnosis.pictures[1].captions] == ["log-1", "log-2"]


LINES = st.sampled_from(
    [
        "{'loss': 0.6, 'rewards/chosen': -0.1, 'rewards/rejected': 0.3}",
        '{"loss": 1e999, "rewards/margins": "x", "step": null}',
        "{'loss': nan, 'rewards/chosen': 9e307, 'rewards/rejected': -9e307, 'epoch': inf}",
        "| Step | Training Loss | Rewards/chosen |",
        "|---|---|---|",
        "| 1 | 0.3 | 1e400 |",
        "step,rewards/chosen,loss",
        '1,"2',
        "1,,-0",
        '{"log_history": [{"rewards/chosen": true, "loss": [1], "step": "9"}]}',
        '{"chosen_logps": {"rejected_logps": 1}, "rewards/chosen": 0}',
        "Step 3 | loss:0.5 rewards/chosen:nan",
        "\x00\x1b[0m",
        "",
    ]
)


TABLES = (b"PAR1", b"ARROW1", b"\xff\xff\xff\xff")
FILES = st.one_of(
    st.binary(max_size=200), st.lists(LINES, max_size=6).map(lambda lines: "\n".join(lines).encode())
)


@settings(max_examples=60)
@given(FILES.filter(lambda data: not data.startswith(TABLES)))
@example(b"\xff\xfe{'rewards/chosen': 1}")
@example(b'\x18\x00\x00\x00\x00\x00\x00\x00\xa3\x7fK"\x09brain.Event:2')
def test_no_file_gives_a_traceback(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed"
    path.write_bytes(data)
    refused(path)


@pytest.mark.parametrize("data", [*TABLES, b"chosen_logps,rejected_logps\n1,2\n"])
def test_no_damaged_table_gives_a_traceback(data: bytes, tmp_path: Path) -> None:
    pytest.importorskip("didsim.diagnostics.pairs.diagnosis")
    (tmp_path / "table").write_bytes(data)
    refused(tmp_path / "table")


@settings(max_examples=40)
@given(st.sampled_from(sorted(TEXT)), st.data())
def test_no_damaged_log_gives_a_traceback(
    tmp_path_factory: pytest.TempPathFactory, form: str, data: st.DataObject
) -> None:
    whole = TEXT[form](simulated(6))
    start = data.draw(st.integers(0, len(whole)))
    end = data.draw(st.integers(start, min(start + 30, len(whole))))
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(whole[:start] + data.draw(st.binary(max_size=8)) + whole[end:])
    refused(path)


def refused(path: Path) -> None:
    """The command either makes a diagnosis or says in a line why it cannot."""
    result = RUNNER.invoke(app, ["diagnose", str(path)])
    assert result.exit_code in (0, 2), result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
    if result.exit_code == 2:
        assert result.output.startswith("Error: ")
        assert len(result.output) < 2000


def test_a_reader_who_leaves_loses_no_report(displaced: Path, tmp_path: Path) -> None:
    """As `head` does, which closes the pipe after a few lines."""
    command = [sys.executable, "-m", "didsim", "diagnose", str(displaced), "--out", str(tmp_path / "report")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout
        process.stdout.close()
        process.wait()
    assert (tmp_path / "report" / "report.html").stat().st_size > 0
