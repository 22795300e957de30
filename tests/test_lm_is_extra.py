"""`didsim.lm` without its extra, and didsim without PyTorch."""

import subprocess
import sys

import pytest

BLOCKED = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == {name!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Blocked())
"""


def output_of(program: str) -> str:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("name", ["torch", "transformers"])
def test_without_the_extra_the_error_names_it(name: str) -> None:
    if name == "transformers":
        pytest.importorskip("torch", reason="needs the extra: pip install 'didsim[lm]'")
    program = "try:\n    import didsim.lm\nexcept ImportError as error:\n    print(error)"
    assert output_of(BLOCKED.format(name=name) + program).strip() == (
        f"didsim.lm needs PyTorch and transformers, and {name} is not installed; "
        "they come with pip install 'didsim[lm]'"
    )


def test_nothing_else_imports_pytorch() -> None:
    program = (
        "import sys, didsim, didsim.cli\n"
        "didsim.diagnose, didsim.diagnostics.diagnose_pairs, didsim.train\n"
        "print({'torch', 'transformers'} & sys.modules.keys())"
    )
    assert output_of(program).strip() == "set()"
