# Needs python3 (3.11 or newer), make and a package registry; nothing else.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: figures test notebooks bench clean

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

figures: .venv/installed
	$(BIN)/python -m experiments all
	$(BIN)/python -m experiments.shared.readme
	rm -rf figures/rejected_distributions.zarr
	$(BIN)/didsim run studies/rejected_distributions.toml --store figures/rejected_distributions.zarr
	$(BIN)/didsim plot figures/rejected_distributions.zarr --hue beta --col rejected \
		--out figures/rejected_distributions.png

test: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest --numprocesses=2 --dist=loadfile

notebooks: .venv/installed
	$(BIN)/jupyter lab notebooks

bench: .venv/installed
	$(BIN)/python -m benchmarks
	$(BIN)/python -m benchmarks.readme

clean:
	rm -rf .venv
