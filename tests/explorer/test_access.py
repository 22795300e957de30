"""Readers of all kinds: narrow and wide, light and dark, by keyboard and by ear."""

from typing import Any

import pytest

from tests.explorer.conftest import Open
from tests.explorer.reading import settled

pytestmark = pytest.mark.slow

GRAVE = ("serious", "critical")


def still(page: Any) -> None:
    """Wait until colours no longer fade in."""
    page.evaluate("Promise.allSettled(document.getAnimations().map((one) => one.finished)).then(() => null)")


def grave_findings(page: Any) -> list[str]:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    found = axe.run(page).response["violations"]
    return [
        f"{one['id']}: {[node['html'][:120] for node in one['nodes'][:3]]}"
        for one in found
        if one["impact"] in GRAVE
    ]


@pytest.mark.parametrize("tab", ["responses", "sequences"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_axe_finds_nothing_grave_and_nothing_sticks_out(
    opened: Open, width: int, scheme: str, tab: str
) -> None:
    page = opened(f"v=1&preset=overshoot&tab={tab}", width=width, scheme=scheme)
    settled(page)
    still(page)
    assert page.evaluate("document.documentElement.dataset.theme") == scheme
    assert grave_findings(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_axe_finds_nothing_grave_while_a_guess_is_asked_for(opened: Open) -> None:
    page = opened("v=1&preset=sixty&predict=true&projector=true&beta=0.2")
    settled(page)
    still(page)
    assert grave_findings(page) == []


def test_labels_of_bars_do_not_overlap(opened: Open) -> None:
    eight = "names=Excellent,Good,Fair,Poor,E,F,G,Hopeless"
    shares = ",".join(["0.125"] * 8)
    rows = "&".join(f"{row}={shares}" for row in ("reference", "chosen", "rejected"))
    for width, more in ((1280, ""), (390, ""), (1280, "&projector=true")):
        page = opened(f"v=1&{eight}&{rows}{more}", width=width)
        assert (
            page.evaluate(
                """() => {
                const boxes = [...document.querySelectorAll("svg.bars text")]
                    .filter((one) => one.textContent)
                    .map((one) => [one.textContent, one.getBoundingClientRect()]);
                const meet = (a, b, start, end, room) => a[start] < b[end] - room && b[start] < a[end] - room;
                const over = (a, b) => meet(a, b, "left", "right", 0) && meet(a, b, "top", "bottom", 3);
                return boxes.flatMap(([name, a], i) =>
                    boxes.slice(i + 1).filter(([, b]) => over(a, b)).map(([other]) => `${name} / ${other}`));
            }"""
            )
            == []
        )


def test_everything_is_reached_by_keyboard_and_the_change_is_told(opened: Open) -> None:
    page = opened()
    settled(page)
    reached = []
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.append(
            page.evaluate("document.activeElement.id || document.activeElement.getAttribute('aria-label')")
        )
    assert reached[0] is None  # the link to the bars
    for one in (
        "copy-python",
        "tab-responses",
        "chosen, Best",
        "beta",
        "objective",
        "pairs",
        "play",
        "log-text",
    ):
        assert one in reached
    page.locator("#beta").focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_selector("#told:has-text('Learned: Best ')", state="attached")


def test_the_theme_and_the_projector_are_switched(opened: Open) -> None:
    page = opened()
    page.click("#theme")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    small = page.evaluate("parseFloat(getComputedStyle(document.body).fontSize)")
    page.click("#projector")
    assert page.evaluate("parseFloat(getComputedStyle(document.body).fontSize)") > 1.2 * small
