# Needs python3 (3.11 or newer), make and a package registry; nothing else.
PYTHON ?= python3
BIN := .venv/bin
SHELL := bash
PYTEST := $(BIN)/pytest --numprocesses=2

.PHONY: figures test lint suite core wheel notebooks bench clean

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

figures: .venv/installed
	$(BIN)/python -m experiments all
	$(BIN)/python -m experiments.shared.zeros
	rm -rf figures/rejected_distributions.zarr
	$(BIN)/didsim run studies/rejected_distributions.toml --store figures/rejected_distributions.zarr
	$(BIN)/didsim plot figures/rejected_distributions.zarr --hue beta --col rejected \
		--out figures/rejected_distributions.png

test:
	@for lane in lint suite core wheel; do \
		SECONDS=0; $(MAKE) --no-print-directory $$lane || exit 1; echo "lane $$lane: $$SECONDS s"; \
	done

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Compiles without XLA's optimiser (conftest.py), which is four times as fast. All that the other lanes leave.
suite: .venv/installed
	$(PYTEST) --dist=loadfile -m "not wheel and not core"

# The program that users compile: XLA's optimiser, and nothing from a cache.
core: .venv/installed
	XLA_FLAGS= JAX_ENABLE_COMPILATION_CACHE=false $(PYTEST) --dist=worksteal -m core

# What users install: the wheel outside this folder, on the oldest and the newest packages it admits.
wheel: .venv/installed
	$(PYTEST) --dist=loadgroup -m wheel

notebooks: .venv/installed
	$(BIN)/jupyter lab notebooks

bench: .venv/installed
	$(BIN)/python -m benchmarks
	$(BIN)/python -m benchmarks.readme

clean:
	rm -rf .venv
