"""What `import didsim` gives, and what it costs."""

import ast
import subprocess
import sys
from pathlib import Path

import didsim

STUB = Path(didsim.__file__).with_suffix(".pyi")


def _names() -> list[str]:
    imports = [node for node in ast.walk(ast.parse(STUB.read_text())) if isinstance(node, ast.ImportFrom)]
    return [alias.name for node in imports for alias in node.names]


def test_every_name_of_the_stub_is_there() -> None:
    names = _names()
    assert len(names) == len(set(names))
    assert set(names) == set(dir(didsim))
    for name in names:
        assert hasattr(didsim, name)


def test_packages_are_reachable_without_an_import_of_their_own() -> None:
    program = "import didsim; didsim.theory.check_all; didsim.plotting.style; didsim.objectives.Pair"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_import_itself_loads_nothing_heavy() -> None:
    program = "import sys, didsim; print(*{'jax', 'xarray', 'zarr', 'scipy', 'optax'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == ""
