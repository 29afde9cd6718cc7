# Two commands: `make demo` and `make test`. Each makes its own virtual environment when there is none.
PYTHON ?= python3
VENV ?= .venv
FRAMEWORK ?= linen
BIN := $(VENV)/bin
READY := $(VENV)/.firstdiff-installed

.PHONY: demo test lint types suite clean

demo: $(READY)
	@$(BIN)/firstdiff demo --framework $(FRAMEWORK)

test: lint types suite

lint: $(READY)
	$(BIN)/ruff check src tests benchmarks examples
	$(BIN)/ruff format --check src tests benchmarks examples

types: $(READY)
	$(BIN)/mypy

suite: $(READY)
	$(BIN)/python -m pytest -n auto --dist loadfile

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "firstdiff needs Python 3.11 or newer, but $(PYTHON) is " + sys.version.split()[0] + ": make PYTHON=python3.12")'
	@echo "Making a virtual environment in $(VENV) (once; a few minutes, about 2 GB)"
	@$(PYTHON) -m venv $(VENV)
	@echo "1/2 torch, first, so that nothing pulls another build of it"
	@$(BIN)/python -m pip install --disable-pip-version-check --progress-bar on -c constraints.txt torch==2.13.0
	@echo "2/2 firstdiff with everything its demo and its tests need"
	@$(BIN)/python -m pip install --disable-pip-version-check --progress-bar on -c constraints.txt -e '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
