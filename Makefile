# Two commands do everything: `make notebooks` and `make test`. `make help` lists the rest.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DONE := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install notebooks notebooks-full test lint format bench clean

help:  ## List the commands
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 18

$(DONE): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --progress-bar off \
		--constraint constraints.txt --editable ".[dev]"
	@touch $@

install: $(DONE)  ## Make .venv and install everything into it, at the versions in constraints.txt

notebooks: $(DONE)  ## Run every notebook in the quick profile; pages and an index go to build/
	$(BIN)/python scripts/run_notebooks.py --profile quick

notebooks-full: $(DONE)  ## Run every notebook in the full profile and write the outputs into the notebooks
	$(BIN)/python scripts/run_notebooks.py --profile full --in-place

test: $(DONE)  ## Run all tests: docstring examples, and every notebook in the quick profile
	$(BIN)/python -m pytest

lint: $(DONE)  ## Check style, docstrings, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(DONE)  ## Mend what the formatter can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(DONE)  ## Measure speed side by side with what one would use instead
	$(BIN)/python -m benchmarks.interference

clean:  ## Remove what the commands wrote: .venv, build, caches
	rm -rf $(VENV) build data/cache .mypy_cache .pytest_cache .ruff_cache
