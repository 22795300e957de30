"""Valid calls of the functions of distributions, of spaces and of policies."""

import jax
import numpy as np

import didsim
from didsim import families, information, margins, policies, spaces
from tests.arguments.calls import call
from tests.arguments.kinds import (
    Argument,
    distribution,
    flag,
    host_number,
    indices,
    integer,
    is_empty,
    number,
    only,
    values,
)

P = np.log(np.array([0.5, 0.3, 0.2]))
Q = np.log(np.array([0.2, 0.3, 0.5]))
KEY = only(jax.random.key(0))
ALONE, FIRST, SECOND = distribution(P, size=None), distribution(P), distribution(Q)
VALUES = values(np.array([0.0, 1.0, 2.0]))
# Three sequences of one token.
SPACE = didsim.SequenceSpace(3, 1)
POLICY = didsim.Autoregressive.from_log_probs(P, SPACE)

CALLS = {
    "information.expectation": call(information.expectation, log_probs=FIRST, values=VALUES),
    "information.entropy": call(information.entropy, p=ALONE),
    "information.kl": call(information.kl, p=FIRST, q=SECOND),
    "information.js": call(information.js, p=FIRST, q=SECOND),
    "information.total_variation": call(information.total_variation, p=FIRST, q=SECOND),
    "information.did": call(information.did, policy=FIRST, reference=SECOND),
    "information.did_entropy": call(information.did_entropy, policy=FIRST, reference=SECOND),
    "information.bayes_update": call(information.bayes_update, reference=FIRST, log_q=VALUES),
    "information.geodesic": call(information.geodesic, reference=FIRST, log_q=VALUES, s=number(0.5)),
    "margins.log_margin": call(margins.log_margin, p=ALONE, i=indices(0, 3), j=indices(1, 3)),
    "margins.check_order": call(
        margins.check_order,
        target=FIRST,
        reference=SECOND,
        rejected=FIRST,
        atol=host_number(0.1, 0).or_none(),
        chosen=FIRST.or_none(),
    ),
    "margins.pair_exponent": call(
        margins.pair_exponent,
        target=FIRST,
        reference=SECOND,
        rejected=FIRST,
        i=indices(0, 3),
        j=indices(1, 3),
    ),
    "margins.fit_power_law": call(margins.fit_power_law, target=FIRST, reference=SECOND, rejected=FIRST),
    "families.normal_logits": call(
        families.normal_logits, key=KEY, size=integer(3), scale=host_number(1.0, 0)
    ),
    "families.dirichlet": call(
        families.dirichlet, key=KEY, size=integer(3), concentration=host_number(1.0, 0, above=True)
    ),
    "families.zipf": call(families.zipf, size=integer(3), exponent=host_number(1.0), key=KEY.or_none()),
    "families.markov": call(families.markov, key=KEY, space=only(SPACE), scale=host_number(1.0, 0)),
    "families.temper": call(families.temper, p=ALONE, exponent=number(2.0)),
    "families.mixture": call(families.mixture, p=FIRST, q=SECOND, weight=number(0.5, 0, 1)),
    "families.best_of_n": call(families.best_of_n, p=FIRST, score=VALUES, n=host_number(2, 1)),
    "families.worst_of_n": call(families.worst_of_n, p=FIRST, score=VALUES, n=host_number(2, 1)),
    "spaces.SequenceSpace": call(
        spaces.SequenceSpace, vocab_size=integer(3, 1, 100), max_length=integer(2, 1, 10), eos=flag()
    ),
    "spaces.SequenceSpace.index": call(SPACE.index, tokens=indices((0,), 3)),
    "spaces.SequenceSpace.decode": call(SPACE.decode, index=indices(0, 3)),
    "spaces.SequenceSpace.prefix_index": call(SPACE.prefix_index, tokens=Argument((), is_empty)),
    "spaces.SequenceSpace.log_probs": call(SPACE.log_probs, next_token_log_probs=only(P[None])),
    "spaces.SequenceSpace.next_token_log_probs": call(SPACE.next_token_log_probs, log_probs=FIRST),
    "policies.EnergyBased": call(policies.EnergyBased, logits=values(P, None)),
    "policies.LogLinear": call(
        policies.LogLinear, features=only(np.ones((3, 2))), weights=values(np.zeros(2), 2)
    ),
    "policies.Autoregressive": call(
        policies.Autoregressive,
        logits=only(np.zeros((1, 3))),
        space=only(SPACE),
        context=integer(0, 0, 10**400).or_none(),
    ),
    "policies.Autoregressive.from_log_probs": call(
        policies.Autoregressive.from_log_probs, log_probs=FIRST, space=only(SPACE)
    ),
    "policies.Autoregressive.log_prob": call(POLICY.log_prob, tokens=indices((0,), 3)),
    "policies.partition": call(policies.partition, policy=only(POLICY)),
}
