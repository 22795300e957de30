"""Section 5: how likelihoods and entropy change."""

import jax
import jax.numpy as jnp
from jax.nn import log_softmax, logsumexp
from jaxtyping import Array, Float

from didsim.fixed_points.solve import fixed_point
from didsim.information import did, did_entropy, entropy, expectation, geodesic, kl
from didsim.objectives.catalogue import dpo, dpo_pg
from didsim.policies import LogLinear
from didsim.preferences.contrastive import Contrastive
from didsim.preferences.explicit import Pairs
from didsim.preferences.rejected import optimal_rejected
from didsim.theory.cases import Case
from didsim.theory.checks import OURS, PAPER, claim, exact, largest, off


@exact(
    5,
    PAPER,
    "If chosen responses come from π_ref, the target lowers their log-likelihood by exactly KL(π_ref ‖ π*)",
)
def chosen_displacement(case: Case) -> Array:
    """The displacement at DPO's limit, with the optimal rejected distribution."""
    reference, target = case.reference, case.target
    problem = Contrastive(reference, optimal_rejected(reference, target, case.beta))
    limit = fixed_point(dpo(case.beta), reference, problem)
    fall = expectation(reference, limit) - expectation(reference, reference)
    sizes = reference, target, reference / case.beta, target / case.beta
    return off(fall, -kl(reference, target), *sizes)


@exact(
    5,
    PAPER,
    "If rejected responses come from π_ref, the target lowers their log-likelihood by exactly KL(π_ref ‖ π*)",
)
def rejected_displacement(case: Case) -> Array:
    """Chosen responses come from `π_ref (π*/π_ref)^β`, so that preferences encode the same information."""
    reference, target = case.reference, case.target
    chosen = geodesic(reference, did(target, reference), case.beta)
    limit = fixed_point(dpo(case.beta), reference, Contrastive(chosen, reference))
    fall = expectation(reference, limit) - expectation(reference, reference)
    sizes = reference, target, reference / case.beta, target / case.beta
    return off(fall, -kl(reference, target), *sizes)


@exact(5, PAPER, "At DPO's limit, E_w log(π_∞/π_ref) = KL(π_w ‖ π_l)/β − log Σ π_ref (π_w/π_l)^(1/β)")
def displacement_at_the_limit(case: Case) -> Array:
    """For any chosen and rejected distributions."""
    reference, chosen, rejected = case.reference, case.target, case.third
    limit = fixed_point(dpo(case.beta), reference, Contrastive(chosen, rejected))
    ratio = (chosen - rejected) / case.beta
    expected = kl(chosen, rejected) / case.beta - logsumexp(reference + ratio)
    return off(expectation(chosen, limit - reference), expected, ratio, chosen / case.beta, reference)


@exact(
    5,
    OURS,
    "At DPO's limit the chosen displacement is concave in 1/β, with slope KL(π_w ‖ π_l) + KL(π_ref ‖ π_w) − "
    "KL(π_ref ‖ π_l) at 0: unless this is positive, the chosen likelihood rises at no β",
)
def displacement_is_concave(case: Case) -> Array:
    """The slope at 0, and the displacement, which must not pass above the tangent there.

    With `x = log(π_w/π_l)` the displacement at `s = 1/β` is `s E_w[x] − log E_ref[e^(s x)]`. The second term
    is minus a cumulant generating function, so it is concave. At 0 the slope is `E_w[x] − E_ref[x]`.
    """
    reference, chosen, rejected = case.reference, case.target, case.third
    tangent = kl(chosen, rejected) + kl(reference, chosen) - kl(reference, rejected)

    def displacement(s: Array) -> Array:
        policy = geodesic(reference, chosen - rejected, s)
        return expectation(chosen, policy - reference)

    limit = fixed_point(dpo(case.beta), reference, Contrastive(chosen, rejected))
    ratio = (chosen - rejected) / case.beta
    size = 1 + jnp.max(jnp.abs(ratio)) + jnp.max(jnp.abs(reference))
    above = expectation(chosen, limit - reference) - tangent / case.beta
    return largest(
        off(jax.grad(displacement)(jnp.zeros(())), tangent, chosen, rejected, reference),
        jnp.maximum(0, above) / size,
    )


@exact(
    5,
    OURS,
    "If chosen responses come from τ, rejected ones from the policy, which is the reference too, a round of "
    "DPO multiplies log(π/τ) by 1 − 1/β, up to a constant: rounds tend to τ from everywhere iff β > 1/2",
)
def refinement_contracts(case: Case) -> Array:
    """The error after one round, beside that before it."""
    policy, teacher = case.reference, case.target
    limit = fixed_point(dpo(case.beta), policy, Contrastive(teacher, policy))
    before, after = policy - teacher, limit - teacher
    before, after = before - before[0], after - after[0]
    return off(
        after, (1 - 1 / case.beta) * before, before / case.beta, policy / case.beta, teacher / case.beta
    )


@exact(5, OURS, "Entropy along the geodesic: dH(π_s)/ds = −Cov_{π_s}(log π_s, log q)")
def entropy_slope(case: Case) -> Array:
    """The formula against the derivative, at any position."""
    log_q = did(case.target, case.reference)

    def path(s: Array) -> Array:
        return entropy(geodesic(case.reference, log_q, s))

    p = geodesic(case.reference, log_q, case.position)
    covariance = expectation(p, (p - expectation(p, p)) * (log_q - expectation(p, log_q)))
    size = (1 + jnp.max(jnp.abs(log_q))) * (1 + jnp.max(jnp.abs(p)))
    return off(jax.grad(path)(case.position), -covariance, size)


@exact(5, OURS, "The mass of a set R along the geodesic: d log π_s(R)/ds = E[log q | R] − E[log q] under π_s")
def mass_slope(case: Case) -> Array:
    """The formula against the derivative, at any position. `R` is the first half of the sequences."""
    log_q = did(case.target, case.reference)
    half = (case.size + 1) // 2

    def log_mass(s: Array) -> Array:
        return logsumexp(geodesic(case.reference, log_q, s)[:half])

    p = geodesic(case.reference, log_q, case.position)
    inside = jnp.sum(jax.nn.softmax(p[:half]) * log_q[:half])
    return off(jax.grad(log_mass)(case.position), inside - expectation(p, log_q), log_q, p)


@exact(
    5, OURS, "The first step along q lowers entropy iff log q and log π_ref correlate positively under π_ref"
)
def first_step(case: Case) -> Array:
    """By how much a small step changes entropy against the sign of the slope, beyond second-order terms."""
    log_q = did(case.target, case.reference)
    reference = case.reference
    slope = -expectation(
        reference, (reference - expectation(reference, reference)) * (log_q - expectation(reference, log_q))
    )
    span = jnp.max(log_q) - jnp.min(log_q)
    step = 1e-4 / (1 + span)

    def path(s: Array) -> Array:
        return entropy(geodesic(reference, log_q, s))

    change = path(step) - path(jnp.zeros(()))
    # A bound on the second derivative of the entropy along the step.
    bend = 4 * span**2 * (2 + jnp.max(jnp.abs(reference)))
    against = jnp.where(slope > 0, -change, change)
    allowed = bend * step**2 / 2
    return jnp.maximum(0, against - allowed) / (1 + jnp.max(jnp.abs(reference)))


@claim(
    5,
    PAPER,
    "A DID of low entropy (below half of log N) reinforces the policy, a DID of high entropy smooths it",
)
def low_entropy_reinforces(case: Case) -> Array:
    """Whether the target has less entropy than the reference exactly if the DID's entropy is low."""
    low = did_entropy(case.target, case.reference) < jnp.log(case.size) / 2
    return low == (entropy(case.target) < entropy(case.reference))


@claim(
    5,
    PAPER,
    "Smoothing shows as displacement: entropy grows iff the chosen log-likelihood falls by over 0.5 nats",
)
def smoothing_displaces(case: Case) -> Array:
    """Chosen responses come from the reference, and the policy is the target."""
    smoothed = entropy(case.target) > entropy(case.reference)
    return smoothed == (kl(case.reference, case.target) > 0.5)


@claim(
    5,
    PAPER,
    "The chosen log-likelihood can first rise and end below its start, or first fall and end above it",
)
def displacement_turns(case: Case) -> Array:
    """Whether it does so, under gradient flow on logits from the reference.

    At the reference, the gradient of the loss is `−β (π_w − π_l)/2`. The gradient of the chosen
    log-likelihood is `π_w − π_ref`.
    """
    w, el, reference = (jnp.exp(one) for one in (case.target, case.third, case.reference))
    start = jnp.sum((w - el) * (w - reference))
    limit = fixed_point(dpo(case.beta), case.reference, Contrastive(case.target, case.third))
    end = expectation(case.target, limit - case.reference)
    return start * end < 0


def displacement_derivatives(
    reference: Float[Array, "*#batch sequences"],
    chosen: Float[Array, "*#batch sequences"],
    rejected: Float[Array, "*#batch sequences"],
    beta: float | Array,
) -> tuple[Float[Array, "*batch"], Float[Array, "*batch"]]:
    """The first two derivatives of the chosen displacement in time, at the start of DPO's gradient flow.

    The displacement is `C = E_w[log π − log π_ref]`, with `π = softmax(θ)` and `w`, `l`, `r` the
    probabilities of chosen, rejected and reference. Along `dθ/dt = v(θ) = −∇L`,

        C′ = ⟨w − π, v⟩,    C″ = −Var_π(v) − ⟨w − π, H v⟩,

    with `H` the Hessian of `L`, since `dπ/dt = (diag(π) − π πᵀ) v` and `dv/dt = −H v`. At the reference every
    pair has probability 1/2, so `v = β (w − l)/2` and `H = (β²/4) (diag(w + l) − w lᵀ − l wᵀ)`.

    The parabola of both turns at `−C′/C″` and is back at zero at twice that time. The closer the chosen
    distribution is to the reference, the earlier: the first derivative vanishes with `w − r`, and the second
    one tends to `−(β²/4) Var_r(w − l)`.

    Derived here; the check `displacement_at_first` compares it with derivatives of the flow. It costs O(N).
    The arguments are not checked: distributions must be normalised.

    Args:
        reference: log-probabilities, `[*batch, sequences]`.
        chosen: log-probabilities of chosen sequences.
        rejected: log-probabilities of rejected sequences.
        beta: DPO's `beta`.

    Returns:
        Both derivatives, `[*batch]`, in nats per unit of time and of squared time.
    """
    r, w, el = (jnp.exp(one) for one in (reference, chosen, rejected))
    v = beta * (w - el) / 2

    def dot(left: Array, right: Array) -> Array:
        return jnp.sum(left * right, axis=-1)

    across = w * dot(el, v)[..., None] + el * dot(w, v)[..., None]
    bend = beta**2 / 4 * dot(w - r, (w + el) * v - across)
    return dot(w - r, v), dot(r, v) ** 2 - dot(r, v**2) - bend


@exact(
    5,
    OURS,
    "From π_ref the chosen likelihood moves as β⟨w − r, w − l⟩t/2, and turns by −Var_r(v) − ⟨w − r, Hv⟩",
)
def displacement_at_first(case: Case) -> Array:
    """The closed forms of both derivatives, against those of the flow by automatic differentiation."""
    problem = Contrastive(case.target, case.third)
    objective = dpo(case.beta)

    def velocity(logits: Array) -> Array:
        def loss(logits: Array) -> Array:
            return objective.population_loss(log_softmax(logits), case.reference, problem, None)

        return -jax.grad(loss)(logits)

    def speed(logits: Array) -> Array:
        def displacement(logits: Array) -> Array:
            return expectation(case.target, log_softmax(logits))

        return jax.jvp(displacement, (logits,), (velocity(logits),))[1]

    first, second = jax.jvp(speed, (case.reference,), (velocity(case.reference),))
    known = displacement_derivatives(case.reference, case.target, case.third, case.beta)
    return largest(off(first, known[0], case.beta), off(second, known[1], case.beta**2, case.beta**3))


@exact(5, OURS, "DPO-PG: the projected direction does not lower the chosen likelihood, to first order")
def projection_keeps_chosen(case: Case) -> Array:
    """On the logits of any policy. If DPO's own direction already does so, it must stay as it is."""
    problem = Contrastive(case.target, case.third)
    objective = dpo_pg(case.beta)
    logits = log_softmax(case.reward)

    def loss(logits: Array) -> Array:
        return objective.population_loss(log_softmax(logits), case.reference, problem, None)

    gradient = jax.grad(loss)(logits)
    pull = jnp.exp(case.target) - jnp.exp(log_softmax(logits))
    descent = -objective.direction(gradient, lambda: pull)
    size = jnp.linalg.norm(gradient) * jnp.linalg.norm(pull)
    # Entries are rounded in proportion to the probabilities that cancel in them.
    noise = size + case.beta * jnp.linalg.norm(pull)
    falls = jnp.maximum(0, -jnp.vdot(descent, pull)) / jnp.where(noise > 0, noise, 1)
    unneeded = jnp.vdot(-gradient, pull) >= 0
    changed = jnp.where(unneeded, jnp.abs(descent + gradient), 0)
    return largest(falls, changed)


@exact(5, OURS, "On free logits a single pair never needs a projection: ⟨g_w − g_l, g_w⟩ = 1 − π_w + π_l > 0")
def single_pairs_need_no_projection(case: Case) -> Array:
    """The formula for all pairs, against the gradients themselves."""
    gradients = jax.jacobian(log_softmax)(case.target)
    products = jnp.einsum("ik,jk->ij", gradients, gradients)
    overlap = jnp.diag(products)[:, None] - products.T
    p = jnp.exp(case.target)
    expected = 1 - p[:, None] + p[None, :]
    # A pair of a sequence with itself has no gradient.
    different = ~jnp.eye(case.size, dtype=bool)
    return largest(
        jnp.where(different, jnp.abs(overlap - expected), 0),
        jnp.where(different, jnp.maximum(0, -overlap), 0),
    )


@exact(
    5,
    OURS,
    "One step down log π(l) on free logits changes log π(y) at the rate π(y) + π(l) − Σ π² for y ≠ l: the "
    "likeliest other response gains most (the squeezing effect, arXiv 2407.10490)",
)
def squeezing(case: Case) -> Array:
    """The formula for all `l` and `y`, `−1` for `y = l` included, against derivatives along the step."""
    p, own = jnp.exp(case.target), jnp.eye(case.size)

    def change(direction: Array) -> Array:
        return jax.jvp(log_softmax, (case.target,), (direction,))[1]

    # Down the gradient `e_l − π` of log π(l).
    changes = jax.vmap(change)(p - own)
    return off(changes, p[None, :] + p[:, None] - jnp.sum(p**2) - own)


@exact(5, OURS, "On free logits DPO leaves the ratios of all responses that are in no pair as they are")
def unseen_keep_their_ratios(case: Case) -> Array:
    """A pair of the first and the last response: the gradient is zero for the logits of all others."""
    last = case.size - 1
    pairs = Pairs(jnp.array([0]), jnp.array([last]))

    def loss(logits: Array) -> Array:
        return dpo(case.beta).population_loss(log_softmax(logits), case.reference, pairs, None)

    slope = jnp.abs(jax.grad(loss)(case.target))
    place = jnp.arange(case.size)
    unseen = (place > 0) & (place < last)
    return largest(jnp.where(unseen, slope, 0)) / (1 + jnp.max(slope))


@exact(
    5,
    OURS,
    "On log-linear policies DPO's gradient of one pair is along φ_w − φ_l at all weights, so its path ends "
    "at the response with the largest ⟨φ, φ_w − φ_l⟩, chosen or not",
)
def one_pair_moves_on_a_line(case: Case) -> Array:
    """The gradient for the first response as chosen and the last as rejected, at random weights."""
    features = jnp.stack([case.target, case.third], axis=-1)
    weights = jnp.stack([case.position, jnp.sin(case.position)])
    pairs = Pairs(jnp.array([0]), jnp.array([case.size - 1]))

    def loss(weights: Array) -> Array:
        log_probs = LogLinear(features, weights).log_probs()
        return dpo(case.beta).population_loss(log_probs, case.reference, pairs, None)

    difference = features[0] - features[-1]
    ratio = difference @ weights - (case.reference[0] - case.reference[-1])
    pull = case.beta * jax.nn.sigmoid(-case.beta * ratio)
    size = case.beta * jnp.max(jnp.abs(features))
    return off(jax.grad(loss)(weights), -pull * difference, size, case.beta * case.beta * ratio)


@exact(
    5,
    OURS,
    "On free logits DPO on one pair moves d log π_w : d log π_l = (1 − π_w + π_l) : −(1 + π_w − π_l), though "
    "its gradients in probabilities have the ratio π_l : −π_w (arXiv 2404.04626)",
)
def rejected_falls_faster(case: Case) -> Array:
    """The first response is chosen and the last rejected; both ratios against derivatives of the loss."""
    last = case.size - 1
    pairs = Pairs(jnp.array([0]), jnp.array([last]))

    def loss(log_probs: Array) -> Array:
        return dpo(case.beta).population_loss(log_probs, case.reference, pairs, None)

    slope = jax.grad(lambda logits: loss(log_softmax(logits)))(case.target)
    _, moves = jax.jvp(log_softmax, (case.target,), (-slope,))
    of_log_probs = jax.grad(loss)(case.target)
    size = jnp.max(jnp.abs(of_log_probs))
    size = jnp.where(size > 0, size, 1)
    apart = jnp.exp(case.target[0]) - jnp.exp(case.target[last])
    # Cross products: a pair that is learned already has no gradient left to divide by.
    motion = (moves[0] * (1 + apart) + moves[last] * (1 - apart)) / size
    # ∂L/∂π = (∂L/∂ log π)/π, so the ratio π_l : −π_w says that these two cancel.
    balance = (of_log_probs[0] + of_log_probs[last]) / size
    return largest(jnp.abs(motion), jnp.abs(balance))
