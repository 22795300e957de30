"""A first install: the wheel without extras, outside the checkout, on its oldest and newest packages."""

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import xarray as xr

ROOT = Path(__file__).parent.parent.parent
README = (ROOT / "README.md").read_text()
STUDY = """
steps = 20
limit = true

[space]
vocab_size = 2
max_length = 3

[problem]
name = "contrastive"
rejected = "uniform"

[record]
every = 5

[sweep]
"objective.beta" = [0.5, 1.0]
seed = [0, 1]
"""

pytestmark = [pytest.mark.slow, pytest.mark.wheel]


@dataclass(frozen=True)
class Installed:
    """An environment with the wheel, and a folder of its own to work in."""

    bin: Path
    folder: Path

    def run(self, command: str, *arguments: str | Path, status: int = 0, **variables: str) -> str:
        """What a command prints on both channels, after its exit status was compared.

        `variables` are those of its environment, beside those that every test's process has.
        """
        ours = ("XLA_FLAGS", "JAX_", "PYTHON", "VIRTUAL_ENV")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        done = subprocess.run(
            [self.bin / command, *arguments],
            cwd=self.folder,
            env=kept | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == status, done.stdout
        return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    _uv("build", "--quiet", "--wheel", "--out-dir", folder, ROOT)
    (built,) = folder.glob("*.whl")
    return built


class FirstInstall:
    """What holds in an environment, whichever packages it has. It is installed once for a class."""

    resolution: str

    @pytest.fixture(scope="class")
    @classmethod
    def installed(cls, wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
        home = tmp_path_factory.mktemp(cls.resolution)
        _uv("venv", "--quiet", "--python", sys.executable, home / "venv")
        into = ("pip", "install", "--quiet", "--python", home / "venv" / "bin" / "python")
        # The lowest versions are those of a project's own file: those of a wheel count as indirect.
        _uv(*into, "--resolution", cls.resolution, "--requirement", ROOT / "pyproject.toml")
        _uv(*into, "--no-deps", wheel)
        (home / "work").mkdir()
        (home / "work" / "study.toml").write_text(STUDY)
        return Installed(home / "venv" / "bin", home / "work")

    @pytest.fixture(scope="class")
    @classmethod
    def study(cls, installed: Installed) -> str:
        """What `didsim run` prints."""
        return installed.run("didsim", "run", "study.toml", "--quiet")

    def test_the_wheel_is_what_is_imported(self, installed: Installed) -> None:
        place = installed.run("python", "-c", "import didsim; print(didsim.__file__)")
        assert Path(place.strip()).is_relative_to(installed.bin.parent)
        assert installed.run("didsim", "--version").startswith("didsim 0.")

    def test_the_ten_lines_print_what_the_readme_says(self, installed: Installed) -> None:
        example = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)[0]
        printed = re.findall(r"```text\n(.*?)```", README, flags=re.DOTALL)[0]
        assert installed.run("python", "-c", example) == printed

    def test_a_study_is_run_shown_drawn_and_exported(self, installed: Installed, study: str) -> None:
        assert "4 cells done" in study
        assert "│ done     │ 4 " in installed.run("didsim", "show", "study.zarr")
        installed.run("didsim", "plot", "study.zarr", "--hue", "beta", "--out", "study.png")
        assert (installed.folder / "study.png").read_bytes().startswith(b"\x89PNG")
        for name in ("study.nc", "study.csv"):
            installed.run("didsim", "export", "study.zarr", name)
        with xr.open_dataset(installed.folder / "study.nc") as dataset:
            assert dict(dataset.sizes) == {"beta": 2, "seed": 2, "step": 5}
            assert dataset["js_to_limit"].notnull().all()

    @pytest.mark.usefixtures("study")
    def test_what_an_extra_is_needed_for_names_it(self, installed: Installed) -> None:
        assert "didsim[parquet]" in installed.run("didsim", "export", "study.zarr", "study.parquet", status=2)
        told = installed.run(
            "didsim", "run", "study.toml", "--store", "other.zarr", "--dask", "local:2", status=2
        )
        assert "didsim[distributed]" in told


class TestOnTheOldestPackages(FirstInstall):
    resolution = "lowest-direct"

    def test_the_theory_is_checked(self, installed: Installed) -> None:
        """Hundreds of programs, by the flags of `conftest.py`: without XLA's optimiser.

        On the newest packages the suite itself checks the theory.
        """
        arguments = ("check", "--instances", "10", "--out", "check.json", "--quiet")
        installed.run("didsim", *arguments, XLA_FLAGS=os.environ["XLA_FLAGS"])
        assert (installed.folder / "check.json").stat().st_size > 0


class TestOnTheNewestPackages(FirstInstall):
    resolution = "highest"


def _uv(*arguments: str | Path) -> None:
    subprocess.run([sys.executable, "-m", "uv", *arguments], check=True)
