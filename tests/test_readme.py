import contextlib
import io
import re
from pathlib import Path

import jax
import matplotlib as mpl

README = (Path(__file__).parent.parent / "README.md").read_text()


def test_the_examples_run_and_print_what_stands_below_them() -> None:
    mpl.use("agg")
    ten_lines, metric = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    (printed,) = re.findall(r"```text\n(.*?)```", README, flags=re.DOTALL)
    assert len(ten_lines.strip().splitlines()) <= 12
    out = io.StringIO()
    names: dict[str, object] = {}
    # A reader has JAX's default precision.
    with jax.enable_x64(False), contextlib.redirect_stdout(out):
        exec(ten_lines, names)
        exec(metric, names)
    assert out.getvalue() == printed


def test_every_figure_shown_is_there_and_comes_from_an_experiment() -> None:
    root = Path(__file__).parent.parent
    shown = re.findall(r"\(figures/(\w+)\.png\)", README)
    assert len(shown) == 6
    for name in shown:
        assert (root / "figures" / f"{name}.png").exists()
        if name == "benchmarks":
            assert "`make bench`" in README
            continue
        assert (root / "experiments" / f"{name}.py").exists()
        assert f"`python -m experiments {name}`" in README
