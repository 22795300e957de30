"""Valid calls of games, of the second of two stages, and of the objectives and optimisers that end there."""

import jax.numpy as jnp
import numpy as np
import optax

import didsim
from didsim import estimation, games, objectives, training
from tests.arguments.calls import call
from tests.arguments.kinds import distribution, integer, number, only, values
from tests.arguments.of_distributions import P, Q

_GAME = only(didsim.PreferenceTable.cyclic(3, 0.9))
_BETA = number(0.5, 0, above=True)
_OBJECTIVE, _GROUPS = only(didsim.dpo(1.0)), didsim.Mixture((didsim.Contrastive(P, Q),), np.zeros(1))
_REWARD = objectives.LogRatio(jnp.array(0.1))
_PARTS = {"reward": only(_REWARD), "kernel": only(objectives.Linear()), "weight": number(0.5).or_none()}

CALLS = {
    "estimation.kl_optimum": call(
        estimation.kl_optimum, reward=values(np.zeros(3)), reference=distribution(P), beta=_BETA
    ),
    "games.nash": call(
        games.nash, preferences=_GAME, reference=distribution(P).or_none(), beta=number(0.5, 0, above=True)
    ),
    "games.exploitability": call(
        games.exploitability,
        log_probs=distribution(Q),
        preferences=_GAME,
        reference=distribution(P).or_none(),
        beta=_BETA,
    ),
    "games.group_losses": call(
        games.group_losses,
        objective=_OBJECTIVE,
        policy_logps=distribution(P),
        reference=distribution(Q),
        problem=only(_GROUPS),
    ),
    "games.solve_worst_group": call(
        games.solve_worst_group,
        objective=_OBJECTIVE,
        reference=distribution(Q),
        problem=only(_GROUPS),
        policy=only(None).or_none(),
    ),
    "objectives.policy_gradient": call(objectives.policy_gradient, beta=_BETA),
    "objectives.ppo": call(objectives.ppo, beta=_BETA, clip=_BETA),
    "objectives.inpo": call(objectives.inpo, tau=number(0.1, 0, 0.5, above=True), eta=number(0.5, 0.1)),
    "objectives.worst_group": call(objectives.worst_group, objective=_OBJECTIVE, temperature=_BETA),
    "objectives.ExpectedReward": call(objectives.ExpectedReward, **_PARTS),
    "objectives.ClippedReward": call(objectives.ClippedReward, **_PARTS, clip=_BETA),
    "objectives.ProximalPair": call(
        objectives.ProximalPair,
        **_PARTS | {"kernel": only(objectives.Squared(jnp.array(1.0)))},
        share=number(0.5, 0, 1),
    ),
    "objectives.WorstGroup": call(objectives.WorstGroup, **_PARTS, of=_OBJECTIVE, temperature=_BETA),
    "training.inner_steps": call(training.inner_steps, optimizer=only(optax.sgd(0.1)), times=integer(2)),
}
