# Two commands: `make demo` shows the engine at work, `make test` runs everything in tests/.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.installed
EXTRAS := dev
# More for pip, such as --extra-index-url with PyTorch's index of CPU builds.
PIP_FLAGS ?=

.PHONY: demo test lint plaid clean

demo: $(READY)
	$(BIN)/cascade demo

test: $(READY)
	$(BIN)/python -m pytest

# Style, types and the architecture.
lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# What the ColBERT parity and PLAID tests need besides; without it they are skipped.
plaid: $(READY)
	$(BIN)/python -m pip install --quiet $(PIP_FLAGS) -c constraints.txt -e '.[dev,plaid]'

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet $(PIP_FLAGS) -c constraints.txt torch
	$(BIN)/python -m pip install --quiet $(PIP_FLAGS) -c constraints.txt -e '.[$(EXTRAS)]'
	touch $@

clean:
	rm -rf $(VENV) .demo .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
