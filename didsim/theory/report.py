"""Running checks on many instances, and the table of their results."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
from rich.table import Table

from didsim import _checks
from didsim._memory import fitting_int
from didsim._text import literal
from didsim.theory.cases import CASE_FAMILIES, Case, make_cases
from didsim.theory.checks import CHECKS, Check
from didsim.theory.counterexamples import COUNTEREXAMPLES, Found
from didsim.training.progress import tracked

SIZES = (1, 2, 3, 8)

_BYTES = 512  # of an instance: its policies, and what a check makes of them


class Row(msgspec.Struct, frozen=True):
    """The result of one check.

    Attributes:
        name: the name of the check.
        section: the section of the theory.
        statement: the statement, in words and formulas.
        source: where the statement comes from.
        kind: "exact" or "claim".
        instances: the number of instances that it was measured on.
        verdict: "holds" or "FAILS" for an exact statement, "measured" for a claim.
        worst: for an exact statement its largest deviation, otherwise None.
        tolerance: for an exact statement the largest deviation that is allowed, otherwise None.
        worst_family: the family of instances with that deviation.
        share: for a claim the share of instances on which it holds, otherwise None.
        shares: for a claim that share within each family.
    """

    name: str
    section: int
    statement: str
    source: str
    kind: str
    instances: int
    verdict: str
    worst: float | None = None
    tolerance: float | None = None
    worst_family: str | None = None
    share: float | None = None
    shares: dict[str, float] | None = None


class Report(msgspec.Struct, frozen=True):
    """The results of all checks.

    Attributes:
        seed: the seed of the instances.
        instances: the number of instances that was asked for.
        rows: one for each check.
        counterexamples: one for each assumption, with an instance on which the statement needs it.
    """

    seed: int
    instances: int
    rows: list[Row]
    counterexamples: list[Found]

    @property
    def passed(self) -> bool:
        """Whether every exact statement holds, and every counterexample was found."""
        return all(row.verdict != "FAILS" for row in self.rows) and all(
            one.deviation is not None for one in self.counterexamples
        )

    def to_json(self) -> bytes:
        """The report as JSON, indented."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2)

    def table(self) -> Table:
        """The statements as a table for the terminal."""
        table = Table(
            title=f"{len(self.rows)} statements on random instances (seed {self.seed})", show_lines=True
        )
        table.add_column("§", justify="right")
        table.add_column("statement", ratio=1)
        table.add_column("instances", justify="right")
        table.add_column("worst deviation\n(tolerance)", justify="right")
        table.add_column("verdict")
        for row in self.rows:
            statement = literal(row.statement).append(literal(f"\n{row.name}, {row.source}", "dim"))
            if row.shares is None:
                style = "green" if row.verdict == "holds" else "bold red"
                deviation = f"{row.worst:.1e}\n({row.tolerance:.0e})"
                verdict = f"[{style}]{row.verdict}[/]"
            else:
                low, high = min(row.shares.values()), max(row.shares.values())
                deviation = ""
                verdict = f"true of {row.share:.0%}\n[dim]{low:.0%} to {high:.0%}\nby family[/]"
            table.add_row(str(row.section), statement, f"{row.instances:,}", deviation, verdict)
        return table

    def counterexample_table(self) -> Table:
        """For each assumption the smallest instance on which the statement is false without it."""
        table = Table(title="Assumptions: the smallest instance on which the statement is false without it")
        for column in ("assumption dropped", "what breaks", "sequences", "instance", "by"):
            table.add_column(column, overflow="fold", ratio=2 if column in ("what breaks", "instance") else 1)
        for one in self.counterexamples:
            instance = "; ".join(f"{name} = {text}" for name, text in one.instance.items())
            by = "[bold red]none found[/]" if one.deviation is None else f"{one.deviation:.3g} {one.unit}"
            table.add_row(literal(one.dropped), literal(one.breaks), str(one.size), literal(instance), by)
        return table


def check_all(
    instances: int = 1000,
    seed: int = 0,
    only: list[str] | None = None,
    *,
    counterexamples: bool = True,
    progress: bool = False,
) -> Report:
    """Check every statement of the theory on random instances, in float64.

    Instances are shared out over the families of `didsim.theory.CASE_FAMILIES` and over spaces of 1, 2, 3
    and 8 sequences. A check that is a JAX function runs on all instances of one size at once. Any other check
    runs on one instance after the other, and on no more than its own limit (`Check.most`).

    Args:
        instances: number of instances for each check.
        seed: seed of the instances.
        only: names of checks; all by default.
        counterexamples: whether to look for instances on which statements are false without an assumption.
        progress: whether to show a progress bar.

    Returns:
        A `Report`. Compiling takes about 40 s for all checks, and 10,000 instances a few seconds more.

    Raises:
        ValueError: `instances` is below 1 or more than memory can hold, `seed` is negative or has more than
            31 bits, or a name is unknown.

    Examples:
        >>> report = check_all(instances=100, only=["inverse"], counterexamples=False)
        >>> report.rows[0].verdict
        'holds'
    """
    instances = fitting_int("instances", instances, _BYTES)
    seed = _checks.integer("seed", seed, 0, 2**31 - 1)
    _checks.flag("counterexamples", counterexamples)
    _checks.flag("progress", progress)
    for name in () if only is None else _checks.words("only", only):
        if name not in CHECKS:
            raise ValueError(f"`only` has an unknown check {name!r}; there are {', '.join(sorted(CHECKS))}")
    checks = list(CHECKS.values()) if only is None else [CHECKS[name] for name in only]
    checks.sort(key=lambda check: check.section)
    with jax.enable_x64(True):
        cases = draw_cases(instances, seed)
        rows = [
            measure(check, instances, cases)
            for check in tracked(checks, len(checks), "Checking statements", progress)
        ]
        found = []
        if counterexamples:
            chosen = COUNTEREXAMPLES if only is None else [one for one in COUNTEREXAMPLES if one.of in only]
            each = tracked(chosen, len(chosen), "Dropping assumptions", progress)
            found = [one.find() for one in each]
    return Report(seed, instances, rows, found)


Cases = dict[int, dict[str, Case]]
"""For each size, the instances of each family."""


def draw_cases(instances: int, seed: int) -> Cases:
    """As many instances of each size and family as any check may need."""
    share = max(
        -(-_total(check, instances) // (len(CASE_FAMILIES) * len(check.sizes or SIZES)))
        for check in CHECKS.values()
    )
    sizes = sorted({*SIZES, *(size for check in CHECKS.values() for size in check.sizes or ())})
    return {
        size: {family: make_cases(family, seed, size, share) for family in CASE_FAMILIES} for size in sizes
    }


def _total(check: Check, instances: int) -> int:
    return instances if check.most is None else min(instances, check.most)


def measure(check: Check, instances: int, cases: Cases) -> Row:
    """The result of one check on its share of the instances."""
    measured: dict[str, list[np.ndarray]] = {family: [] for family in CASE_FAMILIES}
    for parts in _parts(check, instances, cases):
        if check.most is None:
            values = _together(check, parts)
        else:
            values = {family: _one_by_one(check, some) for family, some in parts.items()}
        for family, value in values.items():
            measured[family].append(value)
    by_family = {family: np.concatenate(values) for family, values in measured.items() if values}
    everything = np.concatenate(list(by_family.values()))
    if check.kind == "claim":
        shares = {family: float(values.mean()) for family, values in by_family.items()}
        found: dict[str, Any] = {"share": float(everything.mean()), "shares": shares, "verdict": "measured"}
    else:
        # NaN counts as an infinite deviation.
        worst = {family: float(np.nan_to_num(v, nan=np.inf).max()) for family, v in by_family.items()}
        where = max(worst, key=worst.__getitem__)
        verdict = "holds" if worst[where] <= check.tolerance else "FAILS"
        found = {
            "worst": worst[where],
            "tolerance": check.tolerance,
            "worst_family": where,
            "verdict": verdict,
        }
    return Row(
        name=check.name,
        section=check.section,
        statement=check.statement,
        source=check.source,
        kind=check.kind,
        instances=len(everything),
        **found,
    )


def _parts(check: Check, instances: int, cases: Cases) -> Iterator[dict[str, Case]]:
    """For each size that a check is made for, its share of the instances of each family."""
    sizes = SIZES if check.sizes is None else check.sizes
    total = _total(check, instances)
    slots = [(size, family) for size in sizes for family in CASE_FAMILIES]
    share, extra = divmod(total, len(slots))
    counts = {slot: share + (k < extra) for k, slot in enumerate(slots)}
    for size in sizes:
        wanted = {
            family: jax.tree.map(lambda leaf, n=counts[size, family]: leaf[:n], some)
            for family, some in cases[size].items()
            if counts[size, family]
        }
        if wanted:
            yield wanted


def _together(check: Check, parts: dict[str, Case]) -> dict[str, np.ndarray]:
    cases = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts.values())
    values = np.asarray(jax.jit(jax.vmap(check.measure))(cases))
    ends = np.cumsum([one.beta.shape[0] for one in parts.values()])
    return dict(zip(parts, np.split(values, ends[:-1]), strict=True))


def _one_by_one(check: Check, cases: Case) -> np.ndarray:
    count = cases.beta.shape[0]
    each: list[Any] = [check.measure(jax.tree.map(lambda leaf, k=k: leaf[k], cases)) for k in range(count)]
    return np.asarray(each)
