"""What is known of a minimiser: its certificate."""

from enum import IntEnum, StrEnum

import equinox as eqx
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from didsim.information import LogProbs
from didsim.policies import Policy

# A solver that stops at a log-probability below this was following a policy that has no limit.
_FAR = -300.0


class Method(StrEnum):
    """How a solution was found."""

    CLOSED_FORM = "closed form"
    ONE_ROOT = "closed form, one root"
    LINEAR_PROGRAM = "linear program"
    NEWTON_ON_REWARDS = "Newton on rewards"
    NEWTON_ON_LOGITS = "Newton on logits"
    NEWTON_ON_PARAMETERS = "Newton on parameters"
    LBFGS_ON_REWARDS = "L-BFGS on rewards"
    LBFGS_ON_LOGITS = "L-BFGS on logits"
    NONE = "none"


class Verdict(IntEnum):
    """What a solve came to, from the best outcome to the worst.

    Attributes:
        MINIMISER: a minimiser of full support. It is proven to be the only one, or no start found another.
        STARTS_DISAGREE: starts ended at different policies, and nothing is proven.
        NOT_UNIQUE: there is more than one minimiser, or it is not proven that there is but one.
        NO_FULL_SUPPORT: no minimiser gives every sequence a positive probability.
        NOT_CONVERGED: the solver stopped before it found a stationary point.
        RUNS_OFF: the solver followed the loss so far out that the policy is taken to have no limit.
        NOT_IDENTIFIED: the pairs leave the rewards of some sequences open.
        NO_LOSS: the objective is a gradient rule, which minimises nothing.
    """

    MINIMISER = 0
    STARTS_DISAGREE = 1
    NOT_UNIQUE = 2
    NO_FULL_SUPPORT = 3
    NOT_CONVERGED = 4
    RUNS_OFF = 5
    NOT_IDENTIFIED = 6
    NO_LOSS = 7


class Certificate(eqx.Module):
    """What is known of a solution. Arrays have the batch axes of the arguments.

    Attributes:
        method: how the solution was found.
        gradient_norm: the largest entry, by magnitude, of the gradient of the loss in the logits, or in the
            parameters of a given policy. NaN at a loss with corners, and if nobody asked for it.
        duality_gap: for a linear program, an upper bound on how far the loss lies above its minimum; else
            NaN.
        last_step: the largest change of a number that one more step of Newton's method would make; 0 for
            closed forms.
        finite: whether the minimiser gives every sequence a positive probability, and the solver found it. If
            not, the log-probabilities contain `−inf`, or NaN, or belong to a policy that was still moving.
        unique: True if the minimiser is proven to be the only one. False if it is not: there may be others.
            None if this method never proves it.
        converged: whether the solver ended at a stationary point. True also if the pairs identify no
            minimiser, so that there was nothing to look for.
        starts: the number of starting points.
        agreed: whether all starts ended at the same policy; None for one start.
        component: a number for every sequence. The pairs identify the difference of two rewards if both
            sequences have the same number.
        identified: whether a sequence is in the largest component. True for all sequences if the loss is not
            of differences of rewards alone, since no pairs are compared then.
        note: a remark in words; mostly empty.
    """

    method: Method = eqx.field(static=True)
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
        certificate: what is known of the log-probabilities.
        policy: the given policy at its minimiser; None if none was given.
    """

    log_probs: LogProbs
    certificate: Certificate
    policy: Policy | None = None

    @property
    def verdict(self) -> Verdict:
        """The worst outcome of any problem of the batch."""
        known = self.certificate
        converged = np.asarray(known.converged)
        if known.method == Method.NONE:
            return Verdict.NO_LOSS
        if not np.asarray(known.identified).all():
            return Verdict.NOT_IDENTIFIED
        if not converged.all():
            far = np.min(np.asarray(self.log_probs)[~converged]) < _FAR
            return Verdict.RUNS_OFF if far else Verdict.NOT_CONVERGED
        if not np.asarray(known.finite).all():
            return Verdict.NO_FULL_SUPPORT
        if known.unique is not None:
            return Verdict.MINIMISER if np.asarray(known.unique).all() else Verdict.NOT_UNIQUE
        if known.agreed is not None and not np.asarray(known.agreed).all():
            return Verdict.STARTS_DISAGREE
        return Verdict.MINIMISER

    def objection(self) -> str | None:
        """Why the log-probabilities alone would mislead, or None."""
        known = self.certificate
        match self.verdict:
            case Verdict.MINIMISER:
                return None
            case Verdict.NO_LOSS:
                return known.note
            case Verdict.NOT_IDENTIFIED:
                identified = np.asarray(known.identified)
                return (
                    f"the pairs do not identify {(~identified).sum()} of {identified.size} sequences: wins "
                    "and losses do not tie their rewards to the others'. These run off, or are arbitrary"
                )
            case Verdict.RUNS_OFF:
                return f"the policy runs off in {self._where_it_stopped()}"
            case Verdict.NOT_CONVERGED:
                return f"the solver did not converge in {self._where_it_stopped()}"
            case Verdict.NO_FULL_SUPPORT:
                return "no minimiser gives every sequence a positive probability. " + known.note
            case Verdict.NOT_UNIQUE:
                return "the minimiser is not unique, or not proven to be"
            case Verdict.STARTS_DISAGREE:
                return f"{known.starts} starts ended at different policies"

    def _where_it_stopped(self) -> str:
        moving = ~np.asarray(self.certificate.converged)
        smallest = float(np.min(np.asarray(self.log_probs)[moving]))
        step = float(np.nanmax(np.asarray(self.certificate.last_step)[moving]))
        return (
            f"{moving.sum()} of {moving.size} problems: the smallest log-probability is {smallest:.4g}, and "
            f"the next step would change a number by {step:.3g}"
        )


class NoMinimiserError(ValueError):
    """There is no minimiser, or the certificate leaves a doubt.

    Attributes:
        solution: what the solver found, with its certificate.
    """

    def __init__(self, message: str, solution: Solution):
        super().__init__(message)
        self.solution = solution
