"""The bars of the explorer as a widget for notebooks."""

from pathlib import Path
from typing import Any

try:
    import anywidget
    import traitlets
except ImportError as error:
    raise ImportError(
        f"didsim.explorer.Bars needs anywidget, and {error.name or error} is not installed; "
        "it comes with pip install 'didsim[explorer]'"
    ) from error

import msgspec

from didsim.explorer.presets import PRESETS
from didsim.explorer.problems import log_probs
from didsim.explorer.state import read_state
from didsim.fixed_points import fixed_point
from didsim.information import LogProbs
from didsim.objectives import dpo
from didsim.preferences import Contrastive

_STATIC = Path(__file__).parent / "static"


class Bars(anywidget.AnyWidget):
    """Bars to drag in a notebook: reference, chosen and rejected responses, and where DPO ends.

    Dragging a bar changes the attributes `reference`, `chosen` and `rejected`; `observe` tells of it. The
    other bars of the same row keep their proportions, so that a row sums to one.

    Args:
        names: of the responses, 4 to 8.
        reference: the share of each response under the reference.
        chosen: the share of each response among chosen responses.
        rejected: the share of each response among rejected responses.
        beta: of DPO.

    Without arguments, these are those of the page's first preset.

    Raises:
        ValueError: a list is too short or too long, a share is not in (0, 1], or beta is out of range.

    Examples:
        >>> import jax.numpy as jnp
        >>> from didsim.explorer import Bars
        >>> bars = Bars(beta=0.1)
        >>> jnp.round(jnp.exp(bars.limit()), 3).tolist()
        [0.6, 0.2, 0.1, 0.1]
    """

    _esm = _STATIC / "bars.js"
    _css = _STATIC / "bars.css"

    names = traitlets.List(traitlets.Unicode()).tag(sync=True)
    reference = traitlets.List(traitlets.Float()).tag(sync=True)
    chosen = traitlets.List(traitlets.Float()).tag(sync=True)
    rejected = traitlets.List(traitlets.Float()).tag(sync=True)
    beta = traitlets.Float().tag(sync=True)

    def __init__(
        self,
        names: list[str] | None = None,
        reference: list[float] | None = None,
        chosen: list[float] | None = None,
        rejected: list[float] | None = None,
        beta: float | None = None,
    ) -> None:
        first = next(iter(PRESETS.values()))().state
        given: dict[str, Any] = {
            "names": names,
            "reference": reference,
            "chosen": chosen,
            "rejected": rejected,
            "beta": beta,
        }
        made = {name: getattr(first, name) if value is None else value for name, value in given.items()}
        checked = read_state(msgspec.json.encode(made))
        super().__init__(**{name: getattr(checked, name) for name in given})

    def limit(self) -> LogProbs:
        """The log-probabilities at which DPO ends, computed by the library."""
        problem = Contrastive(log_probs(self.chosen), log_probs(self.rejected))
        return fixed_point(dpo(self.beta), log_probs(self.reference), problem)
