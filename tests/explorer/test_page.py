"""The page in a real browser: what a reader does with it, held against the library."""

import json
import math
import re
import time
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import didsim
from didsim.explorer.presets import PRESETS
from didsim.explorer.state import State
from tests.explorer.conftest import Open, Served
from tests.explorer.reading import SLOWED, bar, counter, settled

pytestmark = pytest.mark.slow

REFERENCE, CHOSEN, REJECTED = ("reference", "chosen", "rejected")


def logs(shares: Any) -> Any:
    return jnp.log(jnp.array(shares) / sum(shares))


def displacement(state: dict[str, Any]) -> float:
    """The counter by the library: the mean change of the log-likelihood of chosen responses."""
    reference, chosen = logs(state["reference"]), logs(state["chosen"])
    problem = didsim.Contrastive(chosen, logs(state["rejected"]))
    limit = didsim.fixed_point(didsim.dpo(state["beta"]), reference, problem)
    return float(didsim.expectation(chosen, limit - reference))


def shares_of(page: Any, row: str) -> list[float]:
    """The shares of a row, as the link holds them; those of the preset if it does not."""
    settled(page)
    query = page.evaluate("Object.fromEntries(new URLSearchParams(location.search))")
    state: State = PRESETS[query.get("preset") or "twelvefold"]().state
    return [float(one) for one in query[row].split(",")] if row in query else getattr(state, row)


def test_it_is_ready_in_time(opened: Open, served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    """Cold: the server's start, and a page that can be used. Warm: from the address to such a page."""
    start = time.perf_counter()
    page = opened()
    cold = served.seconds + time.perf_counter() - start
    warm = min(one.evaluate("performance.now()") / 1000 for one in (opened(), opened()))
    with capsys.disabled():
        print(f"\n  page ready {cold:.1f} s after the command, {warm:.2f} s after its address was opened")
    assert warm < SLOWED * 3
    assert cold < SLOWED * 10
    assert page.inner_text("h1") == "didsim explorer"
    assert counter(page) == -0.82


def test_a_bar_is_dragged_with_the_mouse(opened: Open) -> None:
    page = opened()
    box = bar(page, CHOSEN, "Best").locator(".handle").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x, y - 30, steps=5)
    page.mouse.up()
    rows = {row: shares_of(page, row) for row in (REFERENCE, CHOSEN, REJECTED)}
    assert rows[CHOSEN][0] == pytest.approx(0.05 + 30 / 83.2 * 0.75, abs=0.01)
    assert sum(rows[CHOSEN]) == pytest.approx(1, abs=1e-5)
    # The others keep their proportions.
    assert rows[CHOSEN][1] / rows[CHOSEN][3] == pytest.approx(0.25 / 0.3, abs=1e-4)
    assert counter(page) == pytest.approx(displacement({**rows, "beta": 0.1}), abs=0.006)
    assert bar(page, CHOSEN, "Best").get_attribute("aria-valuenow") == f"{100 * rows[CHOSEN][0]:.1f}"


def test_a_bar_is_dragged_with_a_finger(browser: Any, served: Served) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 900}, has_touch=True)
    page = context.new_page()
    page.goto(served.url)
    page.wait_for_selector("html[data-ready]")
    box = bar(page, REFERENCE, "Best").locator(".handle").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    client = context.new_cdp_session(page)
    for kind, points in (
        ("touchStart", [{"x": x, "y": y}]),
        ("touchMove", [{"x": x, "y": y - 15}]),
        ("touchMove", [{"x": x, "y": y - 25}]),
        ("touchEnd", []),
    ):
        client.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    # 25 of 83 pixels, of a scale that ends at 0.75
    assert shares_of(page, REFERENCE)[0] == pytest.approx(0.05 + 25 / 83.2 * 0.75, abs=0.01)
    assert page.evaluate("scrollY") == 0
    context.close()


def test_a_bar_is_moved_with_the_keyboard(opened: Open) -> None:
    page = opened()
    moved = bar(page, REJECTED, "Fair")
    moved.focus()
    for key, least in (("ArrowUp", 0.43), ("PageDown", 0.33), ("Home", 0.001)):
        before = float(moved.get_attribute("aria-valuenow"))
        page.keyboard.press(key)
        after = float(moved.get_attribute("aria-valuenow"))
        assert (after > before) == (key == "ArrowUp")
        assert after == pytest.approx(100 * least, abs=0.3)
    page.keyboard.press("PageUp")
    rows = {row: shares_of(page, row) for row in (REFERENCE, CHOSEN, REJECTED)}
    assert counter(page) == pytest.approx(displacement({**rows, "beta": 0.1}), abs=0.006)


def test_the_closed_form_in_the_browser_is_that_of_the_library(opened: Open) -> None:
    """The limit and both divergences, on random states, from gentle to nearly certain ones."""
    page = opened()
    rng = np.random.default_rng(0)
    states = []
    for k in range(40):
        size, scale = (4, 8)[k % 2], (0.3, 1.0, 3.0)[k % 3]
        rows = [np.exp(scale * rng.normal(size=size)) for _ in range(3)]
        states.append([*[row / row.sum() for row in rows], float(10 ** rng.uniform(-2, 1))])
    found = page.evaluate(
        """async (states) => {
            const { logs, limitOf, counted } = await import("./bars.js");
            return states.map(([r, w, l, beta]) => {
                const limit = limitOf(logs(r), logs(w), logs(l), beta);
                return [limit, counted(logs(r), logs(w), limit)];
            });
        }""",
        json.loads(json.dumps([[*[p.tolist() for p in state[:3]], state[3]] for state in states])),
    )
    for (reference, chosen, rejected, beta), (limit, numbers) in zip(states, found, strict=True):
        problem = didsim.Contrastive(logs(chosen), logs(rejected))
        expected = didsim.fixed_point(didsim.dpo(beta), logs(reference), problem)
        scale = max(1.0, float(jnp.abs(expected).max()))
        np.testing.assert_allclose(np.array(limit), expected, rtol=0, atol=1e-12 * scale)
        far = float(didsim.kl(logs(chosen), expected))
        assert numbers["kl_chosen_learned"] == pytest.approx(far, rel=1e-12, abs=1e-12 * scale)
        near = float(didsim.kl(logs(chosen), logs(reference)))
        assert numbers["kl_chosen_reference"] == pytest.approx(near, rel=1e-12, abs=1e-12)
        assert numbers["displacement"] == pytest.approx(near - far, abs=1e-12 * scale)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_shows_its_state_and_a_whole_sentence(opened: Open, name: str) -> None:
    page = opened()
    preset = PRESETS[name]()
    page.click(f"#presets button[data-preset={name}]")
    settled(page)
    for row in (REFERENCE, CHOSEN, REJECTED):
        for one, share in zip(preset.state.names, getattr(preset.state, row), strict=True):
            assert bar(page, row, one).get_attribute("aria-valuenow") == f"{100 * share:.1f}"
    notice = page.inner_text("#notice span")
    assert len(notice) > 60
    assert not re.search(r"[{}]|NaN|undefined|null|Infinity", notice), notice
    if preset.state.objective == "dpo" and not preset.state.pairs:
        expected = displacement({f: getattr(preset.state, f) for f in (REFERENCE, CHOSEN, REJECTED, "beta")})
        assert counter(page) == pytest.approx(expected, abs=0.006)


def test_sentences_follow_the_state(opened: Open) -> None:
    page = opened("v=1&preset=half_way")
    assert "so that they rise" in page.inner_text("#notice span")
    bar(page, CHOSEN, "Best").focus()
    page.keyboard.press("PageDown")
    page.keyboard.press("PageDown")
    assert "so that they fall" in page.inner_text("#notice span")
    page.click("#presets button[data-preset=sixty]")
    settled(page)
    assert "falls without end" in page.inner_text("#notice span")
    assert "\u2212∞ nats" in page.inner_text("#counter")
    page.locator("#pairs").fill("8")
    settled(page)
    assert "has won and lost often enough" in page.inner_text("#notice span")


def test_a_link_holds_the_state(opened: Open) -> None:
    page = opened("v=1&preset=overshoot")
    page.select_option("#objective", "ipo")
    page.locator("#beta").fill(str(math.log10(0.5)))
    page.fill("#names", "Right, Near, Far, Wrong")
    page.press("#names", "Enter")
    page.click("#more")
    page.check("#predict")
    page.click("[data-guess='-1']")
    settled(page)
    page.click("#copy-link")
    page.wait_for_selector("#copy-link:has-text('Copied')")
    link = page.evaluate("navigator.clipboard.readText()")
    again = opened(link.partition("?")[2])
    assert again.input_value("#objective") == "ipo"
    assert again.inner_text("#beta-value") == "0.5"
    assert again.is_checked("#predict")
    again.click("[data-guess='-1']")
    settled(again)
    for row in (REFERENCE, CHOSEN, REJECTED):
        for name in ("Right", "Near", "Far", "Wrong", "E"):
            now = bar(again, row, name).get_attribute("aria-valuenow")
            assert now == bar(page, row, name).get_attribute("aria-valuenow")
    assert counter(again) == counter(page)


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("v=7", "version 7"),
        ("v=1&beta=99", "beta must be from 0.01 to 10; got 99"),
        ("v=1&beta=x", "beta must be a number"),
        ("v=1&pairs=61", "pairs must be one of"),
        ("v=1&objective=dop", "objective must be one of"),
        ("v=1&names=A,B,C", "names must have 4 to 8 entries; got 3"),
        ("v=1&names=A,B,C,D,E", "reference must have an entry for each of 5 names"),
        ("v=1&names=A,A,B,C", "different from each other"),
        ("v=1&chosen=0,.5,.3,.2", "chosen must be from 0.000001 to 1; got 0"),
        ("v=1&vocabulary=16&length=3", "at most 256 sequences"),
        ("v=1&preset=none", "preset must be one of"),
        ("v=1&colour=red", "unknown field, colour"),
    ],
)
def test_a_wrong_link_is_told_on_the_page(opened: Open, query: str, told: str) -> None:
    page = opened(query)
    assert told in page.inner_text("#message").replace("1e-6", "0.000001")
    assert counter(page) == -0.82
    page.click("#message button")
    assert page.locator("#message").is_hidden()


def test_predict_first_hides_all_that_tells(opened: Open) -> None:
    page = opened("v=1&preset=twelvefold&predict=true")
    settled(page)
    assert page.inner_text("#counter") == ""
    assert page.locator("#notice").is_hidden()
    assert page.locator("#play").is_disabled()
    assert page.locator('svg.bars [aria-label="learned, Best: not shown"]').count() == 1
    assert page.locator("#curve-displacement path.ghost").count() == 0
    page.click("[data-guess='1']")
    assert "Not so: it falls" in page.inner_text("#guessed")
    assert counter(page) == -0.82
    assert page.locator("#play").is_enabled()
    page.click("#presets button[data-preset=same]")
    assert page.inner_text("#counter") == ""
    page.click("[data-guess='-1']")
    assert "Right: it falls" in page.inner_text("#guessed")
