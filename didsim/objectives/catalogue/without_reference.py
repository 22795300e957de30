"""Losses that have no reference: their rewards are log-probabilities."""

import numbers
from typing import Any

import jax.numpy as jnp

from didsim import _checks
from didsim.objectives.divergences import PowerProb
from didsim.objectives.kernels import Linear, Logistic
from didsim.objectives.objective import Objective
from didsim.objectives.rewards import LogOdds, LogProb, Scalar, ScalarLike
from didsim.objectives.terms import Pair, Single


def simpo(
    beta: ScalarLike = 2.0,
    gamma: ScalarLike = 1.0,
    length_normalised: bool = True,
) -> Objective:
    """Simple preference optimisation: the reward is a mean log-probability, without a reference.

        −log σ(beta/|y_w| · log π(y_w) − beta/|y_l| · log π(y_l) − gamma)

    Source: Meng, Xia, Chen, "SimPO" (arXiv 2405.14734). Defaults are its values for Llama-3-Base. Here
    `gamma` is the margin itself, as in the paper. Some trainers ask for `gamma / beta`.

    In TRL: `CPOConfig(loss_type="simpo", beta, simpo_gamma=gamma / beta, cpo_alpha=0)`.

    Args:
        beta: scale of the reward, positive.
        gamma: target margin, zero or more. The Python number 0 leaves the margin out. The minimiser then has
            a closed form.
        length_normalised: whether log-probabilities are divided by lengths.

    Raises:
        ValueError: `beta <= 0`, `gamma < 0`, or `length_normalised` is not a boolean.
    """
    _checks.instance("length_normalised", length_normalised, bool, "True or False")
    margin = None if _is_plain_zero(gamma) else _checks.non_negative("gamma", gamma)
    reward = LogProb(_checks.positive("beta", beta), per_token=length_normalised)
    return Objective(Pair(reward, Logistic(margin=margin)))


def alphapo(
    beta: ScalarLike = 2.0,
    gamma: ScalarLike = 1.0,
    alpha: ScalarLike = 0.25,
) -> Objective:
    """AlphaPO: SimPO with a power of the probability in place of its logarithm.

        −log σ(r(y_w) − r(y_l) − gamma),    r(y) = beta · (1 − P^−alpha)/alpha,    log P = log π(y)/|y|

    The limit `alpha → 0` is SimPO. Source: Gupta et al., "AlphaPO: reward shape matters for LLM alignment"
    (arXiv 2501.03884). `alpha` is one of the paper's values; the other defaults are those of `simpo`. Here
    `gamma` is the margin itself. Some trainers ask for `gamma / beta`. The reward overflows if the mean
    log-probability of the tokens is below −88/alpha nats in float32, or −709/alpha in float64. Training then
    raises `DivergenceError`.

    In TRL: `CPOConfig(loss_type="alphapo", alpha, beta)`.

    Args:
        beta: scale of the reward, positive.
        gamma: target margin, zero or more. The Python number 0 leaves the margin out. The minimiser then is
            known up to one root.
        alpha: power of the probability, above 0. The paper's negative powers bound the reward on both sides,
            so that most preferences have no policy. They are refused here.

    Raises:
        ValueError: `beta <= 0`, `gamma < 0`, or `alpha` is not in [1e-6, 100].
    """
    margin = None if _is_plain_zero(gamma) else _checks.non_negative("gamma", gamma)
    reward = PowerProb(_checks.positive("beta", beta), _checks.within("alpha", alpha, 1e-6, 100))
    return Objective(Pair(reward, Logistic(margin=margin)))


def orpo(weight: ScalarLike = 0.1) -> Objective:
    """Odds-ratio preference optimisation: a likelihood term and an odds-ratio term.

        −log P(y_w) − weight · log σ(log odds(y_w) − log odds(y_l)),
        log P(y) = log π(y) / |y|,    odds(y) = P(y) / (1 − P(y))

    Source: Hong, Lee, Thorne, "ORPO" (arXiv 2403.07691), which calls the weight lambda. In TRL the likelihood
    term is over the tokens of the prompt as well. Here there is no prompt.

    In TRL: `ORPOConfig(beta=weight)`.

    Args:
        weight: factor of the odds-ratio term, positive.

    Raises:
        ValueError: `weight <= 0`.
    """
    odds = Pair(LogOdds(), Logistic(), _checks.positive("weight", weight))
    return Objective(odds, _likelihood(per_token=True))


def cpo(beta: ScalarLike = 0.1, weight: ScalarLike = 1.0) -> Objective:
    """Contrastive preference optimisation: DPO without a reference, plus a likelihood term.

        −log σ(beta · [log π(y_w) − log π(y_l)]) − weight · log π(y_w)

    Source: Xu et al., "Contrastive preference optimization" (arXiv 2401.08417). Its likelihood term has
    weight 1 and is a sum over tokens. Some trainers take the mean over tokens.

    In TRL: `CPOConfig(beta)`, with a mean over tokens in the likelihood term.

    Args:
        beta: scale of the reward, positive.
        weight: factor of the likelihood term, positive.

    Raises:
        ValueError: `beta <= 0` or `weight <= 0`.
    """
    reward = LogProb(_checks.positive("beta", beta), per_token=False)
    return Objective(Pair(reward, Logistic()), _likelihood(weight=_checks.positive("weight", weight)))


def reference_free(beta: ScalarLike = 0.1) -> Objective:
    """DPO without its reference: the reward is `beta · log π`.

        −log σ(beta · [log π(y_w) − log π(y_l)])

    This is also CPO without its likelihood term, and SimPO without its margin and length normalisation.

    Args:
        beta: scale of the reward, positive.

    Raises:
        ValueError: `beta <= 0`.
    """
    return Objective(Pair(LogProb(_checks.positive("beta", beta), per_token=False), Logistic()))


def sft(length_normalised: bool = False) -> Objective:
    """Supervised fine-tuning: the negative log-likelihood of the chosen sequence.

        −log π(y_w)

    It can be added to another loss with a weight: `dpo(0.1) + 0.5 * sft()`. TRL's `sft` pools the tokens of a
    batch: it divides the sum of all log-probabilities by the number of all tokens. So a long sequence counts
    more than with `length_normalised=True`, which takes the mean of each sequence first.

    In TRL: `DPOConfig(loss_type="sft")`, with a mean over tokens.

    Args:
        length_normalised: whether the loss is divided by `|y_w|`.

    Raises:
        ValueError: `length_normalised` is not a boolean.
    """
    _checks.instance("length_normalised", length_normalised, bool, "True or False")
    return Objective(_likelihood(per_token=length_normalised))


def _likelihood(weight: Scalar | None = None, per_token: bool = False) -> Single:
    """The negative log-likelihood of the chosen sequence."""
    return Single(LogProb(jnp.asarray(1.0), per_token), Linear(), weight, sequence="chosen", push="up")


def _is_plain_zero(value: Any) -> bool:
    return isinstance(value, numbers.Real) and value == 0
