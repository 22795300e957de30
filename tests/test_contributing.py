"""CONTRIBUTING.md stays true: its files are there, its commands exist, and its code runs."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "CONTRIBUTING.md").read_text()

# Each recipe's outcome, asked for after its code has run.
OUTCOMES = """
import optax

reference, target = (didsim.zipf(6, exponent) for exponent in (1.0, -0.5))
problem = didsim.Contrastive(reference, didsim.REJECTED["sharpened"](reference))
objective = didsim.OBJECTIVES["margin_dpo"](1.0)
limit = didsim.solve(objective, reference, problem)
assert bool(limit.certificate.unique), "a margin is convex: one start, and a proof"
run = didsim.train(didsim.EnergyBased(reference), reference, problem, objective, optax.adam(0.1), 2000)
assert float(didsim.js(run.policy.log_probs(), limit.log_probs)) < 1e-6

own = didsim.Objective(Pair(LogRatio(jnp.asarray(1.0)), SquaredHinge()))
certificate = didsim.solve(own, reference, problem).certificate
assert certificate.starts == 1 and bool(certificate.unique), "a kernel that states it is convex"

report = didsim.theory.check_all(100, only=["did_entropy_is_at_most_log_n"], counterexamples=False)
assert report.rows[0].verdict == "holds"
"""


def test_its_code_runs_and_does_what_it_says() -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    program = "\n".join([*blocks, OUTCOMES])
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_its_files_exist() -> None:
    paths = re.findall(r"`((?:didsim|tests|experiments)/[\w/.]*|[A-Z]+\.md)`", PAGE)
    assert paths
    for path in paths:
        assert (ROOT / path).exists(), path


def test_its_commands_exist() -> None:
    targets = set(re.findall(r"`make ([\w./]+)`", PAGE))
    makefile = (ROOT / "Makefile").read_text()
    assert {"test", "figures", "bench"} <= targets
    for target in targets:
        assert re.search(rf"^{re.escape(target)}:", makefile, re.MULTILINE), target
    for path in re.findall(r"`pytest -n 0 ([\w/.]+)", PAGE):
        assert (ROOT / path).is_file(), path


def test_registries_that_it_names_are_in_the_files_that_it_names() -> None:
    for name, path in re.findall(r"`([A-Z_]{5,})` in `([\w/.]+)`", PAGE):
        assert re.search(rf"^{name}\b", (ROOT / path).read_text(), re.MULTILINE), (name, path)
