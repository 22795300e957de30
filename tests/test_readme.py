import contextlib
import io
import re
from pathlib import Path

import jax

import didsim
from experiments.__main__ import EXPERIMENTS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_it_is_one_page() -> None:
    assert len(README.split()) < 700


def test_the_examples_run_and_print_what_stands_below_them() -> None:
    examples = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    printed = re.findall(r"```text\n(.*?)```", README, flags=re.DOTALL)
    assert examples
    assert len(examples[0].strip().splitlines()) <= 12
    out = io.StringIO()
    names: dict[str, object] = {}
    # A reader has JAX's default precision.
    with jax.enable_x64(False), contextlib.redirect_stdout(out):
        for example in examples:
            exec(example, names)
    assert out.getvalue() == "".join(printed)


def test_every_figure_shown_is_there_and_stands_beside_its_command() -> None:
    shown = re.findall(r"\(figures/(\w+)\.png\)", README)
    assert shown
    for name in shown:
        assert (ROOT / "figures" / f"{name}.png").exists()
        module = f"experiments {name}" if name in EXPERIMENTS else f"tests.{name}.picture"
        assert f"`python -m {module}`" in README


def test_numbers_are_those_of_the_library() -> None:
    assert f"DPO and {len(didsim.OBJECTIVES) - 1} rival objectives" in " ".join(README.split())
    with jax.enable_x64(True):
        before, after = (jax.numpy.log(jax.numpy.array(p)) for p in ([5, 25, 40, 30], [60, 20, 10, 10]))
        fall = didsim.kl(*(p - jax.nn.logsumexp(p) for p in (before, after)))
    assert f"falls by {fall:.2f} nats" in " ".join(README.split())


def test_its_links_lead_somewhere() -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)", README)
    assert len(links) > 10
    assert [link for link in links if not (ROOT / link).exists()] == []
