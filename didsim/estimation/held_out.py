"""What is kept out of a fit, and how a policy does on it."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike, Float, Int, Key

from didsim import _checks
from didsim._calibration import fit_slopes
from didsim.information import LogProbsLike
from didsim.objectives.objective import Objective, check_lengths
from didsim.preferences.explicit import NamedPairs, Pairs
from didsim.preferences.problem import at_indices

PairsLike = Pairs | NamedPairs


class HeldOut(NamedTuple):
    """How policies do on pairs that they were not fitted to. `didsim.held_out` makes it.

    `h` is the difference of the implicit rewards of a pair's winner and loser.

    Attributes:
        log_loss: the mean of `−log σ(h)`, in nats; `log 2` for a policy that knows nothing.
        accuracy: the share of pairs with `h > 0`; half of those with `h = 0`.
        slope: the calibration slope, the `c` at which `σ(c · h)` is most probable. It is 1 for a calibrated
            policy and less for one that is too sure. It is `inf` if all pairs are ranked rightly, and NaN if
            all `h` are 0.
    """

    log_loss: Float[np.ndarray, "*batch"]
    accuracy: Float[np.ndarray, "*batch"]
    slope: Float[np.ndarray, "*batch"]


def held_out(
    objective: Objective,
    log_probs: LogProbsLike,
    reference: LogProbsLike,
    pairs: PairsLike,
    lengths: Int[ArrayLike, " sequences"] | None = None,
) -> HeldOut:
    """The log loss, the accuracy and the calibration slope of policies on pairs.

    All three are weighted by the weights of the pairs. A soft label `p` counts as `p` of a win and `1 − p` of
    a loss, and a tie as half of each. The log loss is that of the model `P(chosen wins) = σ(h)`, whatever
    loss the objective has, so that objectives and parameters can be compared.

    Args:
        objective: its implicit reward is `h`'s. A batch of objectives, made by `jax.vmap`, is not taken.
        log_probs: the policies, `[*batch, sequences]`: a minimiser, or the policies along a run, as recorded
            by `Record(metrics={"log_probs": lambda s: s.log_probs})`.
        reference: the reference policy, `[sequences]`.
        pairs: the pairs, without batch axes.
        lengths: number of tokens of every sequence; by default all count as one token.

    Returns:
        A `HeldOut`; NaN for a policy that is NaN, as that of a problem without a minimiser. O(N + pairs) for
        each policy.

    Raises:
        ValueError: `log_probs` or `reference` is not normalised, shapes do not fit, or `pairs` has batch axes
            or an index that is not below the number of sequences.

    Examples:
        >>> import didsim
        >>> reference = jnp.log(jnp.full(2, 0.5))
        >>> pairs = Pairs(winners=[0, 0, 0, 1], losers=[1, 1, 1, 0])
        >>> overconfident = jnp.log(jnp.array([0.9, 0.1]))
        >>> found = held_out(didsim.dpo(1.0), overconfident, reference, pairs)  # h = ± log 9, for ± log 3
        >>> [round(float(one), 4) for one in found]
        [0.6547, 0.75, 0.5]
    """
    _checks.instance("objective", objective, Objective, "an Objective")
    data = _without_batch("pairs", pairs).ordered()
    given = _checks.float_array("log_probs", log_probs)
    lost = jnp.isnan(given).any(axis=-1)
    # In place of a policy that is NaN, a valid one.
    whole = jnp.where(lost[..., None], -jnp.log(max(given.shape[-1], 1)).astype(given.dtype), given)
    policies = _checks.distribution("log_probs", whole)
    reference = _checks.distribution("reference", reference)
    _checks.same_sequences(log_probs=policies, reference=reference)
    data.check_size(policies.shape[-1])
    lengths = check_lengths(lengths, policies.shape[-1])
    with jax.enable_x64(True):
        reward = objective.reward.of_space(
            jnp.asarray(policies, float), jnp.asarray(reference, float), lengths
        )
        h = np.asarray(at_indices(reward, data.winners) - at_indices(reward, data.losers))
    weights = np.asarray(data.weighted().weights, float)
    weights = weights / weights.sum()
    flat = h.reshape(-1, h.shape[-1]).T
    slopes = fit_slopes(flat, np.broadcast_to(weights[:, None], flat.shape))
    found = HeldOut(
        np.logaddexp(0, -h) @ weights,
        ((h > 0) + 0.5 * (h == 0)) @ weights,
        np.reshape(slopes, h.shape[:-1]),
    )
    return HeldOut(*(np.where(lost, np.nan, one) for one in found))


def split(
    data: PairsLike,
    *,
    key: Key[Any, ""],
    share: float = 0.2,
    by: str | Int[ArrayLike, " pairs"] = "pair",
) -> tuple[Any, Any]:
    """Split pairs at random into those to fit and those to hold out.

    Args:
        data: the pairs, without batch axes.
        key: random key.
        share: the share of clusters to hold out, between 0 and 1. At least one is held out, and one is not.
        by: what stays together: "pair" (nothing), "prompt" (the pairs of a prompt, which data with names must
            have), or the index of the cluster of each pair.

    Returns:
        The pairs to fit, and the pairs held out, each in the order of `data` and of its class. The items keep
        their indices, though some may be in no pair of a part.

    Raises:
        ValueError: `share` is not between 0 and 1, `by` is none of these, or there are fewer than two
            clusters.

    Examples:
        >>> data = Pairs(winners=jnp.arange(10), losers=jnp.arange(10) + 1)
        >>> fitted, kept = split(data, key=jax.random.key(0), share=0.3)
        >>> len(fitted.winners), len(kept.winners)
        (7, 3)
    """
    share = _checks.real("share", share, _checks.positive)
    if share >= 1:
        raise ValueError(f"`share` must be between 0 and 1; got {share}")
    order, cluster = _shuffled(data, by, key)
    num = int(np.clip(round(share * len(order)), 1, len(order) - 1))
    out = order[cluster] < num
    return part_of(data, ~out), part_of(data, out)


def folds_of(data: PairsLike, by: Any, key: Any, folds: int) -> Int[np.ndarray, " pairs"]:
    """The fold of each pair, by clusters; folds have equally many clusters, to within one."""
    order, cluster = _shuffled(data, by, key)
    if len(order) < folds:
        raise ValueError(f"`folds` must be at most the number of clusters, {len(order)}; got {folds}")
    return order[cluster] % folds


def part_of(data: Any, kept: np.ndarray) -> Any:
    """Some of the pairs, in their order. Items keep their indices."""
    if isinstance(data, NamedPairs):
        prompt = None if data.prompt is None else data.prompt[kept]
        return data._replace(pairs=part_of(data.pairs, kept), prompt=prompt)
    weights, labels, tied = (
        None if one is None else np.asarray(one)[kept] for one in (data.weights, data.win_probs, data.tied)
    )
    ends = np.asarray(data.winners)[kept], np.asarray(data.losers)[kept]
    if weights is not None and not weights.any():
        raise ValueError("`data` must have pairs of positive weight in both parts; one part has none")
    return Pairs(*ends, weights, win_probs=labels, tied=tied)


def _shuffled(data: Any, by: Any, key: Any) -> tuple[np.ndarray, np.ndarray]:
    """A place in a random order for each cluster, and the cluster of each pair."""
    pairs = _without_batch("data", data)
    count = len(pairs.winners)
    if isinstance(by, str):
        _checks.one_of("by", by, ("pair", "prompt"))
        prompt = data.prompt if isinstance(data, NamedPairs) else None
        if by == "prompt" and prompt is None:
            raise ValueError('`by` must be "pair" for data that name no prompts; got "prompt"')
        cluster = np.arange(count) if by == "pair" else np.asarray(prompt)
    else:
        cluster = np.asarray(_checks.indices("by", by, np.iinfo(np.int32).max))
        if cluster.shape != (count,):
            raise ValueError(f"`by` must have one entry for each of {count} pairs; got shape {cluster.shape}")
    names, cluster = np.unique(cluster, return_inverse=True)
    if len(names) < 2:
        raise ValueError(f"`data` must have two clusters or more, to hold one out; got {len(names)}")
    return np.asarray(jax.random.permutation(_checks.one_key("key", key), len(names))), cluster


def _without_batch(name: str, data: Any) -> Pairs:
    pairs = data.pairs if isinstance(data, NamedPairs) else data
    _checks.instance(name, pairs, Pairs, "Pairs, or pairs with names")
    if pairs.batch_shape:
        raise ValueError(f"`{name}` must be one dataset; got a batch of shape {pairs.batch_shape}")
    return pairs
