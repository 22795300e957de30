"""A state as a Python program that computes the same numbers with the library."""

from typing import Any

import msgspec

from didsim.explorer.problems import settings_of
from didsim.explorer.sequences import arguments
from didsim.explorer.state import COUNTS, INFINITE, State
from didsim.explorer.trained import STEPS

_HEAD = """\
import jax
import jax.numpy as jnp
import optax

import didsim

jax.config.update("jax_enable_x64", True)
"""

_RESPONSES = """
names = {names}
reference, chosen, rejected = (
    jnp.log(jnp.array(shares) / sum(shares))
    for shares in (
        {reference},
        {chosen},
        {rejected},
    )
)
objective = didsim.{objective}({settings})
population = didsim.Contrastive(chosen, rejected)
{problem}
solution = didsim.solve(objective, reference, problem)
learned = solution.certificate.limit if solution.objection() else solution.log_probs
for name, share in zip(names, jnp.exp(learned)):
    print(f"{{name}}: {{share:.4f}}")
print(f"chosen log-likelihood: {{didsim.expectation(chosen, learned - reference):+.4f}} nats")
"""

_POPULATION = "problem = population"
_PAIRS = """\
drawn = population.sample(jax.random.key({seed}), {most})
problem = didsim.Pairs(drawn.winners[:{pairs}], drawn.losers[:{pairs}])"""

_SEQUENCES = """
space = didsim.SequenceSpace({vocabulary}, {length})
keys = jax.random.split(jax.random.key({seed}), 3)
reference = didsim.sweeps.REFERENCES["{family}"]({of_reference})
target = didsim.sweeps.TARGETS["{update}"]({of_target})
score = target - reference
rejected = didsim.REJECTED["{sampler}"]({of_rejected})
objective = didsim.dpo({beta})
problem = didsim.Contrastive(reference, rejected)
learned = didsim.fixed_point(objective, reference, problem)
order = didsim.check_order(target, reference, rejected)
law = didsim.fit_power_law(target, reference, rejected)
print(f"ordered pairs: {{order.fraction:.1%}}, exponent {{law.exponent:.4f}}")
print(f"chosen log-likelihood: {{-didsim.kl(reference, learned):+.4f}} nats")
"""

_TRAINED = """
optimizer = optax.{optimizer}({rate})
run = didsim.train(didsim.EnergyBased(reference), reference, problem, objective, optimizer, {steps})
print(f"after {steps} steps: {{run.metrics['chosen_displacement'][-1]:+.4f}} nats")
"""


def program(state: State) -> str:
    """The program of the tab that is open."""
    body = _sequences(state) if state.tab == "sequences" else _responses(state)
    return _HEAD + body + _filled(_TRAINED, state, steps=STEPS)


def _filled(text: str, state: State, **words: Any) -> str:
    """A part of the program, with the fields of a state and some more words in place of their names."""
    return text.format(**msgspec.structs.asdict(state), **words)


def _responses(state: State) -> str:
    problem = _POPULATION if state.pairs == INFINITE else _filled(_PAIRS, state, most=max(COUNTS))
    settings = ", ".join(f"{name}={value!r}" for name, value in settings_of(state).items())
    return _filled(_RESPONSES, state, settings=settings, problem=problem)


def _sequences(state: State) -> str:
    return _filled(_SEQUENCES, state, **{f"of_{role}": words for role, words in arguments(state).items()})
