"""What is known of a minimiser: its certificate."""

import equinox as eqx
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from didsim.information import LogProbs
from didsim.policies import Policy

_FAR = -300.0  # no policy of a problem that ends so far out is anywhere but on its way


class Certificate(eqx.Module):
    """What is known of a solution. Arrays have the batch axes of the arguments.

    Attributes:
        method: how it was found.
        gradient_norm: the largest entry of the loss's gradient in the logits (or in the parameters of a
            policy that was given), by magnitude; NaN where it is not asked for.
        duality_gap: for a linear program, by how much its loss may be above the minimum; else NaN.
        last_step: the largest change of a number that one more step of Newton's method would make; 0 for
            closed forms.
        finite: whether the minimiser gives every sequence a positive probability. Where it does not, the
            log-probabilities have `−inf`, or are those of a policy on its way there, or NaN. False also
            where the solver did not converge.
        unique: True where there is proof that the minimiser is the only one, False where this way of solving
            gives none, be it because there are others; None if it never does.
        converged: whether the solver ended at a stationary point, or needed not to look for one, as pairs
            do not identify any. It tells nothing of others.
        starts: the number of starts.
        agreed: whether all starts ended at one policy; None if there was but one.
        component: a number for every sequence; differences of rewards are identified between sequences of
            the same one.
        identified: whether a sequence is in the largest component. Where the loss is not of differences of
            rewards alone, nothing is compared, and all are said to be.
        note: what else there is to say.
    """

    method: str = eqx.field(static=True)
    gradient_norm: Float[Array, "*batch"]
    duality_gap: Float[Array, "*batch"]
    last_step: Float[Array, "*batch"]
    finite: Bool[Array, "*batch"]
    unique: Bool[Array, "*batch"] | None
    converged: Bool[Array, "*batch"]
    starts: int = eqx.field(static=True)
    agreed: Bool[Array, "*batch"] | None
    component: Int[Array, "*batch sequences"]
    identified: Bool[Array, "*batch sequences"]
    note: str = eqx.field(static=True)


class Solution(eqx.Module):
    """A minimiser, and what is known of it.

    Attributes:
        log_probs: log-probabilities, with the batch axes of the arguments.
        certificate: what is known of them.
        policy: the policy with its own parameters, if one was given.
    """

    log_probs: LogProbs
    certificate: Certificate
    policy: Policy | None = None

    def objection(self) -> str | None:
        """Why the log-probabilities alone would mislead, or None."""
        known = self.certificate
        if known.method == "none" and known.note:
            return known.note
        identified, converged = np.asarray(known.identified), np.asarray(known.converged)
        if not identified.all():
            return (
                f"the pairs do not identify {(~identified).sum()} of {identified.size} sequences: wins "
                "and losses do not hold their rewards to those of the others: they run off or are arbitrary"
            )
        if not converged.all():
            smallest = float(np.min(np.asarray(self.log_probs)[~converged]))
            way = "the policy runs off" if smallest < _FAR else "the solver did not converge"
            return (
                f"{way} in {(~converged).sum()} of {converged.size} problems: the smallest log-probability "
                f"is {smallest:.4g}, and the next step would change a number by "
                f"{float(np.nanmax(np.asarray(known.last_step)[~converged])):.3g}"
            )
        if not np.asarray(known.finite).all():
            return "no minimiser gives every sequence a positive probability. " + known.note
        if known.unique is not None:
            return (
                None if np.asarray(known.unique).all() else "the minimiser is not unique, or not proven to be"
            )
        if known.agreed is not None and not np.asarray(known.agreed).all():
            return f"{known.starts} starts ended at different policies"
        return None


class NoMinimiserError(ValueError):
    """There is no minimiser, or none that is certain.

    Attributes:
        solution: what was found instead.
    """

    def __init__(self, message: str, solution: Solution):
        super().__init__(message)
        self.solution = solution
