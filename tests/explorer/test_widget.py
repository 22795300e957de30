"""The widget's own code in a real browser: it draws into an empty element, and a drag reaches its model."""

import pytest

from tests.explorer.conftest import Open

pytestmark = pytest.mark.slow

MODEL = """async () => {
    const { default: widget } = await import("./bars.js");
    const el = document.body.appendChild(document.createElement("div"));
    el.id = "widget";
    const values = {
        names: ["A", "B", "C", "D"], reference: [0.4, 0.3, 0.2, 0.1], chosen: [0.25, 0.25, 0.25, 0.25],
        rejected: [0.25, 0.25, 0.25, 0.25], beta: 0.5,
    };
    const listeners = {};
    window.saved = 0;
    window.values = values;
    widget.render({ el, model: {
        get: (name) => values[name],
        set: (name, value) => { values[name] = value; listeners[`change:${name}`].forEach((one) => one()); },
        save_changes: () => window.saved++,
        on: (name, listener) => (listeners[name] ??= []).push(listener),
        off: () => {},
    } });
}"""


def test_a_bar_of_the_widget_moves_its_model(opened: Open) -> None:
    page = opened()
    page.evaluate(MODEL)
    assert "0.00 nats" in page.inner_text("#widget .counter")
    page.locator('#widget [aria-label="chosen, D"]').focus()
    page.keyboard.press("PageUp")
    assert page.evaluate("saved") == 1
    assert page.evaluate("values.chosen[3]") == 0.35
    # By hand: the limit is 0.4 : 0.3 : 0.2 times (0.65/0.75)² each, and 0.1 times 1.4².
    rest, own = 0.9 * (0.65 / 0.75) ** 2, 0.1 * 1.4**2
    share = 100 * own / (rest + own)
    assert page.locator(f'#widget [aria-label^="learned, D: {share:.1f}%"]').count() == 1
