"""The site: it builds without a warning, its links lead somewhere, and nothing public is missing from it."""

import inspect
import os
import re
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

import didsim
from didsim.theory import CHECKS
from docs.macros.objectives import objective_table

ROOT = Path(__file__).parents[2]


def build(folder: Path, site: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(site)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    built = build(ROOT, folder)
    assert built.returncode == 0, built.stderr
    assert built.stderr == ""
    return folder


@pytest.mark.slow
def test_it_builds_without_a_warning_or_a_broken_link(site: Path) -> None:
    assert len(list(site.rglob("*.html"))) > 30


@pytest.mark.slow
def test_a_broken_link_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text("# A\n\n[b](#nowhere)\n\n<a href='c.html'>c</a>\n")
    settings = (ROOT / "mkdocs.yml").read_text()
    settings = re.sub(r"^nav:.*", "", settings, flags=re.MULTILINE | re.DOTALL)
    settings = re.sub(r"^(hooks:| {2}- macros:).*\n", "", settings, flags=re.MULTILINE)
    (tmp_path / "mkdocs.yml").write_text(settings)
    assert build(tmp_path, tmp_path / "site").returncode != 0
    (tmp_path / "docs" / "index.md").write_text("# A\n")
    assert build(tmp_path, tmp_path / "site").returncode == 0


@pytest.mark.slow
def test_pages_ask_nothing_of_other_machines(site: Path) -> None:
    for page in site.rglob("*.html"):
        asked = re.findall(r'<(?:script|img|iframe|source)[^>]*\bsrc="(https?:[^"]*)"', page.read_text())
        asked += re.findall(r'<link[^>]*rel="stylesheet"[^>]*href="(https?:[^"]*)"', page.read_text())
        assert asked == [], page


@pytest.mark.slow
def test_every_public_name_has_its_place_in_the_reference(site: Path) -> None:
    _, _, packed = (site / "objects.inv").read_bytes().partition(b"zlib.\n")
    described = {line.split(" ")[0] for line in zlib.decompress(packed).decode().splitlines()}
    missing = []
    for name in dir(didsim):
        thing = getattr(didsim, name)
        if name.startswith("_") or inspect.ismodule(thing):
            continue
        places = [one for one in described if one.split(".")[-1] == name]
        if hasattr(thing, "__qualname__"):
            places = [one for one in places if one == f"{thing.__module__}.{thing.__qualname__}"]
        if not places:
            missing.append(name)
    assert missing == []


@pytest.mark.slow
def test_docstrings_are_rendered_in_full(site: Path) -> None:
    """A docstring that is misread leaves its marks on the page."""
    for page in (site / "reference").glob("*.html"):
        text = page.read_text()
        assert "<blockquote>" not in text, page  # an example without its heading
        assert not re.search(r"<p>(Args|Returns|Raises|Attributes|Examples):", text), page


def test_the_theory_states_every_check_once() -> None:
    page = (ROOT / "docs" / "theory.md").read_text()
    assert sorted(re.findall(r'\{\{ check\("(\w+)"\) \}\}', page)) == sorted(CHECKS)


def test_every_exact_statement_has_a_proof() -> None:
    page = (ROOT / "docs" / "theory.md").read_text()
    without = {"sums_of_a_double_loop"}  # a test of the program, not a theorem
    for name, one in CHECKS.items():
        if one.kind == "exact" and name not in without:
            _, _, rest = page.partition(f'{{{{ check("{name}") }}}}\n\n')
            assert rest.startswith("*Proof.*"), name


def test_every_objective_has_a_row_and_trainers_names_are_read_off_docstrings() -> None:
    rows = re.findall(r"^\| \[`(\w+)\(.*$", objective_table(), flags=re.MULTILINE)
    assert sorted(rows) == sorted(didsim.OBJECTIVES)
    row = {line.split("`")[1].split("(")[0]: line for line in objective_table().splitlines() if "[`" in line}
    assert '| `DPOConfig(loss_type="ipo", beta=tau)`, which is `length_normalised=True` here |' in row["ipo"]
    assert "`CPOConfig(beta)`, with a mean over tokens in the likelihood term" in row["cpo"]
    assert "Config" not in row["chi_po"]
