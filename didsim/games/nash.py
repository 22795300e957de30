"""Nash policies of a table of preferences, with a certificate."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.nn import log_softmax
from jaxtyping import Array, ArrayLike, Float, Int, Real
from scipy.optimize import linprog

from didsim import _checks
from didsim._batches import as_runs, batched
from didsim._memory import check_fits
from didsim.games.exploitability import check_game, exploitability, leads
from didsim.games.regularised import regularised
from didsim.information import LogProbs, LogProbsLike
from didsim.preferences.table import PreferenceTable

_BYTES = 32  # of a pair of sequences: the game, its Jacobian, and the decomposition of that


class Equilibrium(eqx.Module):
    """A Nash policy: no other policy beats it.

    Attributes:
        log_probs: its log-probabilities, `[*batch, sequences]`.
        exploitability: by how much the best answer beats it, in float64 and before the policy is rounded to
            its dtype. This is the certificate: zero, but for rounding, proves a Nash policy.
        steps: number of stages of the search; 0 for a linear program.
    """

    log_probs: LogProbs
    exploitability: Float[np.ndarray, "*batch"]
    steps: Int[np.ndarray, "*batch"]


def nash(
    preferences: PreferenceTable,
    reference: LogProbsLike | None = None,
    beta: Real[ArrayLike, "*#batch"] | None = None,
) -> Equilibrium:
    """The policy that no other is preferred to.

    Two players each choose a policy, as in `didsim.exploitability`.

    **With `beta`** each pays `beta · KL(its policy ‖ reference)`. The only Nash policy is then the one with

        π(y) ∝ reference(y) · exp(P(y ≻ π) / beta),

    since the game is strictly concave in one policy and convex in the other. Newton's method finds it, along
    the path of Nash policies from an infinite `beta`, which gives the reference, to the given one
    (`didsim.games.regularised`). Source: Munos et al., "Nash learning from human feedback" (arXiv
    2312.00886). Self-play rests there: SPPO, IPO and INPO on the policy's own pairs,
    `Online(preferences, OnPolicy())`. Plain gradient descent with small steps gets there. The momentum of
    Adam can circle around it for ever.

    **Without `beta`** it is the von Neumann winner, or maximal lottery: `P(π ≻ y) ≥ 1/2` for every `y`. A
    linear program finds it (HiGHS, in SciPy). It need not be the only one; the certificate proves that it is
    one. Sources: Kreweras, "Aggregation of preference orderings" (1965), and Dudík et al., "Contextual
    dueling bandits" (arXiv 1502.06362).

    A tie counts as half a win for either. A table that a reward explains has one best sequence, and the Nash
    policy without `beta` is that sequence.

    Args:
        preferences: who wins, `[*batch, sequences, sequences]`.
        reference: the reference policy; with `beta`, by default uniform. Zeros stay zeros.
        beta: weight of the divergence, positive; None for the game without it.

    Returns:
        The policy and its certificate. All is computed in float64. Newton's method takes O(N³) a step. The
        path has few stages if `beta` is large, and tens to hundreds if it is small; after 5,000 the search
        stops short, which the certificate shows. The linear program has N variables and N constraints.

    Raises:
        ValueError: `preferences` is not a `PreferenceTable`, `reference` is not normalised or comes without
            `beta`, `beta <= 0`, shapes do not fit, or an argument is traced.

    Examples:
        >>> table = PreferenceTable([[0.5, 0.7, 0.4], [0.3, 0.5, 0.9], [0.6, 0.1, 0.5]])
        >>> jnp.exp(nash(table).log_probs).round(6).tolist()  # (0.4, 0.1, 0.2), normalised
        [0.571429, 0.142857, 0.285714]
        >>> jnp.exp(nash(table, beta=100.0).log_probs).round(2).tolist()
        [0.33, 0.33, 0.33]
    """
    if not _checks.known((preferences, reference, beta)):
        raise ValueError("`nash` must be called outside jit, vmap and grad: it compiles what it needs")
    checked = check_game(preferences, reference, beta)
    dtype, size = preferences.log_wins.dtype, preferences.size
    check_fits(f"`preferences` over {size:,} sequences", _BYTES * size**2)
    with jax.enable_x64(True):
        game, near, weight = jax.tree.map(
            lambda leaf: jnp.asarray(np.asarray(leaf), float), (preferences, *checked)
        )
        if near is None:
            found, steps = _unregularised(game), np.zeros((), int)
        else:
            near = log_softmax(near)
            found, steps = _regularised(game, near, weight)
        certificate = np.asarray(exploitability(found, game, near, weight))
    rounded = np.asarray(found).astype(dtype)
    return Equilibrium(jax.device_put(rounded), certificate, np.broadcast_to(steps, certificate.shape))


def _regularised(preferences: PreferenceTable, reference: Array, beta: Array) -> tuple[Array, np.ndarray]:
    batch = np.broadcast_shapes(preferences.batch_shape, reference.shape[:-1], beta.shape)
    games, references, betas = (
        as_runs(leaf, batch, ndim) for leaf, ndim in ((leads(preferences), 2), (reference, 1), (beta, 0))
    )
    log_probs, steps = regularised(games, references, betas)
    return batched(log_probs, batch), np.asarray(batched(steps, batch))


def _unregularised(preferences: PreferenceTable) -> Array:
    games = np.asarray(leads(preferences))
    # One linear program after another: HiGHS takes one at a time.
    found = [_lottery(game) for game in games.reshape(-1, *games.shape[-2:])]
    with np.errstate(divide="ignore"):
        return jnp.asarray(np.log(np.reshape(found, games.shape[:-1])))


def _lottery(game: Float[np.ndarray, "n n"]) -> Float[np.ndarray, " n"]:
    """The `π` that makes `min_j Σ_i π_i game_ij` large; then it is 0, as `game` is antisymmetric."""
    size = len(game)
    constraints = np.hstack([game, np.ones((size, 1))])
    program = linprog(
        np.append(np.zeros(size), -1.0),
        A_ub=constraints,
        b_ub=np.zeros(size),
        A_eq=np.append(np.ones(size), 0.0)[None],
        b_eq=[1.0],
        bounds=[(0, None)] * size + [(None, None)],
        method="highs",
    )
    policy = np.maximum(program.x[:size], 0)
    policy /= policy.sum()
    polished = _on_support(game, policy > 1e-7)
    return polished if (game @ polished).max() < (game @ policy).max() else policy


def _on_support(game: Float[np.ndarray, "n n"], support: np.ndarray) -> Float[np.ndarray, " n"]:
    """The policy on a support against which all sequences of the support do equally well, if there is one.

    The program stops within a tolerance of its own. Linear equations on the support that it found are solved
    to rounding.
    """
    system = np.vstack([game[np.ix_(support, support)], np.ones(support.sum())])
    solved = np.linalg.lstsq(system, np.append(np.zeros(support.sum()), 1.0))[0]
    policy = np.zeros(len(game))
    policy[support] = np.maximum(solved, 0)
    return policy / policy.sum()
