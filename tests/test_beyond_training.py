"""Experiments on training beyond the paper, each against an independent way to its numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import xarray as xr
from jax.nn import log_softmax
from scipy.optimize import brentq
from scipy.special import expit

import didsim
from didsim.theory.dynamics import displacement_derivatives
from experiments import (
    exploration,
    gradient_flow_turns,
    projected_gradient,
    simpo_learns_the_did,
    token_level,
)


def test_both_derivatives_of_the_displacement_by_small_steps_in_numpy() -> None:
    """Two small Euler steps of the flow, with the gradient as a double loop."""
    random = np.random.default_rng(0)
    r, w, el = (np.exp(log_softmax(random.normal(size=5))) for _ in range(3))
    beta, dt = 0.7, 1e-3

    def velocity(theta: np.ndarray) -> np.ndarray:
        h, v = beta * (theta - np.log(r)), np.zeros(5)
        for i in range(5):
            for j in range(5):
                pull = beta * w[i] * el[j] * expit(h[j] - h[i])
                v[i] += pull
                v[j] -= pull
        return v

    def displacement(theta: np.ndarray) -> float:
        return float(w @ (theta - np.log(np.exp(theta).sum()) - np.log(r)))

    def after(dt: float) -> float:
        """Heun's step: right to second order, as the second derivative needs."""
        here = np.log(r)
        ahead = here + dt * velocity(here)
        return displacement(here + dt * (velocity(here) + velocity(ahead)) / 2)

    first, second = displacement_derivatives(jnp.log(r), jnp.log(w), jnp.log(el), beta)
    assert float(first) == pytest.approx((after(dt) - after(-dt)) / (2 * dt), rel=1e-4)
    assert float(second) == pytest.approx((after(dt) + after(-dt)) / dt**2, rel=1e-3)


def test_small_steps_follow_the_flow_and_turn_where_it_does() -> None:
    config = gradient_flow_turns.Config(
        vocab_size=3, max_length=1, seeds=2, steps=120, positions=(0.05,), rates=(0.1, 5.0, 0.01)
    )
    dataset = gradient_flow_turns.run(config)
    small = dataset.sel(way="small", position=0.05, seed=1)
    keys = jax.random.split(jax.random.key(0), (2, 2))
    reference, target = (didsim.normal_logits(one, 3)[1] for one in keys)
    chosen, rejected = (log_softmax(reference + at * (target - reference)) for at in (0.05, -0.45))
    times = 0.1 * np.arange(121)
    path = didsim.gradient_flow(
        didsim.dpo(0.5), reference, didsim.Contrastive(chosen, rejected), times, tolerance=1e-10
    )
    moved = np.asarray((path - reference) @ np.exp(chosen))
    np.testing.assert_allclose(small["moved"], moved, rtol=0.01, atol=5e-5)
    top = int(moved.argmax())
    assert 3 < top < 100
    assert float(small["turn"]) == pytest.approx(times[top], abs=0.15)
    assert float(small["highest"]) == pytest.approx(moved.max(), rel=0.1)
    assert float(small["back"]) == pytest.approx(times[np.argmax(moved[1:] < 0) + 1], abs=0.25)
    # So near to the reference the parabola tells the turn.
    assert float(-small["first"] / small["second"]) == pytest.approx(times[top], rel=0.2)


def test_turns_of_known_curves() -> None:
    steps = jnp.arange(9.0)
    parabola, falls = (3.3 - (steps - 3.3) ** 2 / 3.3) / 7, -steps
    turn, highest = gradient_flow_turns._turn(jnp.stack([parabola, falls, steps]))
    np.testing.assert_allclose(turn, [3.3, np.nan, np.nan])
    np.testing.assert_allclose(highest, [3.3 / 7, 0, 8])
    back = gradient_flow_turns._back(jnp.stack([parabola, falls, steps, jnp.where(steps == 1, 0.25, -0.75)]))
    np.testing.assert_allclose(back, [6.6, np.nan, np.nan, 1.25], rtol=0.01)


def test_the_finding_on_turns_counts_runs_that_rise_and_end_below() -> None:
    config = gradient_flow_turns.Config(vocab_size=3, max_length=1, seeds=4, steps=40, positions=(0.0, 0.3))
    dataset = gradient_flow_turns.run(config)
    rise, ends = dataset["moved"].values[0, 1, :, 1] > 0, dataset["limit"].values[1] < 0
    told = gradient_flow_turns.finding(dataset)
    assert f"in 0% (at 0) and {100 * np.mean(rise & ends):.0f}% (at 0.3) of seeds" in told
    chosen_at_reference = gradient_flow_turns.finding(dataset.sel(position=[0.0]))
    assert "predict, is" not in chosen_at_reference


def test_the_margin_between_two_responses_is_the_root_of_one_equation() -> None:
    config = simpo_learns_the_did.Config(
        vocab_size=2, max_length=1, eos=False, seeds=2, steps=1, margins=(0.0, 1.5), factors=(2.0,), beta=0.7
    )
    reference, target = didsim.normal_logits(jax.random.split(jax.random.key(0), (2, 2)), 2)
    problem = didsim.Contrastive(reference, didsim.optimal_rejected(reference, target, 0.7))
    made = simpo_learns_the_did._Made(reference, target, didsim.did(target, reference), problem)
    rewards = simpo_learns_the_did._rewards(config, made)
    for seed in range(2):
        gap = 0.7 * float((target - reference)[seed, 0] - (target - reference)[seed, 1])
        for k, margin in enumerate((0.0, 1.5)):

            def slope(d: float, gap: float = gap, margin: float = margin) -> float:
                return float(expit(gap) * expit(margin - d) - expit(-gap) * expit(margin + d))

            found = float(rewards[k, seed, 0] - rewards[k, seed, 1])
            assert found == pytest.approx(brentq(slope, -20, 20, xtol=1e-14), rel=1e-8)


def test_simpo_per_token_has_the_rewards_of_the_did_and_its_own_lengths() -> None:
    config = simpo_learns_the_did.Config(
        vocab_size=2, max_length=3, seeds=3, steps=60, margins=(0.0, 1.0), factors=(1.0, 3.0)
    )
    dataset = simpo_learns_the_did.run(config)
    keys = jax.random.split(jax.random.key(0), (2, 3))
    # With a token that ends, there is one sequence of one token, one of two, and two of three.
    lengths = np.array([1, 2, 3, 3])
    reference, target = (np.asarray(didsim.normal_logits(one, 4)) for one in keys)
    for seed in range(3):
        h = 0.5 * (target - reference)[seed]
        for k, factor in enumerate((1.0, 3.0)):
            slopes = lengths / (0.5 * factor * lengths.mean())
            c = brentq(lambda c, s=slopes, h=h: np.exp(s * (h + c)).sum() - 1, -50, 50, xtol=1e-14)
            p = np.exp(slopes * (h + c))
            assert float(dataset["length_by_factor"][1, k, seed]) == pytest.approx(p @ lengths, rel=1e-8)
    assert float(dataset["gap"].max()) < 1e-9
    assert float(dataset["js_did_by_margin"].sel(way="sum", margin=0.0).max()) < 1e-12
    assert float(dataset["js_did_by_margin"].sel(way="sum", margin=1.0).min()) > 1e-6
    told = simpo_learns_the_did.finding(dataset)
    curve = dataset["js_to_target"].sel(objective="SimPO, γ = 0").median("seed").values
    assert f"is lowest at step {dataset['step'].values[curve.argmin()]} (" in told


def test_measures_of_tokens_by_walking_over_a_dictionary_of_prefixes() -> None:
    space = didsim.SequenceSpace(3, 3, eos=True)
    reference, target = (didsim.markov(jax.random.key(k), space) for k in (1, 2))
    beta = 0.7
    places = token_level._places(space)
    found = jax.jit(lambda r, t: token_level._measure(r, t, jnp.array([beta]), space, places))(
        reference, target
    )
    sequences = [tuple(space.decode(k)) for k in range(space.size)]
    r, t = (dict(zip(sequences, np.exp(np.asarray(p)), strict=True)) for p in (reference, target))

    def mass(p: dict[tuple[int, ...], float], prefix: tuple[int, ...]) -> float:
        return sum(value for y, value in p.items() if y[: len(prefix)] == prefix)

    def following(p: dict[tuple[int, ...], float], prefix: tuple[int, ...]) -> np.ndarray:
        return np.array([mass(p, (*prefix, v)) for v in range(3)]) / mass(p, prefix)

    q = {y: t[y] / r[y] for y in sequences}
    q = {y: value / sum(q.values()) for y, value in q.items()}
    lost = {y: r[y] * (r[y] / t[y]) ** beta for y in sequences}
    falls, ordered, tokens = np.zeros(3), np.zeros(3), 0.0
    reached = np.zeros(3)
    product, by_tokens = {}, {}
    for y in sequences:
        product[y] = by_tokens[y] = 1.0
        for place, token in enumerate(y):
            a, b, c = (following(p, y[:place]) for p in (r, t, lost))
            falls[place] += r[y] * a @ np.log(b / a)
            steps = [
                (np.log(b[i] * a[j] / a[i] / b[j]), np.log(a[i] * c[j] / c[i] / a[j]))
                for i in range(3)
                for j in range(i)
            ]
            ordered[place] += r[y] * np.mean([one * other > 0 for one, other in steps])
            reached[place] += r[y]
            ratio = b / a / np.sum(b / a)
            tokens -= t[y] * ratio @ np.log(ratio)
            product[y] *= ratio[token]
            power = a * (a / b) ** beta
            by_tokens[y] *= power[token] / power.sum()
    length = sum(t[y] * len(y) for y in sequences)
    np.testing.assert_allclose(found["moved_limit"], falls, rtol=1e-9)
    np.testing.assert_allclose(found["ordered"][0], ordered / reached, rtol=1e-9)
    assert float(found["of_tokens"]) == pytest.approx(tokens / length)
    entropy = -sum(value * np.log(value) for value in q.values())
    assert float(found["per_token"]) == pytest.approx(entropy / sum(q[y] * len(y) for y in sequences))
    end = {y: r[y] * (r[y] / by_tokens[y]) ** (1 / beta) for y in sequences}
    for name, one, other in (("product_gap", q, product), ("js_by_tokens", end, t)):
        p, o = (np.array([d[y] for y in sequences]) / sum(d.values()) for d in (one, other))
        middle = (p + o) / 2
        js = (p @ np.log(p / middle) + o @ np.log(o / middle)) / 2
        assert float(found[name][0] if name == "js_by_tokens" else found[name]) == pytest.approx(js)


def test_displacement_by_token_adds_up_to_that_of_sequences() -> None:
    config = token_level.Config(vocab_size=2, max_length=3, seeds=3, steps=200, betas=(0.5,), scale=0.6)
    dataset = token_level.run(config)
    reference, target = token_level._chains(config, config.make_space())
    total = -np.asarray(didsim.kl(reference, target))
    np.testing.assert_allclose(dataset["moved_limit"].sum("position"), total, rtol=1e-9)
    ends = dataset["moved"].isel(step=-1)
    for tables in ("full", "shared"):
        np.testing.assert_allclose(ends.sel(tables=tables), dataset["moved_limit"], atol=1e-4)
    assert (dataset["moved"].isel(step=0) == 0).all()
    first = float(dataset["ordered"].sel(beta=0.5, position=1).mean())
    assert f"{100 * first:.0f}% (β = 0.5) of the pairs of first tokens are" in token_level.finding(dataset)


def test_masses_limits_and_slopes_of_rare_responses_in_numpy() -> None:
    config = exploration.Config(
        vocab_size=3, max_length=2, seeds=2, steps=40, rare=0.1, ratios=(0.5, 2.0), pairs=(4, 40)
    )
    dataset = exploration.run(config)
    keys = jax.random.split(jax.random.key(0), (2, 2))
    reference = np.asarray(didsim.normal_logits(keys[0], 9, 2.0))
    bump = 0.5 * np.asarray(didsim.normal_logits(keys[1], 9))
    for seed in range(2):
        rare: list[int] = []
        total = 0.0
        for place in np.argsort(reference[seed]):
            total += np.exp(reference[seed, place])
            if rare and total > 0.1:
                break
            rare.append(int(place))
        p = np.exp(reference[seed])
        assert float(dataset["start"][seed]) == pytest.approx(p[rare].sum())
        for k, sign in enumerate((0.4, 0.0, -0.4)):
            log_q = sign * reference[seed] + bump[seed]
            slope = p[rare] @ log_q[rare] / p[rare].sum() - p @ log_q
            assert float(dataset["slope"][k, seed]) == pytest.approx(slope)
            for along, ratio in enumerate((0.5, 2.0)):
                limit = p * np.exp(ratio * log_q)
                found = float(dataset["by_ratio"][k, along, seed])
                assert found == pytest.approx(limit[rare].sum() / limit.sum())
        smoothing = -0.4 * reference[seed] + bump[seed]
        # Rejected responses from 1/9 each: DPO ends at reference · (9 reference)^(1/β), with β = 0.5.
        assert float(dataset["by_rejected"][1, seed]) == pytest.approx((p**3)[rare].sum() / (p**3).sum())
        rejected = p * np.exp(-0.5 * smoothing)
        rejected /= rejected.sum()
        theta = reference[seed].copy()
        for _ in range(40):
            h, step = 0.5 * (theta - reference[seed]), np.zeros(9)
            for i in range(9):
                for j in range(9):
                    pull = 0.5 * p[i] * rejected[j] * expit(h[j] - h[i])
                    step[i] += pull
                    step[j] -= pull
            theta += 20.0 * step
        policy = np.exp(log_softmax(theta))
        end = dataset["by_way"].sel(way="all pairs", seed=seed).isel(step=-1)
        assert float(end) == pytest.approx(float(policy[rare].sum()), rel=1e-6)


def test_unseen_responses_gain_or_lose_together() -> None:
    config = exploration.Config(vocab_size=2, max_length=3, seeds=3, steps=60, pairs=(3, 30))
    made = exploration._make(config)
    rejected = didsim.normal_logits(jax.random.split(jax.random.key(5), 3), 8)
    pairs, seen = exploration._datasets(config, made.reference, rejected)
    for k, n in enumerate((3, 30)):
        for seed in range(3):
            shown = {*np.asarray(pairs.winners[k, seed, :n]), *np.asarray(pairs.losers[k, seed, :n])}
            assert set(np.flatnonzero(seen[k, seed])) == shown
    _, policies = exploration._descend(config, made.reference, pairs, False)
    change = np.asarray(policies[:, :, -1] - made.reference)
    for k in range(2):
        for seed in range(3):
            unseen = change[k, seed][~np.asarray(seen[k, seed])]
            assert unseen.size == 0 or np.ptp(unseen) < 1e-12
    assert np.ptp(change[0], axis=-1).min() > 0.1


def test_the_finding_on_exploration_has_the_shares_of_the_data() -> None:
    config = exploration.Config(vocab_size=2, max_length=3, seeds=4, steps=20, pairs=(3, 30))
    dataset = exploration.run(config)
    told = exploration.finding(dataset)
    right = np.sign(dataset["slope"]) == np.sign(dataset["limit"] - dataset["start"])
    assert f"has the sign of the whole change in {100 * float(right.mean()):.0f}% of instances" in told
    assert (dataset["spread"] < 1e-12).all()
    assert exploration._part(3e-6) == "3.0·10⁻⁶"
    assert exploration._part(0.25) == "25%"


def test_projected_minibatches_by_a_numpy_loop_over_the_same_pairs() -> None:
    """A projection over the logits of all prompts, with the gradients of each pair one after another."""
    config = projected_gradient.Config(
        vocab_size=2, max_length=2, prompts=2, seeds=2, steps=30, batch_sizes=(60, 1), learning_rate=9.0
    )
    made = projected_gradient.make(config)
    reference, rejected = np.asarray(made.reference[1]), np.asarray(made.rejected[1, 1])
    key = jax.random.key(7)
    descend = jax.jit(projected_gradient.descend, static_argnums=0)
    policies, projected = descend(config, made.reference[1], made.rejected[1, 1], key)
    draw = jax.jit(projected_gradient.draw_pairs, static_argnums=3)
    keys = [jax.random.fold_in(key, k) for k in range(30)]
    drawn = [np.asarray(draw(one, made.reference[1], made.rejected[1, 1], (1, 60))) for one in keys]
    everything = np.exp(reference[:, :, None] + rejected[:, None, :]) / 2
    for place, size in enumerate((1, 60, None)):
        for which in range(2):
            theta, count, early = reference.copy(), 0, reference
            for k in range(30):
                if k == 3:
                    early = theta.copy()
                pairs = everything if size is None else drawn[k][place]
                policy = np.exp(log_softmax(theta, axis=-1))
                d, g = np.zeros_like(theta), np.zeros_like(theta)
                for p, i, j in np.argwhere(pairs > 0):
                    h = 0.5 * (theta[p] - reference[p])
                    pull = pairs[p, i, j] * 0.5 * expit(h[j] - h[i])
                    d[p, i] += pull
                    d[p, j] -= pull
                    g[p, i] += pairs[p, i, j]
                    g[p] -= pairs[p, i, j] * policy[p]
                if which == 1 and (overlap := np.sum(d * g)) < -1e-15:
                    d, count = d - g * overlap / np.sum(g * g), count + 1
                theta += 9.0 * (1 + np.cos(np.pi * k / 30)) / 2 * d
            for look, one in enumerate((early, theta)):
                expected = log_softmax(one, axis=-1)
                np.testing.assert_allclose(policies[look, which, place], expected, rtol=1e-8, atol=1e-8)
        assert float(projected[place]) * 30 == pytest.approx(count)
        assert count == 0 if size == 1 else 0 < count < 30
    np.testing.assert_array_equal(policies[:, 0, 0], policies[:, 1, 0])


def test_a_projected_step_on_a_batch_is_that_of_train() -> None:
    keys = jax.random.split(jax.random.key(0), 2)
    start, reference = didsim.normal_logits(keys, 5)
    # The first two win more than they lose, and the policy already has them too often.
    winners, losers = np.array([0, 1, 2, 3, 4, 0, 1]), np.array([1, 2, 3, 4, 0, 2, 3])
    pairs = np.zeros((1, 5, 5))
    pairs[0, winners, losers] = 1 / 7
    start = 0.1 * start.at[:2].add(30.0)
    trained = didsim.train(
        didsim.EnergyBased(start),
        reference,
        didsim.Pairs(winners, losers),
        didsim.dpo_pg(0.1),
        optax.sgd(2.0),
        1,
        record=didsim.Record(1, {"log_probs": lambda s: s.log_probs}),
    )
    loss, chosen = projected_gradient.gradients(start[None], reference[None], jnp.asarray(pairs), 0.1)
    step = loss - chosen * jnp.sum(loss * chosen) / jnp.sum(chosen**2)
    assert float(jnp.sum(loss * chosen)) > 0.001
    np.testing.assert_allclose(trained.metrics["log_probs"][-1], log_softmax(start - 2 * step[0]), rtol=1e-9)


def test_pairs_of_batches_have_the_law_of_the_population() -> None:
    chosen, rejected = (didsim.normal_logits(jax.random.split(jax.random.key(k), 2), 3) for k in (1, 2))
    one, many = np.asarray(projected_gradient.draw_pairs(jax.random.key(0), chosen, rejected, (1, 40_000)))
    assert np.count_nonzero(one) == one.sum() == 1
    law = np.exp(np.asarray(chosen)[:, :, None] + np.asarray(rejected)[:, None, :]) / 2
    assert np.sum((many - law) ** 2 / law) * 40_000 < 17 + 5 * np.sqrt(2 * 17)


def test_the_batch_from_which_on_the_projection_holds_back() -> None:
    config = projected_gradient.Config(seeds=4, steps=20, batch_sizes=(1, 8), vocab_size=2, max_length=2)
    dataset = projected_gradient.run(config)
    told = projected_gradient.finding(dataset)
    share = 100 * float(dataset["projected"].sel(batch="8").mean())
    assert f"changes 0% with 1 pair, {share:.0f}% with 8 pairs and" in told
    ends = dataset.sel(look="late", batch="exact", target="knowledge").median("seed")
    good = [float(ends["score"].sel(objective=one)) for one in ("dpo", "dpo_pg")]
    assert f"has {good[0]:.2g} under DPO and {good[1]:.2g} under DPO-PG. Whatever" in told
    dpo, dpo_pg = np.array([4.0, 4.0, 4.0]), np.array([1.0, 3.0, 1.0])
    for one, other, expected in (
        (dpo, dpo_pg, "exact"),
        (dpo, dpo_pg[[1, 0, 2]], "8"),
        (dpo, dpo_pg[[0, 0, 0]], "1"),
        (dpo_pg, dpo, None),
    ):
        moved = dataset["displacement"].copy()
        for name, values in (("dpo", one), ("dpo_pg", other)):
            moved.loc[{"objective": name}] = xr.DataArray(-values, dims="batch")
        assert (
            projected_gradient.crossover(dataset.assign(displacement=moved), "knowledge", "late") == expected
        )
