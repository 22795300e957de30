"""What several test files of this folder share."""

from typing import Any

TABLES: dict[str, Any] = {
    "space": {"vocab_size": 2, "max_length": 2},
    "steps": 3,
    "record": {"every": 2, "metrics": ["loss", "js_to_target"]},
    "optimizer": {"name": "sgd", "learning_rate": 0.1},
    "limit": True,
}
# Of two programs; the exponential loss diverges at a learning rate of a million.
AXES: dict[str, Any] = {
    "objective": [{"name": "exponential", "beta": 1.0}, "dpo"],
    "problem.rejected.beta": [0.3, 0.5],
    "optimizer.learning_rate": [0.1, 1e6],
    "seed": range(3),
}


# Figures.


def panels_of(figure: Any) -> list[Any]:
    return [ax for ax in figure.axes if ax.get_visible()]
