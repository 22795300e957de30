"""For each exercise of a notebook, expressions for a right answer and for a wrong one that lies near.

Right ones are formulas worked out by hand, apart from what the keys were made with. Where a function is asked
for, an expression is what it returns.
"""

_MARGIN = "(chosen - ref_chosen - rejected + ref_rejected)"
_REST = f"beta * np.mean{_MARGIN}, np.mean({_MARGIN} > 0)"

ANSWERS: dict[str, list[tuple[str, str]]] = {
    "00_five_minutes": [
        ("0.25 * np.log(0.45 / 0.25) + 0.4 * np.log(0.3 / 0.4) + 0.3 * np.log(0.2 / 0.3)", "0.09"),
        ("True", "False"),
        ("(chosen * np.log(policy / reference)).sum()", "(reference * np.log(policy / reference)).sum()"),
    ],
    "01_differential_information": [
        ("[3 / 77, 8 / 77, 18 / 77, 48 / 77]", "jnp.exp(after)"),
        ("0", "-1"),
        ("False", "True"),
        (
            "-(jax.nn.softmax(policy - reference) * jax.nn.log_softmax(policy - reference)).sum()",
            "jnp.log(len(policy)) - didsim.kl(policy, reference)",
        ),
    ],
    "02_what_dpo_learns": [
        ("2", "0.5"),
        ("jax.nn.log_softmax(2 * old - wanted)", "didsim.optimal_rejected(old, wanted, beta=0.5)"),
        ("'uniform'", "'reference'"),
        (
            "(chosen - rejected) / beta > jnp.log(jnp.sum(jnp.exp(reference + (chosen - rejected) / beta)))",
            "chosen > rejected",
        ),
    ],
    "03_log_margin_order": [
        ("0.25", "4"),
        ("0.2", "0.8"),
        ("1 / 2", "0"),
        (
            "sum((target[a] - target[b] > reference[a] - reference[b])"
            " == (reference[a] - reference[b] > rejected[a] - rejected[b])"
            " for a in range(len(target)) for b in range(a)) / (len(target) * (len(target) - 1) / 2)",
            "jnp.mean((target > reference) == (reference > rejected))",
        ),
    ],
    "04_why_chosen_logps_fall": [
        ("0.8 * jnp.log(0.2) + 0.2 * jnp.log(0.6)", "-1.03 + didsim.kl(old, new)"),
        ("didsim.kl(new, old)", "didsim.kl(old, new)"),
        ("False", "True"),
        (
            "(features[chosen] - jax.nn.softmax(features @ weights) @ features)"
            " @ (features[chosen] - features[rejected])",
            "features[chosen] @ (features[chosen] - features[rejected])",
        ),
    ],
    "05_build_your_own": [
        ("0.6", "jnp.log(0.8 / 0.2)"),
        ("25", "5"),
        ("0.7", "0.3"),
        (
            "(1 - share) * jnp.logaddexp(0, -difference) + share * jnp.logaddexp(0, difference)",
            "-(1 - share) * jnp.log(jax.nn.sigmoid(difference))"
            " - share * jnp.log(jax.nn.sigmoid(-difference))",
        ),
    ],
    "06_finite_pairs": [
        ("1", "2"),
        ("False", "True"),
        ("0.05", "0.2 / 0.25"),
        (
            "bool((jnp.linalg.matrix_power(jnp.eye(size).at[winners, losers].set(1), size) > 0).all())",
            "len({*winners.tolist()}) == size == len({*losers.tolist()})",
        ),
    ],
    "07_your_own_run": [
        ("-15.2", "-0.152"),
        ("False", "True"),
        (
            f"np.array([np.mean(np.logaddexp(0, -beta * {_MARGIN})), {_REST}])",
            f"np.array([np.logaddexp(0, -beta * np.mean{_MARGIN}), {_REST}])",
        ),
    ],
}
