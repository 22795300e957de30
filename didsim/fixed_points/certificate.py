"""What is known of a minimiser: its certificate."""

from enum import IntEnum, StrEnum

import equinox as eqx
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from didsim.information import LogProbs
from didsim.objectives.objective import Objective
from didsim.policies import Policy
from didsim.preferences.problem import Problem


class Method(StrEnum):
    """How a solution was found."""

    CLOSED_FORM = "closed form"
    ONE_ROOT = "closed form, one root"
    LINEAR_PROGRAM = "linear program"
    NEWTON_ON_REWARDS = "Newton on rewards"
    NEWTON_ON_LOGITS = "Newton on logits"
    NEWTON_ON_PARAMETERS = "Newton on parameters"
    NEWTON_CG_ON_REWARDS = "Newton with conjugate gradients on rewards"
    NEWTON_CG_ON_LOGITS = "Newton with conjugate gradients on logits"
    LBFGS_ON_LOGITS = "L-BFGS on logits"
    SEVERAL = "several"
    NONE = "none"


class Verdict(IntEnum):
    """What a solve came to, from the best outcome to the worst.

    Attributes:
        MINIMISER: a minimiser of full support. It is proven to be the only one, or no start found another.
        STARTS_DISAGREE: starts ended at different policies, and nothing is proven.
        NOT_UNIQUE: there is more than one minimiser.
        NO_FULL_SUPPORT: no minimiser gives every sequence a positive probability.
        NOT_CONVERGED: the solver stopped before it found a stationary point.
        RUNS_OFF: the solver followed the loss so far out that the policy is taken to have no minimiser.
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
    """What is known of a solution. NumPy arrays, with the batch axes of the arguments.

    Attributes:
        method: how the solution was found.
        gradient_norm: the largest entry, by magnitude, of the gradient of the loss in the logits, or in the
            parameters of a given policy. NaN if the loss has corners (there the subgradient nearest to zero
            would count, and the solver does not compute it), and if nobody asked for the gradient. The metric
            `gradient_norm` of `didsim.train` is another number: the Euclidean norm.
        duality_gap: for a linear program, an upper bound on how far the loss lies above its minimum; else
            NaN.
        last_step: the largest change of a number that one more step of Newton's method would make; 0 for
            closed forms.
        steps: the number of steps of Newton's method, or of L-BFGS, from the start whose end is reported; 0
            for closed forms and linear programs. For a loss with corners, those of the last rounding.
        finite: whether the minimiser gives every sequence a positive probability, and the solver found it. If
            not, the log-probabilities contain `−inf`, or NaN, or belong to a policy that was still moving.
        unique: True if the minimiser is proven to be the only one. False says nothing more.
        has_others: True if there is proven to be more than one minimiser. If neither `unique` nor
            `has_others` is True, nothing is proven. They are never both True.
        flat: the number of directions, in the numbers that the solver searches, along which the loss does
            not change at the solution.
        converged: whether the solver ended at a stationary point. True also if the pairs identify no
            minimiser, so that there was nothing to look for.
        runs_off: whether the solver stopped in motion, and far out: a log-probability was below −300, or the
            loss had ceased to curve along a direction along which it curved at the start.
        starts: the number of starting points.
        agreed: whether all starts ended at the same point and loss, to within the rounding of the dtype. This
            is no proof that there are no other minima. None for one start.
        component: a number for every sequence. The pairs identify the difference of two rewards if both
            sequences have the same number.
        identified: whether a sequence is in the largest component. True for all sequences if the loss is not
            of differences of rewards alone, since no pairs are compared then.
        limit: log-probabilities of the policy that gradient descent on the logits tends to from the
            reference, as far as it is known; else NaN. If the minimiser is proven unique, it is the
            minimiser. Pairs that do not identify a minimiser can have a limit too, in which some sequences
            have probability zero (`−inf`): see `didsim.fixed_points.separable`.
        note: a remark in words; mostly empty.
    """

    method: Method = eqx.field(static=True)
    gradient_norm: Float[np.ndarray, "*batch"]
    duality_gap: Float[np.ndarray, "*batch"]
    last_step: Float[np.ndarray, "*batch"]
    steps: Int[np.ndarray, "*batch"]
    finite: Bool[np.ndarray, "*batch"]
    unique: Bool[np.ndarray, "*batch"]
    has_others: Bool[np.ndarray, "*batch"]
    flat: Int[np.ndarray, "*batch"]
    converged: Bool[np.ndarray, "*batch"]
    runs_off: Bool[np.ndarray, "*batch"]
    starts: int = eqx.field(static=True)
    agreed: Bool[np.ndarray, "*batch"] | None
    component: Int[np.ndarray, "*batch sequences"]
    identified: Bool[np.ndarray, "*batch sequences"]
    limit: Float[np.ndarray, "*batch sequences"]
    note: str = eqx.field(static=True)


class Given(eqx.Module):
    """What was solved: the arguments of `solve`."""

    objective: Objective
    reference: LogProbs
    problem: Problem
    lengths: Int[Array, " sequences"] | None


class Solution(eqx.Module):
    """A minimiser, and what is known of it.

    Attributes:
        log_probs: log-probabilities, with the batch axes of the arguments. NaN for a problem that has no
            minimiser, or none that the pairs identify; and where a family of policies was given and the
            solver did not converge in it.
        certificate: what is known of the log-probabilities.
        policy: the given policy at its minimiser; None if none was given. Its parameters are NaN where
            `log_probs` are.
        given: what was solved.
    """

    log_probs: LogProbs
    certificate: Certificate
    policy: Policy | None = None
    given: Given | None = None

    @property
    def verdict(self) -> Verdict:
        """The worst outcome of any problem of the batch."""
        known = self.certificate
        moving = ~np.asarray(known.converged)
        if known.method == Method.NONE:
            return Verdict.NO_LOSS
        if not np.all(known.identified):
            return Verdict.NOT_IDENTIFIED
        if moving.any():
            return Verdict.RUNS_OFF if np.any(known.runs_off & moving) else Verdict.NOT_CONVERGED
        if not np.all(known.finite):
            return Verdict.NO_FULL_SUPPORT
        if np.any(known.has_others):
            return Verdict.NOT_UNIQUE
        if known.agreed is not None and not np.all(known.unique | known.agreed):
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
                others = np.asarray(known.has_others)
                flat = np.max(np.asarray(known.flat)[others])
                why = f": the loss does not change along {flat} directions" if flat else ""
                return f"the minimiser is not unique in {others.sum()} of {others.size} problems{why}"
            case Verdict.STARTS_DISAGREE:
                return f"{known.starts} starts ended at different points"

    def _where_it_stopped(self) -> str:
        moving = ~np.asarray(self.certificate.converged)
        problems = f"{moving.sum()} of {moving.size} problems"
        smallest = np.min(np.asarray(self.log_probs)[moving])
        far = "" if np.isnan(smallest) else f"the smallest log-probability is {smallest:.4g}, and "
        step = float(np.max(np.asarray(self.certificate.last_step)[moving]))
        return f"{problems}: {far}the next step would change a number by {step:.3g}"


class NoMinimiserError(ValueError):
    """There is no minimiser, or the certificate leaves a doubt.

    Attributes:
        solution: what the solver found, with its certificate.
    """

    def __init__(self, message: str, solution: Solution):
        super().__init__(message)
        self.solution = solution
