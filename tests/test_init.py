"""What `import didsim` gives, and what it costs."""

import ast
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

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


def _exported() -> dict[str, Any]:
    """Everything that `didsim` exports, and everything that its packages export in `__all__`."""
    exported = {name: getattr(didsim, name) for name in _names()}
    for package in [one for one in exported.values() if isinstance(one, types.ModuleType)]:
        for name in getattr(package, "__all__", ()):
            exported[f"{package.__name__}.{name}"] = getattr(package, name)
    return exported


def _is_described(one: Any) -> bool:
    """Whether a docstring was written: dataclasses and named tuples without one make their own."""
    return bool(one.__doc__) and not one.__doc__.startswith(f"{getattr(one, '__name__', '')}(")


def test_everything_exported_has_a_docstring_except_constants_and_unions() -> None:
    exported = _exported()
    assert {"dpo", "didsim.pairwise.potentials", "didsim.training.train"} <= exported.keys()
    described = {
        name: one
        for name, one in exported.items()
        if not name.rpartition(".")[2].isupper() and not isinstance(one, types.UnionType)
    }
    assert [name for name, one in described.items() if not _is_described(one)] == []


def test_packages_are_reachable_without_an_import_of_their_own() -> None:
    program = "import didsim; didsim.theory.check_all; didsim.plotting.style; didsim.objectives.Pair"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_import_itself_loads_nothing_heavy() -> None:
    program = "import sys, didsim; print(*{'jax', 'xarray', 'zarr', 'scipy', 'optax'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == ""


def test_solving_and_training_do_not_load_xarray() -> None:
    # Importing it takes longer than most first calls would without it.
    program = (
        "import sys, didsim; didsim.solve; didsim.train; print(*{'xarray', 'pandas'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == ""
