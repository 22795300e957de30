"""The picture of a log: rewards and loss along training, with what theory allows."""

from typing import Any

import numpy as np

from didsim.diagnostics.findings import Pictures
from didsim.diagnostics.logs.evidence import LOG_2, Evidence, softplus

_SIZE = (4.4, 5.2)  # inches: readable on a telephone, where it is as wide as the screen


def pictures_of(evidence: Evidence, number: int) -> list[Pictures]:
    """The picture of one log; none without rewards or margins in more than one row.

    Args:
        evidence: the log and its beta.
        number: how many logs came before it.
    """
    if not any("margin" in rows and len(rows) > 1 for rows, _ in evidence.sides()):
        return []
    name = f"log-{number + 1}"
    unit = "in nats from the reference" if evidence.beta is not None else "as logged, with beta in them"
    caption = (
        f"Above: mean rewards, {unit}. Lines are training batches, dots are evaluations of held-out pairs. "
        "Below: the loss. Plain sigmoid DPO cannot have less than the dashed line at the logged mean "
        "margin; dotted is log 2, the loss of the reference."
    )
    return [Pictures(draw=lambda: {name: draw(evidence)}, captions={name: caption})]


def draw(evidence: Evidence) -> Any:
    """Chosen, rejected and margin against training, over the loss with Jensen's bound."""
    from didsim.plotting.looks import COLORS, new_figure

    figure, (above, below) = new_figure(2, 1, height=_SIZE[1], sharex=True)
    figure.set_size_inches(*_SIZE)
    scale = 1.0 if evidence.beta is None else 1 / evidence.beta
    colors = dict(zip(("chosen", "rejected", "margin"), COLORS, strict=False))
    for rows, words in evidence.sides():
        is_line = rows is evidence.log.train
        look: dict[str, Any] = (
            {"linewidth": 0.9} if is_line else {"marker": "o", "markersize": 3, "linestyle": ""}
        )
        for who, color in colors.items():
            name = who if who == "margin" else f"{who}_reward"
            at, values = rows.together(name)
            if len(at):
                above.plot(
                    at, values * scale, color=color, label=_label(who, words, is_line, evidence), **look
                )
        at, loss = rows.together("loss")
        below.plot(at, loss, color=COLORS[4], label=f"loss, {words}" if len(at) else None, **look)
        at, _, margin = rows.together("loss", "margin")
        if len(at) and is_line:
            below.plot(at, softplus(-margin), color=COLORS[5], linestyle=(0, (4, 2)), label="least possible")
    above.axhline(0, color="0.5", linewidth=0.6)
    below.axhline(LOG_2, color="0.5", linestyle=":", linewidth=0.9)
    tops = [line.get_ydata() for line in below.get_lines()]
    if max((float(np.max(top)) for top in tops if len(top)), default=0) > 20:
        below.set_yscale("symlog", linthresh=1)
    above.set_ylabel("reward" if evidence.beta is None else "reward / beta (nats)")
    below.set_ylabel("loss (nats)")
    below.set_xlabel(evidence.log.unit)
    for axes in (above, below):
        if axes.get_legend_handles_labels()[0]:
            axes.legend()
    return figure


def _label(who: str, words: str, is_line: bool, evidence: Evidence) -> str | None:
    """A label for each colour once: for lines if there are any."""
    has_lines = "margin" in evidence.log.train
    return who if is_line or not has_lines else None
