"""What holds token by token, of sections 1, 3 and 5: on sequences of three tokens out of two."""

import jax.numpy as jnp
from jax.nn import log_softmax, logsumexp
from jaxtyping import Array

from didsim.fixed_points.solve import fixed_point
from didsim.information import did, expectation, kl
from didsim.objectives.catalogue import dpo
from didsim.preferences.contrastive import Contrastive
from didsim.spaces import SequenceSpace
from didsim.theory.cases import Case
from didsim.theory.checks import OURS, exact, off

_SPACE = SequenceSpace(vocab_size=2, max_length=3)


def _of_prefixes(log_z: Array) -> Array:
    """The sum, for each sequence, of a number of each prefix: after no token, after one and after two."""
    y = jnp.arange(_SPACE.size)
    return log_z[0] + log_z[1 + y // 4] + log_z[3 + y // 2]


@exact(
    1,
    OURS,
    "By tokens: log q(y) = Σ_t log q̃(y_t|y_<t) + Σ_t log z(y_<t) + const, with q̃ the DID of next tokens",
    sizes=(_SPACE.size,),
)
def did_by_tokens(case: Case) -> Array:
    """`z(x) = Σ_v a(v|x)/b(v|x)` normalises `q̃(·|x)`."""
    a, b = (_SPACE.next_token_log_probs(one) for one in (case.target, case.reference))
    log_z = logsumexp(a - b, axis=-1)
    factors = _of_prefixes(log_z)
    expected = log_softmax(_SPACE.log_probs(did(a, b)) + factors)
    return off(did(case.target, case.reference), expected, factors, case.target, case.reference)


@exact(
    3,
    OURS,
    "Rejected by the power law token by token, with factors z(x), DPO learns π* Π_t z(y_<t)^(1/β)",
    sizes=(_SPACE.size,),
)
def power_law_by_tokens(case: Case) -> Array:
    """Since `rejected = π_ref (π_ref/π*)^β / Π_t z`."""
    reference, target = (_SPACE.next_token_log_probs(one) for one in (case.reference, case.target))
    powers = reference + case.beta * (reference - target)
    log_z = logsumexp(powers, axis=-1)
    problem = Contrastive(case.reference, _SPACE.log_probs(powers - log_z[..., None]))
    limit = fixed_point(dpo(case.beta), case.reference, problem)
    factors = _of_prefixes(log_z)
    expected = log_softmax(case.target + factors / case.beta)
    sizes = (
        factors / case.beta,
        case.reference / case.beta,
        case.target / case.beta,
        case.reference,
        case.target,
    )
    return off(limit, expected, *sizes)


@exact(
    5,
    OURS,
    "Displacement adds up over tokens: −KL(π_ref ‖ π*) = −Σ_t E_ref KL of next tokens, so that none gains",
    sizes=(_SPACE.size,),
)
def displacement_by_tokens(case: Case) -> Array:
    """The chain rule."""
    reference, target = (_SPACE.next_token_log_probs(one) for one in (case.reference, case.target))
    # The prefixes of no token, of one and of two, and how likely the reference is to pass each.
    passed = jnp.exp(case.reference)
    reached = jnp.concatenate([passed.reshape(2**k, -1).sum(axis=-1) for k in range(3)])
    falls = jnp.sum(reached * kl(reference, target))
    return off(expectation(case.reference, case.target - case.reference), -falls, case.reference, case.target)
