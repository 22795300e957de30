"""Run notebooks and store what they print and show: `python -m notebooks 02 04`; without names, all of them.

Each runs in a kernel of its own. Nothing of this machine is stored: no times, no versions, no paths.
"""

import argparse
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parent
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def execute(path: Path) -> None:
    """Run a notebook in its folder, and replace its outputs by the new ones."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook, resources={"metadata": {"path": str(FOLDER)}}, record_timing=False, coalesce_streams=True
    )
    client.execute()
    notebook.metadata = nbformat.from_dict({"kernelspec": KERNEL})
    nbformat.write(notebook, path)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m notebooks", description=__doc__)
    parser.add_argument("names", nargs="*", help="how file names begin; by default all notebooks")
    names = parser.parse_args().names or [""]
    for path in sorted(FOLDER.glob("*.ipynb")):
        if path.name.startswith(tuple(names)):
            execute(path)
            print(path.name)


if __name__ == "__main__":
    main()
