"""What the answer keys of the notebooks hold. `python -m tests.notebooks.keys` writes them."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import didsim
from didsim.exercises import Exercise, write_key

FOLDER = Path(__file__).parents[2] / "notebooks" / "keys"


def _log(*probabilities: float) -> Any:
    return np.log(probabilities)


def five_minutes() -> list[Exercise]:
    def displacement(chosen: Any, reference: Any, policy: Any) -> Any:
        return didsim.expectation(np.log(chosen), np.log(policy) - np.log(reference))

    reference, new = _log(0.05, 0.25, 0.40, 0.30), _log(0.05, 0.45, 0.30, 0.20)
    instances = [
        ([0.5, 0.3, 0.2], [0.5, 0.3, 0.2], [0.2, 0.2, 0.6]),
        ([0.2, 0.2, 0.6], [0.5, 0.3, 0.2], [0.2, 0.2, 0.6]),
        ([0.1, 0.1, 0.4, 0.4], [0.25, 0.25, 0.25, 0.25], [0.4, 0.3, 0.2, 0.1]),
    ]
    return [
        Exercise(
            expected=-didsim.kl(reference, new),
            because="It falls by KL(reference ‖ new), the least where the policy moves little.",
            hint="Chosen answers are the reference's, so the mean of log(new/reference) is under the "
            "reference.",
        ),
        Exercise(
            expected=True,
            because="If they were, the change would be −KL(reference ‖ policy), which is never above zero.",
            hint="Put the reference into the identity for the distribution of chosen answers. Which sign is "
            "left?",
        ),
        Exercise.of_function(
            displacement,
            instances,
            because="It is the mean of log(policy/reference) under the chosen distribution, whatever the "
            "three are.",
            hint="The mean of log(policy/reference), in which each answer counts with its share of the "
            "chosen ones.",
        ),
    ]


def differential_information() -> list[Exercise]:
    old, new = _log(0.4, 0.3, 0.2, 0.1), _log(0.1, 0.2, 0.3, 0.4)
    bonus = didsim.bayes_update(old, jnp.array([3.0, 0.0, 0.0, 0.0]))
    forth, back = didsim.did_entropy(bonus, old), didsim.did_entropy(old, bonus)
    instances = [
        (new, old),
        (old, new),
        (bonus, old),
        (_log(0.5, 0.25, 0.25), _log(0.2, 0.2, 0.6)),
        (np.log(np.full((3,), 1 / 3)), np.log(np.full((3,), 1 / 3))),
    ]
    return [
        Exercise(
            expected=jnp.exp(didsim.did(new, old)),
            because="The ratios are 1/4, 2/3, 3/2 and 4. Divided by their sum they are the DID. The last "
            "sequence "
            "went from 0.1 to 0.4 only, but nearly two thirds of the lesson are about it.",
            hint="Divide new by old probabilities, entry by entry, and then by the sum of the ratios. The "
            "DID is "
            "the new policy itself only if the old one is uniform.",
        ),
        Exercise(
            expected=0.0,
            because="t − 1 must be −1. At t = 0 the policy is uniform: to get there, divide the reference "
            "out.",
            hint="The exponent of the DID is not t but t − 1, since the DID is the new policy over the old.",
        ),
        Exercise(
            expected=bool(jnp.isclose(forth, back)),
            because=f"Take four sequences, (0.4, 0.3, 0.2, 0.1), and a bonus of 3 nats for the first. Its "
            "DID has "
            f"an entropy of {forth:.2f} nats, that of taking it back {back:.2f}. One lesson is about a "
            "single "
            "sequence; its inverse, 1/q, is about the three others.",
            hint="One DID is the inverse of the other. Think of a bonus for a single sequence: which "
            "sequences "
            "gain when it is taken back?",
        ),
        Exercise.of_function(
            didsim.did_entropy,
            instances,
            because="The DID is log_softmax(policy − reference), and its entropy −Σ q log q.",
            hint="Subtract the log-probabilities, normalise, and take −Σ q log q. The result of no update is "
            "log N.",
        ),
    ]


def what_dpo_learns() -> list[Exercise]:
    old, wanted = _log(0.4, 0.3, 0.2, 0.1), _log(0.1, 0.2, 0.3, 0.4)
    pairs = didsim.Contrastive(old, didsim.optimal_rejected(old, wanted, 0.2))
    end = didsim.fixed_point(didsim.dpo(0.1), old, pairs)

    def rises(reference: Any, chosen: Any, rejected: Any, beta: float) -> Any:
        limit = didsim.fixed_point(didsim.dpo(beta), reference, didsim.Contrastive(chosen, rejected))
        return limit > jnp.asarray(reference)

    instances = [
        (old, old, wanted, 0.5),
        (_log(0.2, 0.1, 0.4, 0.3), _log(0.1, 0.3, 0.25, 0.35), _log(0.3, 0.25, 0.2, 0.25), 0.5),
        (_log(0.2, 0.1, 0.4, 0.3), _log(0.1, 0.3, 0.25, 0.35), _log(0.3, 0.25, 0.2, 0.25), 2.0),
        (_log(0.6, 0.3, 0.1), _log(0.5, 0.3, 0.2), _log(0.25, 0.25, 0.5), 1.0),
    ]
    return [
        Exercise(
            expected=jnp.ptp(end - old) / jnp.ptp(wanted - old),
            because="The log-ratio of the limit to the reference is 0.2/0.1 = 2 times that of the target.",
            hint="The position is one beta divided by the other. A small beta in training goes further.",
        ),
        Exercise(
            expected=didsim.optimal_rejected(old, wanted, 1.0),
            because="π_l ∝ old · (old/wanted)^1, and DPO on those pairs ends at `wanted`.",
            hint="Solve the box for π_l, with π_w = π_ref and beta = 1, and normalise: "
            "didsim.optimal_rejected.",
        ),
        Exercise(
            expected="uniform",
            because="Its limit is (π_w/π_l)^(1/beta) = 1, normalised. With no reference it forgets the "
            "prior.",
            hint="SimPO's limit is (π_w/π_l)^(1/beta), normalised. What is it where the two are equal?",
        ),
        Exercise.of_function(
            rises,
            instances,
            because="A response rises if (π_w/π_l)^(1/beta) is above the mean of this under the reference.",
            hint="It is not enough that a response is chosen more often than rejected. Compare "
            "(π_w/π_l)^(1/beta) with its mean under the reference.",
        ),
    ]


def log_margin_order() -> list[Exercise]:
    reference = _log(0.4, 0.3, 0.2, 0.1)
    law = didsim.fit_power_law(didsim.temper(reference, 2.0), reference, didsim.temper(reference, 0.8))
    many = didsim.normal_logits(jax.random.split(jax.random.key(4), (2, 100)), size=64)
    lost = didsim.REJECTED["perturbed"](jax.random.key(5), *many, 0.5, noise=1e4)
    share = didsim.check_order(many[1], many[0], lost).fraction.mean()
    three = didsim.normal_logits(jax.random.split(jax.random.key(6), 3), size=5)
    target = _log(0.25, 0.1, 0.25, 0.4)

    def share_ordered(target: Any, reference: Any, rejected: Any) -> Any:
        return didsim.check_order(target, reference, rejected).fraction

    return [
        Exercise(
            expected=(1 - 0.5) / (3 - 1),
            because="The step from the rejected to the reference is 0.5, that from the reference to the "
            "target 2.",
            hint="Divide the step from rejected to reference by the step from reference to target.",
        ),
        Exercise(
            expected=law.exponent,
            because="log(π_ref/π_l) is 0.2 log π_ref and log(π*/π_ref) is 1 log π_ref, up to constants. The "
            "power "
            "law holds, and its exponent is their ratio.",
            hint="Write log(π_ref/π_l) and log(π*/π_ref) as multiples of log π_ref, and divide one by the "
            "other.",
        ),
        Exercise(
            expected=0.5,
            because=f"The second step has a random sign: right for one pair in two. Measured: {share:.3f}.",
            hint="The step from rejected to reference is pure noise then. How often has it the sign of the "
            "other?",
            tolerance=0.02,
        ),
        Exercise.of_function(
            share_ordered,
            [
                tuple(three),
                (target, reference, didsim.optimal_rejected(reference, target, 0.3)),
                (target, reference, target),
            ],
            because="A pair is ordered if the steps of log π(y₁)/π(y₂), from rejected to reference and from "
            "reference to target, have one sign.",
            hint="A pair counts once, whichever response comes first; a response is no pair with itself. "
            "Compare "
            "the signs of two steps of the log-margin.",
        ),
    ]


def why_chosen_logps_fall() -> list[Exercise]:
    old, new = _log(0.5, 0.3, 0.2), _log(0.2, 0.2, 0.6)
    limit = didsim.fixed_point(didsim.dpo(1.0), old, didsim.Contrastive(new, old))

    def first_step(features: Any, weights: Any, chosen: int, rejected: int) -> Any:
        policy = didsim.LogLinear(features, weights)
        direction = policy.features[chosen] - policy.features[rejected]

        def chosen_logp(weights: Any) -> Any:
            return didsim.LogLinear(features, weights).log_probs()[chosen]

        return jax.grad(chosen_logp)(policy.weights) @ direction

    table = np.eye(3)
    return [
        Exercise(
            expected=didsim.expectation(old, new),
            because=f"It falls by KL(old ‖ new) = {didsim.kl(old, new):.3f} nats, to the mean of log new "
            "under old.",
            hint="It falls by KL(old ‖ new), which didsim.kl gives. Mind that KL is not symmetric.",
        ),
        Exercise(
            expected=didsim.expectation(new, limit - old),
            because="DPO ends at old · (new/old)^1 = new, so it rises by KL(new ‖ old).",
            hint="Find where DPO ends: reference · (chosen/rejected)^(1/beta). Then take the mean of "
            "log(end/old) "
            "under the distribution that chosen responses come from.",
        ),
        Exercise(
            expected=False,
            because="In the section on entropy the log-probability fell for both targets, and the entropy "
            "rose in "
            "the smoothing instances and fell in the reinforcing ones.",
            hint="Look at both panels of the figure with the reinforcing and the smoothing target.",
        ),
        Exercise.of_function(
            first_step,
            [
                ([[-1.5], [-1.0], [1.0]], [-1.0], 1, 0),
                ([[-1.5], [-1.0], [1.0]], [-4.0], 1, 0),
                (table, [0.3, -0.2, 0.5], 2, 0),
                ([[1.0, 0.5], [0.8, 0.6], [-1.0, 2.0], [0.0, -1.0]], [0.5, -0.3], 0, 1),
            ],
            because="It is ⟨f(y_w) − E_π f, f(y_w) − f(y_l)⟩, which is negative where the policy's average "
            "lies "
            "beyond the chosen response.",
            hint="The policy is softmax(features @ weights), and E_π f is its mean of the rows.",
        ),
    ]


def build_your_own() -> list[Exercise]:
    reference, target = didsim.normal_logits(jax.random.split(jax.random.key(0)), size=16)

    def careless(target: Any, beta: float, share: float) -> Any:
        return didsim.mixture(reference, didsim.optimal_rejected(reference, target, beta), share)

    d = jnp.linspace(-2, 2, 4001)
    loss = 0.8 * jnp.maximum(0, 1 - d) ** 2 + 0.2 * jnp.maximum(0, 1 + d) ** 2
    factor = jnp.exp((reference - careless(jax.nn.log_softmax(100 * target), 0.5, 0.2)) / 0.5)
    rejected = careless(target, 1e-4, 0.3)
    limit = didsim.fixed_point(didsim.dpo(1e-4), reference, didsim.Contrastive(reference, rejected))

    def smoothed(difference: Any, share: float) -> Any:
        return (1 - share) * jax.nn.softplus(-difference) + share * jax.nn.softplus(difference)

    return [
        Exercise(
            expected=d[loss.argmin()],
            because="It is 2p − 1 = 0.6. DPO would like log(0.8/0.2) = 1.386, and more and more as p comes "
            "to 1; "
            "the squared hinge never likes more than 1.",
            hint="Set the derivative of p (1 − d)² + (1 − p)(1 + d)² to zero. Log odds are what DPO likes.",
        ),
        Exercise(
            expected=factor.max(),
            because="Rejected responses have at least 0.2 of the reference's probability. So the ratio is at "
            "most "
            "1/0.2 = 5, and 5² = 25: careless pairs bound what DPO can learn.",
            hint="How small can the rejected probability get, next to the reference's? Do not forget the "
            "exponent "
            "1/beta.",
        ),
        Exercise(
            expected=jnp.std(limit - reference) / jnp.std(target - reference),
            because="With r = target/reference, rejected/reference is near s + (1 − s)(1 − beta log r) = "
            "1 − (1 − s) beta log r. To the power −1/beta that is r^(1 − s): DPO goes 1 − s = 0.7 of the "
            "way.",
            hint="For small beta, r^(−beta) is near 1 − beta log r. Mix that with s, and put it into DPO's "
            "limit.",
        ),
        Exercise.of_function(
            smoothed,
            [([-1.0, 0.0, 2.0], 0.1), ([-800.0, 800.0], 0.0), ([-750.0, 3.0], 0.25)],
            because="(1 − s) softplus(−d) + s softplus(d). It is what the cDPO of the library does.",
            hint="−log σ(d) is softplus(−d), and −log σ(−d) is softplus(d). Exponentials of 800 overflow; "
            "jax.nn.softplus and jnp.logaddexp do not.",
        ),
    ]


def finite_pairs() -> list[Exercise]:
    def has_minimiser(winners: Any, losers: Any, size: int) -> bool:
        reference = np.full(size, -np.log(size))
        return bool(didsim.solve(didsim.dpo(), reference, didsim.Pairs(winners, losers)).certificate.finite)

    cycle = (np.array([0, 1, 2, 3]), np.array([1, 2, 3, 0]), 4)
    return [
        Exercise(
            expected=1.0,
            because="One pair that D wins against A. Then arrows lead around, from each to each.",
            hint="Draw an arrow from each winner to the loser. From where can you not get back?",
        ),
        Exercise(
            expected=False,
            because="A and B can have beaten one another, and so can C and D. If nothing else was compared, "
            "or if only "
            "A ever beat C, there is no way back.",
            hint="Try four responses, in two groups of two.",
        ),
        Exercise(
            expected=0.2 * 0.25,
            because="The best rewards on this ray are c · beta · log(π/π_ref): those of the same policy, "
            "with "
            "c · beta = 0.05 for beta.",
            hint="The rewards c · h are calibrated, and h is beta times the log-ratio.",
        ),
        Exercise.of_function(
            has_minimiser,
            [
                cycle,
                (np.array([0, 1, 2]), np.array([1, 2, 3]), 4),
                (np.array([0, 1, 2, 3]), np.array([1, 0, 3, 2]), 4),
                (np.array([0, 1, 2, 3, 0]), np.array([1, 0, 3, 2, 2]), 4),
                (np.array([0, 1, 2, 3, 0, 3]), np.array([1, 0, 3, 2, 2, 1]), 4),
                (np.array([0, 1, 2]), np.array([1, 2, 0]), 4),
            ],
            because="Every response can be reached from every other along arrows from winners to losers.",
            hint="It is not enough that each has won and lost, nor that comparisons join all. Follow the "
            "arrows "
            "from a response as far as they lead, both ways.",
        ),
    ]


def your_own_run() -> list[Exercise]:
    def log_entry(chosen: Any, rejected: Any, ref_chosen: Any, ref_rejected: Any, beta: float) -> Any:
        loss = didsim.dpo(beta).pair_loss(chosen, rejected, ref_chosen, ref_rejected).mean()
        margins = beta * (chosen - ref_chosen - rejected + ref_rejected)
        return jnp.array([loss, margins.mean(), (margins > 0).mean()])

    pairs = np.array(
        [[-10.0, -12.0, -9.0], [-11.0, -10.0, -14.0], [-11.0, -11.0, -9.5], [-9.0, -10.5, -12.0]]
    )
    return [
        Exercise(
            expected=-1.52 / 0.1,
            because="rewards/chosen is beta · log(π/π_ref), so it is −1.52/0.1 = −15.2 nats.",
            hint="A reward is beta times the displacement.",
            tolerance=0.01,
        ),
        Exercise(
            expected=False,
            because="By Jensen's inequality the mean of −log σ(d) is at least −log σ of the mean margin, "
            "0.24.",
            hint="Compare the loss with that of pairs which all have the mean margin.",
        ),
        Exercise.of_function(
            log_entry,
            [(*pairs, 0.1), (*pairs, 2.0), (*(pairs[:, :1] - 3), 0.5)],
            because="These are the columns loss, rewards/margins and rewards/accuracies of TRL's log.",
            hint="A reward is beta · (log π − log π_ref). The loss is the mean of −log σ(margin), not −log σ "
            "of the "
            "mean.",
        ),
    ]


EXERCISES = {
    "00_five_minutes": five_minutes,
    "01_differential_information": differential_information,
    "02_what_dpo_learns": what_dpo_learns,
    "03_log_margin_order": log_margin_order,
    "04_why_chosen_logps_fall": why_chosen_logps_fall,
    "05_build_your_own": build_your_own,
    "06_finite_pairs": finite_pairs,
    "07_your_own_run": your_own_run,
}


def main() -> None:
    jax.config.update("jax_enable_x64", True)
    for name, exercises in EXERCISES.items():
        write_key(FOLDER / f"{name}.key", exercises())


if __name__ == "__main__":
    main()
