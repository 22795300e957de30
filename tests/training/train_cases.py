"""What several test files of this folder share."""

from typing import Any

import jax
import optax

import didsim

SIZE, SEEDS, BETA = 8, 3, 0.5
REFERENCE, TARGET = didsim.normal_logits(jax.random.split(jax.random.key(0), (2, SEEDS)), SIZE)
PROBLEM = didsim.Contrastive(REFERENCE, didsim.optimal_rejected(REFERENCE, TARGET, BETA))
ADAM = optax.adam(0.1)


def train(**changes: Any) -> didsim.Run:
    arguments: dict[str, Any] = {
        "policy": didsim.EnergyBased(REFERENCE),
        "reference": REFERENCE,
        "problem": PROBLEM,
        "objective": didsim.dpo(BETA),
        "optimizer": ADAM,
        "steps": 400,
    }
    return didsim.train(**(arguments | changes))
