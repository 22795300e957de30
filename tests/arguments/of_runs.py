"""Valid calls of solvers, training, sweeps and the theory's report."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
import optax

import didsim
from didsim import fixed_points, sweeps, theory, training
from tests.arguments.calls import call
from tests.arguments.kinds import (
    Argument,
    distribution,
    flag,
    function,
    host_number,
    instance,
    integer,
    is_empty,
    number,
    only,
    path,
    text,
    words,
)
from tests.arguments.of_distributions import KEY, P, Q

PROBLEM = didsim.Contrastive(P, Q)
OBJECTIVE = didsim.dpo()
_POLICY = didsim.EnergyBased(P)
_LENGTHS = only(np.array([1, 1, 1])).or_none()
_SOLVE = {
    "objective": only(OBJECTIVE),
    "reference": distribution(P),
    "problem": only(PROBLEM),
    "lengths": _LENGTHS,
    "policy": only(_POLICY).or_none(None),
    "starts": integer(1),
}
_START = distribution(P).or_none(None)
_SOLUTION = fixed_points.solve(OBJECTIVE, P, PROBLEM)
_PATH = fixed_points.SolutionPath(
    parameter="beta",
    values=np.array([0.1]),
    log_probs=_SOLUTION.log_probs[None],
    certificate=jax.tree.map(lambda leaf: leaf[None], _SOLUTION.certificate),
    verdicts=(_SOLUTION.verdict,),
    solutions=(_SOLUTION,),
)
_RUN = training.Run(
    policy=_POLICY,
    steps=np.array([0]),
    metrics={"loss": jax.numpy.zeros(1)},
    diverged_at=np.array(-1),
    state=(),
    evaluated=None,
    attributes=(("loss", ()),),
)
_SWEEP = sweeps.Sweep(sweeps.Study(steps=0), {"seed": [0, 1]})
_COUNTEREXAMPLE = theory.Counterexample("a", "b", "c", "d", "nats", lambda size: iter(()), lambda one: 0.0)
_NAMED = instance("dpo", str, dict)


def _is_empty_table(value: Any) -> bool:
    return isinstance(value, dict) and not value


def _study(**fields: Any) -> Any:
    return sweeps.Study(**fields)


def _peak(snapshot: Any) -> Any:
    return snapshot.log_probs.max()


def _are_times(value: Any) -> bool:
    if not isinstance(value, np.ndarray | jax.Array) or not jax.numpy.issubdtype(value.dtype, np.number):
        return False
    times = np.asarray(value)
    if times.ndim != 1 or np.iscomplexobj(times):
        return False
    return bool(np.isfinite(times).all() and (times >= 0).all() and (np.diff(times) >= 0).all())


CALLS = {
    "fixed_points.solve": call(fixed_points.solve, **_SOLVE, start=_START),
    "fixed_points.fixed_point": call(fixed_points.fixed_point, **_SOLVE, start=_START),
    "fixed_points.solve_path": call(
        fixed_points.solve_path, **_SOLVE | {"objective": only(didsim.dpo)}, over=only({"beta": [0.1]})
    ),
    "fixed_points.SolutionPath.to_dataset": call(_PATH.to_dataset, batch_dims=Argument((), is_empty)),
    "fixed_points.sensitivity": call(fixed_points.sensitivity, solution=only(_SOLUTION)),
    "training.gradient_flow": call(
        training.gradient_flow,
        objective=only(OBJECTIVE),
        reference=distribution(P),
        problem=only(PROBLEM),
        times=Argument([0.0, 1.0], _are_times),
        lengths=_LENGTHS,
        start=distribution(P).or_none(None),
        tolerance=host_number(1e-6, 0, above=True),
    ),
    "training.train": call(
        training.train,
        policy=only(_POLICY),
        reference=distribution(P),
        problem=only(PROBLEM),
        objective=only(OBJECTIVE),
        optimizer=only(optax.sgd(0.1)),
        steps=integer(1, 0),
        record=only(didsim.Record(metrics={"peak": _peak})).or_none(),
        batch_size=integer(2).or_none(),
        key=KEY.or_none(),
        target=distribution(Q).or_none(),
        lengths=_LENGTHS,
        progress=instance(False, bool, str),
        mesh=only(None).or_none(),
        on_divergence=only("raise"),
    ),
    "training.Record": call(
        training.Record,
        every=integer(1, 1, 10**400),
        metrics=Argument({}, _is_empty_table).or_none(),
        also=Argument((), lambda other: is_empty(other) or _is_empty_table(other)),
        evaluate=function(optax.contrib.schedule_free_eval_params).or_none(),
    ),
    "training.Run.to_dataset": call(_RUN.to_dataset, batch_dims=Argument((), is_empty)),
    "training.Metric": call(
        training.Metric,
        measure=Argument(_peak, callable),
        long_name=text().or_none(),
        units=text().or_none(),
        needs_target=flag(),
        needs_support=flag(),
        by_default=flag(),
    ),
    "sweeps.Study": call(
        _study,
        space=Argument(sweeps.study.Space(), _is_empty_table),
        policy=_NAMED,
        reference=_NAMED,
        target=_NAMED,
        problem=Argument(sweeps.study.ContrastiveData(), _is_empty_table),
        objective=_NAMED,
        optimizer=_NAMED,
        schedule=_NAMED,
        steps=integer(5, 0, 10**400),
        record=Argument(sweeps.study.Recorded(), _is_empty_table),
        batch_size=integer(5, 1, 10**400).or_none(),
        limit=flag(),
        seed=integer(0, 0),
        dtype=only("float64"),
    ),
    "sweeps.Range": call(
        sweeps.Range,
        start=number(0.0, single=True),
        count=integer(3, 1, 10**400),
        stop=number(1.0, single=True).or_none(),
        scale=only("linear"),
    ),
    "sweeps.Sweep": call(
        sweeps.Sweep,
        study=instance(sweeps.Study(), dict),
        axes=instance({"seed": [0]}, dict),
        allow_many=flag(),
    ),
    "sweeps.Sweep.from_toml": call(
        sweeps.Sweep.from_toml, path=path("study.toml"), settings=words(()), allow_many=flag()
    ),
    "sweeps.Sweep.cell": call(_SWEEP.cell, index=only((0,))),
    "sweeps.Sweep.describe": call(_SWEEP.describe, index=only((0,))),
    "sweeps.Sweep.cells_of": call(_SWEEP.cells_of, block=only((slice(0, 1),))),
    "sweeps.Sweep.block_shape": call(_SWEEP.block_shape, cells=integer(2, 0, 10**400)),
    "sweeps.Sweep.blocks": call(_SWEEP.blocks, shape=only((1,))),
    "sweeps.Sweep.cells_within": call(_SWEEP.cells_within, memory=integer(2**20, 1, 10**400)),
    "sweeps.run_sweep": call(
        sweeps.run_sweep,
        sweep=only(_SWEEP),
        store=path("store"),
        executor=only(ThreadPoolExecutor(1)).or_none(),
        memory=integer(2**20, 1, 10**400),
        in_flight=integer(1, 1, 10**400),
        progress=flag(),
        any_version=flag(),
    ),
    "sweeps.open_results": call(sweeps.open_results, path=path("store")),
    "sweeps.export": call(sweeps.export, path=path("store"), out=only("out.csv")),
    "theory.check_all": call(
        theory.check_all,
        instances=integer(1),
        seed=integer(0, 0, 10**400),
        only=Argument(["inverse"], lambda value: value is None or is_empty(value)),
        counterexamples=flag(),
        progress=flag(),
    ),
    "theory.make_cases": call(
        theory.make_cases,
        family=only("normal"),
        seed=integer(0, 0, 10**400),
        size=integer(3),
        instances=integer(2),
    ),
    "theory.Counterexample.find": call(_COUNTEREXAMPLE.find, largest=integer(1, 1, 10**400)),
    **{
        f"theory.{name}": call(
            getattr(theory, name), section=integer(1, 0, 10**400), source=text(), statement=text()
        )
        for name in ("exact", "claim")
    },
}
