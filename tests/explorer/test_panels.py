"""The panels beside the bars, in a real browser."""

import io
import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from PIL import Image

from didsim.explorer.limits import limit
from didsim.explorer.presets import PRESETS
from didsim.explorer.program import program
from didsim.explorer.state import State
from didsim.explorer.trained import EVERY, training
from tests.explorer.conftest import Open
from tests.explorer.reading import SLOWED, bar, counter, settled

pytestmark = pytest.mark.slow

DRAWN_IN = 33  # milliseconds
ANSWERED_IN = 300
LOG = {
    "log_history": [
        {"step": k, "loss": 0.7 - 0.01 * k, "logps/chosen": -40.0 - k, "rewards/chosen": -0.1 * k}
        for k in range(1, 11)
    ]
}


def state(**fields: Any) -> State:
    return msgspec.structs.replace(next(iter(PRESETS.values()))().state, **fields)


def test_training_is_played_paused_stepped_and_restarted(opened: Open) -> None:
    page = opened()
    settled(page)
    run = training(state())
    page.click("#step")
    page.click("#step")
    assert page.inner_text("#at") == f"step {2 * EVERY}"
    share = run["policies"][2][0]
    assert page.locator(f'svg.bars [aria-label^="learned, Best: {100 * share:.1f}%"]').count() == 1
    page.click("#play")
    page.wait_for_selector(r"#at:text-matches('step \\d\\d')")
    page.click("#play")
    at = page.input_value("#scrub")
    page.wait_for_timeout(200)
    assert page.input_value("#scrub") == at
    page.click("#restart")
    assert page.inner_text("#at") == "step 0"
    page.locator("#scrub").fill("100")
    told = page.locator("#curve-displacement svg").get_attribute("aria-label").replace("\u2212", "-")
    assert f"{run['displacement'][-1]:.3f}" in told
    page.select_option("#optimizer", "sgd")
    settled(page)
    assert page.inner_text("#at") == "step 0"


def test_a_run_cannot_be_played_until_it_is_that_of_the_state(opened: Open) -> None:
    page = opened("v=1&preset=sixty")
    settled(page)
    before = page.inner_text("#pairs-words")
    page.click("#play")
    held: list[Any] = []
    page.route("**/ask/training", lambda route: held.append(route))
    page.select_option("#optimizer", "sgd")
    for control in ("#play", "#step", "#restart", "#scrub"):
        assert page.locator(control).is_disabled(), control
    page.wait_for_selector("#pairs-card:not(.waiting)")
    page.wait_for_timeout(100)  # a film that went on would have moved by now
    assert page.inner_text("#at") == "step 0"
    # Which share of new pairs is ordered rightly is told once its run is there.
    assert "Of new pairs" in before
    assert "Of new pairs" not in page.inner_text("#pairs-words")
    assert page.locator("#training-card.waiting").count() == 1
    for route in held:
        route.continue_()
    settled(page)
    assert "Of new pairs" in page.inner_text("#pairs-words")
    page.click("#step")
    assert page.inner_text("#at") == f"step {EVERY}"


def test_finite_pairs_name_what_they_do_not_identify(opened: Open) -> None:
    page = opened("v=1&preset=sixty")
    settled(page)
    expected = limit(PRESETS["sixty"]().state)
    words = page.inner_text("#pairs-words")
    assert "Best is not tied to the others" in words
    assert expected["unidentified"] == ["Best"]
    assert page.locator("svg.graph .node.open").count() == 1
    counts = sorted(int(text) for text in page.locator("svg.graph .count").all_text_contents())
    table = np.array(expected["counts"])
    assert counts == sorted(table[~np.eye(4, dtype=bool) & (table > 0)].tolist())
    page.click("#draw-again")
    settled(page)
    assert page.inner_text("#pairs-words") != words or page.input_value("#pairs") == "2"


def test_an_objective_is_switched(opened: Open) -> None:
    page = opened()
    page.select_option("#objective", "ipo")
    settled(page)
    assert counter(page) == pytest.approx(limit(state(objective="ipo"))["displacement"], abs=0.006)
    assert "ipo" in page.inner_text("#objective-help")
    assert page.locator("#map circle").count() == 4


def test_token_sequences_have_a_tab(opened: Open) -> None:
    page = opened()
    page.click("#tab-sequences")
    settled(page)
    assert page.locator("#responses").is_hidden()
    assert "DPO ends at the target" in page.inner_text("#space-words")
    assert page.locator("#law circle").count() == 64
    page.select_option("#sampler", "uniform")
    settled(page)
    assert "break the power law" in page.inner_text("#space-words")
    page.locator("#length").fill("8")
    settled(page)
    assert page.inner_text("#vocabulary-value") == "2"
    assert "2^8 = 256" in page.inner_text("#space-facts")


def test_a_log_is_drawn_over_the_simulated_curve(opened: Open, tmp_path: Path) -> None:
    page = opened(refusals=True)
    settled(page)
    log = tmp_path / "trainer_state.json"
    log.write_text(json.dumps(LOG))
    page.set_input_files("#log-file", log)
    page.wait_for_selector("#log-words:has-text('10 points, step 1 to 10')")
    assert page.locator("#own path.line").count() == 2
    no_log = tmp_path / "notes.txt"
    no_log.write_text("milk, eggs\n")
    page.evaluate(
        """(text) => {
            const moved = new DataTransfer();
            moved.items.add(new File([text], "notes.txt"));
            document.dispatchEvent(new DragEvent("drop", { dataTransfer: moved, cancelable: true }));
        }""",
        no_log.read_text(),
    )
    page.wait_for_selector("#message:not([hidden])")
    assert "notes.txt (CSV) holds no preference metric" in page.inner_text("#message")
    page.fill("#log-text", "\n".join(str(one) for one in LOG["log_history"]))
    page.press("#log-text", "Tab")
    page.wait_for_selector("#log-words:has-text('pasted text (console)')")
    assert page.locator("#own path.line").count() == 2


def test_a_state_leaves_as_python_a_table_and_a_picture(opened: Open) -> None:
    page = opened("v=1&preset=half_way")
    settled(page)
    page.click("#copy-python")
    page.wait_for_selector("#copy-python:has-text('Copied')")
    # tests/explorer/test_program.py runs such programs.
    assert page.evaluate("navigator.clipboard.readText()") == program(PRESETS["half_way"]().state)
    with page.expect_download() as table:
        page.click("#save-csv")
    rows = [line.split(",") for line in table.value.path().read_text().splitlines()]
    assert rows[0] == ["response", "reference", "chosen", "rejected", "learned"]
    assert float(rows[1][4]) == pytest.approx(0.6, abs=1e-4)
    with page.expect_download() as picture:
        page.click("#save-png")
    drawn = np.asarray(Image.open(io.BytesIO(picture.value.path().read_bytes())).convert("RGB"))
    assert len(np.unique(drawn.reshape(-1, 3), axis=0)) > 20
    assert np.all(drawn == (0, 114, 178), axis=-1).any()  # a bar that gained


def test_changes_are_drawn_in_time(opened: Open, capsys: pytest.CaptureFixture[str]) -> None:
    page = opened()
    settled(page)
    bar(page, "chosen", "Best").focus()
    # From the event to the frame that shows it.
    drawn = page.evaluate(
        """async () => {
            const times = [];
            for (let k = 0; k < 20; k++) {
                const start = performance.now();
                document.activeElement.dispatchEvent(
                    new KeyboardEvent("keydown", { key: k % 2 ? "ArrowUp" : "ArrowDown", bubbles: true }),
                );
                document.querySelector("svg.bars").getBoundingClientRect();
                times.push(performance.now() - start);
                await new Promise(requestAnimationFrame);
            }
            return times.sort((a, b) => a - b);
        }"""
    )
    # From the event to the last panel that shows an answer.
    answered = {
        name: page.evaluate(
            """async ([id, values]) => {
                const control = document.getElementById(id);
                const times = [];
                const until = async (done) => {
                    while (!done()) await new Promise((next) => setTimeout(next, 2));
                };
                for (const value of values) {
                    const start = performance.now();
                    control.value = value;
                    control.dispatchEvent(new Event("input"));
                    await until(() => document.querySelector(".waiting"));
                    await until(() => !document.querySelector(".waiting"));
                    times.push(performance.now() - start);
                }
                return times.sort((a, b) => a - b)[0];
            }""",
            [name, values],
        )
        for name, values in {
            "beta": [-0.5, -0.4, -0.3, -0.2, -0.1],
            "rate": [-1.4, -1.3, -1.2, -1.1, -1.0],
            "pairs": [3, 4, 5, 6, 7, 8],
        }.items()
    }
    with capsys.disabled():
        print(f"\n  drag to redraw {drawn[len(drawn) // 2]:.1f} ms (the longest {drawn[-1]:.1f} ms)")
        print("  answered in", ", ".join(f"{name} {ms:.0f} ms" for name, ms in answered.items()))
    assert drawn[len(drawn) // 2] < SLOWED * DRAWN_IN
    assert max(answered.values()) < SLOWED * ANSWERED_IN
