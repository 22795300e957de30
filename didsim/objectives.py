"""Objectives of preference optimisation: an implicit reward and a loss of its difference on a pair.

On a pair of a chosen sequence `y_w` and a rejected one `y_l`, every objective here is

    pair_loss = pair_weight · kernel(h(y_w) − h(y_l)) + chosen_weight · nll(y_w)

with an implicit reward `h` (`didsim.rewards`), a kernel (`didsim.kernels`) and, for some, the negative
log-likelihood of the chosen sequence. The population loss is its exact expectation over the pairs of a
problem. An objective of one's own is another combination, or another `Reward` or `Kernel`.

Parameters are arrays, so that new values compile nothing; `jax.vmap(didsim.dpo)(betas)` is a batch.
"""

import numbers
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int

from didsim import _checks
from didsim._registry import Registry
from didsim.information import LogProbsLike, expectation
from didsim.kernels import Exponential, Hinge, Kernel, Logistic, Squared
from didsim.preferences import Problem
from didsim.rewards import LogOdds, LogProb, LogRatio, Reward, Scalar, per_token


class Objective(eqx.Module):
    """A loss on preference pairs; see the module's docstring for its form.

    Attributes:
        reward: the implicit reward `h`.
        kernel: the loss of a difference of rewards.
        pair_weight: factor of the kernel; None is 1.
        chosen_weight: factor of the chosen sequence's negative log-likelihood; None is 0.
        chosen_per_token: whether that likelihood is divided by the length.
    """

    reward: Reward
    kernel: Kernel
    pair_weight: Scalar | None = None
    chosen_weight: Scalar | None = None
    chosen_per_token: bool = eqx.field(default=False, static=True)

    def pair_loss(
        self,
        chosen_logps: Float[ArrayLike, "*pairs"],
        rejected_logps: Float[ArrayLike, "*pairs"],
        ref_chosen_logps: Float[ArrayLike, "*pairs"] | None = None,
        ref_rejected_logps: Float[ArrayLike, "*pairs"] | None = None,
        chosen_lengths: Int[ArrayLike, "*pairs"] | None = None,
        rejected_lengths: Int[ArrayLike, "*pairs"] | None = None,
    ) -> Float[Array, "*pairs"]:
        """The loss of each pair, from the quantities that a training run logs.

        Args:
            chosen_logps: `log π(y_w)`, summed over tokens, in nats.
            rejected_logps: `log π(y_l)`.
            ref_chosen_logps: `log reference(y_w)`; needed by rewards that use the reference.
            ref_rejected_logps: `log reference(y_l)`; needed likewise.
            chosen_lengths: `|y_w|` in tokens; needed by losses that divide by the length.
            rejected_lengths: `|y_l|`; needed likewise.

        Returns:
            One loss for each pair.

        Raises:
            ValueError: an argument that this objective needs is missing, a log-probability is NaN or
                above zero, a length is not positive, or shapes do not broadcast.

        >>> loss = dpo(beta=0.1).pair_loss(-10.0, -12.0, -11.0, -11.0)
        >>> round(float(loss), 6)  # log(1 + exp(−0.1 · 2))
        0.598139
        """
        self._check_single()
        logps = {"chosen_logps": chosen_logps, "rejected_logps": rejected_logps}
        ref_logps = {
            "ref_chosen_logps": ref_chosen_logps,
            "ref_rejected_logps": ref_rejected_logps,
        }
        lengths = {"chosen_lengths": chosen_lengths, "rejected_lengths": rejected_lengths}
        if self.reward.needs_reference:
            logps |= _needed(ref_logps, "its implicit reward uses the reference policy")
        arrays = {name: _logps(name, value) for name, value in logps.items()}
        if self.needs_lengths:
            needed = _needed(lengths, "it divides by the number of tokens")
            arrays |= {name: _checks.lengths(name, value) for name, value in needed.items()}
        _checks.broadcast(**{name: array.shape for name, array in arrays.items()})
        chosen, rejected = (
            self.reward(
                arrays[f"{side}_logps"],
                arrays.get(f"ref_{side}_logps"),
                arrays.get(f"{side}_lengths"),
            )
            for side in ("chosen", "rejected")
        )
        loss = self._weighted(self.kernel(chosen - rejected))
        if self.chosen_weight is None:
            return loss
        nll = self._nll(arrays["chosen_logps"], arrays.get("chosen_lengths"))
        return loss + self.chosen_weight * nll

    def loss(
        self,
        policy_logps: LogProbsLike,
        reference: LogProbsLike,
        problem: Problem,
        lengths: Int[ArrayLike, " sequences"] | None = None,
    ) -> Float[Array, "*batch"]:
        """The exact expectation of `pair_loss` over the pairs of a problem.

        Args:
            policy_logps: log-probabilities of the policy over the whole space.
            reference: those of the reference policy.
            problem: where pairs come from.
            lengths: number of tokens of every sequence, `space.lengths`; by default every sequence counts
                as one token, so that losses that divide by the length do not.

        Returns:
            The loss. Near-linear time and O(N) memory for a population (`didsim.pair_sum` says how and when),
            O(N + pairs) for `Pairs`. On labelled pairs a hinge and a margin take O(N²), below 4,096 sequences
            also the exponential and a likelihood term, and everything where labels are nearly sure.

        Raises:
            ValueError: a distribution is not normalised or has a zero, shapes do not fit, or a length is
                not positive.

        >>> p = jnp.log(jnp.array([0.5, 0.5]))
        >>> from didsim.preferences import Contrastive
        >>> round(float(dpo(beta=0.1).loss(p, p, Contrastive(p, p))), 6)  # log 2
        0.693147
        """
        policy_logps = _checks.distribution("policy_logps", policy_logps, full_support=True)
        reference = _checks.distribution("reference", reference, full_support=True)
        batch = _checks.same_sequences(policy_logps=policy_logps, reference=reference)
        _checks.instance("problem", problem, Problem, "a Problem, as Contrastive, Labelled or Pairs")
        _checks.broadcast(policy_logps=batch, problem=problem.batch_shape)
        problem.check_size(policy_logps.shape[-1])
        self._check_single()
        lengths = check_lengths(lengths, policy_logps.shape[-1])
        return _compiled_loss(self, policy_logps, reference, problem, lengths)

    def population_loss(
        self,
        policy_logps: Array,
        reference: Array,
        problem: Problem,
        lengths: Array | None,
        chosen: Array | None,
    ) -> Array:
        """`loss` for a caller that has checked its arguments and holds what they give.

        `chosen` is the problem's chosen marginal, if it is at hand.
        """
        h = self.reward(policy_logps, reference, lengths)
        problem = problem.at(policy_logps, h)
        loss = self._weighted(self.kernel.expect(problem, h))
        if self.chosen_weight is None:
            return loss
        if chosen is None:
            chosen = problem.chosen_marginal(policy_logps.shape[-1])
        nll = self._nll(policy_logps, lengths)
        return loss + self.chosen_weight * expectation(chosen.astype(nll.dtype), nll)

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """The batch axes of the parameters."""
        return jnp.broadcast_shapes(*(jnp.shape(leaf) for leaf in jax.tree.leaves(self)))

    def _check_single(self) -> None:
        if self.batch_shape:
            raise ValueError(
                f"`self` must be one objective; this is a batch of shape {self.batch_shape}, over which "
                "jax.vmap maps a loss"
            )

    @property
    def needs_lengths(self) -> bool:
        """Whether the loss depends on numbers of tokens."""
        return self.reward.needs_lengths or self.chosen_per_token

    def _weighted(self, loss: Array) -> Array:
        return loss if self.pair_weight is None else self.pair_weight * loss

    def _nll(self, logps: Array, lengths: Array | None) -> Array:
        return -per_token(logps, lengths if self.chosen_per_token else None)


@eqx.filter_jit
def _compiled_loss(
    objective: Objective, policy_logps: Array, reference: Array, problem: Problem, lengths: Array | None
) -> Array:
    return objective.population_loss(policy_logps, reference, problem, lengths, None)


def dpo(beta: Float[ArrayLike, ""] = 0.1) -> Objective:
    """Direct preference optimisation.

        −log σ(beta · [log(π/ref)(y_w) − log(π/ref)(y_l)])

    Convex in the logits of an `EnergyBased` policy. Source: Rafailov et al., "Direct Preference
    Optimization" (arXiv 2305.18290).

    Args:
        beta: inverse temperature, positive.

    Raises:
        ValueError: `beta <= 0`.
    """
    return Objective(LogRatio(_checks.positive("beta", beta)), Logistic())


def cdpo(beta: Float[ArrayLike, ""] = 0.1, label_smoothing: Float[ArrayLike, ""] = 0.1) -> Objective:
    """Conservative DPO: labels are taken to be wrong with a given probability.

        −(1 − ε) log σ(d) − ε log σ(−d),    d = beta · [log(π/ref)(y_w) − log(π/ref)(y_l)]

    Source: Mitchell, "A note on DPO with noisy preferences" (2023).

    Args:
        beta: inverse temperature, positive.
        label_smoothing: `ε`, from 0 (DPO) to 0.5 (nothing is learned).

    Raises:
        ValueError: `beta <= 0`, or `label_smoothing` is not in [0, 0.5].
    """
    smoothing = _checks.within("label_smoothing", label_smoothing, 0, 0.5)
    return Objective(LogRatio(_checks.positive("beta", beta)), Logistic(smoothing=smoothing))


def ipo(tau: Float[ArrayLike, ""] = 0.1) -> Objective:
    """Identity preference optimisation.

        (log(π/ref)(y_w) − log(π/ref)(y_l) − 1/(2 tau))²

    Source: Azar et al., "A general theoretical paradigm to understand learning from human preferences"
    (arXiv 2310.12036). Log-probabilities are sums over tokens, as in the paper; some trainers take means.

    Args:
        tau: strength of the regularisation towards the reference, positive.

    Raises:
        ValueError: `tau <= 0`.
    """
    centre = 1 / (2 * _checks.positive("tau", tau))
    return Objective(LogRatio(jnp.asarray(1.0)), Squared(centre))


def simpo(
    beta: Float[ArrayLike, ""] = 2.0,
    gamma: Float[ArrayLike, ""] = 1.0,
    length_normalised: bool = True,
) -> Objective:
    """Simple preference optimisation: mean log-probabilities, a margin, no reference.

        −log σ(beta/|y_w| · log π(y_w) − beta/|y_l| · log π(y_l) − gamma)

    Source: Meng, Xia, Chen, "SimPO" (arXiv 2405.14734), with its values for Llama-3-Base as defaults. Here
    `gamma` is the margin itself, as in the paper; some trainers ask for `gamma / beta`.

    Args:
        beta: scale of the reward, positive.
        gamma: target margin, zero or more. A plain 0 drops it, and the limit has a closed form.
        length_normalised: whether log-probabilities are divided by lengths.

    Raises:
        ValueError: `beta <= 0` or `gamma < 0`.
    """
    _checks.instance("length_normalised", length_normalised, bool, "True or False")
    margin = None if _is_plain_zero(gamma) else _checks.non_negative("gamma", gamma)
    reward = LogProb(_checks.positive("beta", beta), per_token=length_normalised)
    return Objective(reward, Logistic(margin=margin))


def slic(beta: Float[ArrayLike, ""] = 0.1, delta: Float[ArrayLike, ""] = 1.0) -> Objective:
    """The hinge loss of SLiC, on the log-ratio reward.

        max(0, delta − beta · [log(π/ref)(y_w) − log(π/ref)(y_l)])

    Source: Zhao et al., "SLiC-HF" (arXiv 2305.10425), whose loss has `log π` for the log-ratio and adds a
    likelihood term; the form here is the one that preference trainers call hinge.

    Args:
        beta: scale of the reward, positive.
        delta: margin below which a pair counts, positive.

    Raises:
        ValueError: `beta <= 0` or `delta <= 0`.
    """
    return Objective(LogRatio(_checks.positive("beta", beta)), Hinge(_checks.positive("delta", delta)))


def orpo(weight: Float[ArrayLike, ""] = 0.1) -> Objective:
    """Odds-ratio preference optimisation: likelihood of the chosen, and a log odds ratio.

        −log P(y_w) − weight · log σ(log odds(y_w) − log odds(y_l)),
        log P(y) = log π(y) / |y|,    odds(y) = P(y) / (1 − P(y))

    Source: Hong, Lee, Thorne, "ORPO" (arXiv 2403.07691), where `weight` is lambda.

    Args:
        weight: factor of the odds-ratio term, positive.

    Raises:
        ValueError: `weight <= 0`.
    """
    return Objective(
        LogOdds(),
        Logistic(),
        pair_weight=_checks.positive("weight", weight),
        chosen_weight=jnp.asarray(1.0),
        chosen_per_token=True,
    )


def cpo(beta: Float[ArrayLike, ""] = 0.1, weight: Float[ArrayLike, ""] = 1.0) -> Objective:
    """Contrastive preference optimisation: DPO without a reference, plus likelihood of the chosen.

        −log σ(beta · [log π(y_w) − log π(y_l)]) − weight · log π(y_w)

    Source: Xu et al., "Contrastive preference optimization" (arXiv 2401.08417), whose likelihood term has
    weight 1 and is a sum over tokens; some trainers take its mean.

    Args:
        beta: scale of the reward, positive.
        weight: factor of the likelihood term, positive.

    Raises:
        ValueError: `beta <= 0` or `weight <= 0`.
    """
    reward = LogProb(_checks.positive("beta", beta), per_token=False)
    return Objective(reward, Logistic(), chosen_weight=_checks.positive("weight", weight))


def exponential(beta: Float[ArrayLike, ""] = 0.1) -> Objective:
    """The exponential loss on the log-ratio reward.

        exp(−beta · [log(π/ref)(y_w) − log(π/ref)(y_l)])

    One of the convex losses of Tang et al., "Generalized preference optimization" (arXiv 2402.05749). It
    overflows, and says so in training, where a difference passes 88 nats in float32 or 709 in float64.

    Args:
        beta: scale of the reward, positive.

    Raises:
        ValueError: `beta <= 0`.
    """
    return Objective(LogRatio(_checks.positive("beta", beta)), Exponential())


def reference_free(beta: Float[ArrayLike, ""] = 0.1) -> Objective:
    """DPO with the bare `log π` for its reward.

        −log σ(beta · [log π(y_w) − log π(y_l)])

    DPO's loss with its reference left out; CPO without its likelihood term; SimPO without margin and
    length normalisation.

    Args:
        beta: scale of the reward, positive.

    Raises:
        ValueError: `beta <= 0`.
    """
    return Objective(LogProb(_checks.positive("beta", beta), per_token=False), Logistic())


OBJECTIVES: Registry[Callable[..., Objective]] = Registry(
    "objective",
    {
        "dpo": dpo,
        "cdpo": cdpo,
        "ipo": ipo,
        "simpo": simpo,
        "slic": slic,
        "orpo": orpo,
        "cpo": cpo,
        "exponential": exponential,
        "reference_free": reference_free,
    },
)


def check_lengths(lengths: Any, size: int) -> Array | None:
    """The number of tokens of each of `size` sequences, or None."""
    if lengths is None:
        return None
    array = _checks.lengths("lengths", lengths)
    if array.shape != (size,):
        raise ValueError(
            f"`lengths` must have one entry for each of {size} sequences; got shape {array.shape}"
        )
    return array


def _is_plain_zero(value: Any) -> bool:
    return isinstance(value, numbers.Real) and value == 0


def _needed(values: dict[str, Any], reason: str) -> dict[str, Any]:
    for name, value in values.items():
        if value is None:
            raise ValueError(f"`{name}` must be given to this objective: {reason}; got None")
    return values


def _logps(name: str, value: Any) -> Array:
    # A plain number stays weakly typed.
    value = float(value) if isinstance(value, numbers.Real) else value
    array = _checks.finite(name, value, min_ndim=0)
    if _checks.known(value) and (largest := np.asarray(value).max()) > 0:
        raise ValueError(f"`{name}` must be log-probabilities, at most 0; got {largest}")
    return array
