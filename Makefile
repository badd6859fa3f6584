# Two commands do everything: `make notebooks` and `make test`. `make help` lists the rest.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DONE := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install notebooks notebooks-full test check test-lowest docs package lint format bench clean

help:  ## List the commands
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 18

$(DONE): pyproject.toml constraints.txt
	@echo "Making $(VENV): some minutes, 0.4 to 3.3 GB to download (README, Two commands)"
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
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses logical --maxprocesses 8 --dist worksteal

# gradients, interference, trees, fields, oracles: no browser, no cluster, no notebook, nothing over five seconds
CORE = gradients interference tree modules fields gradient_fields random_networks streaming zoo context layout
check: $(DONE)  ## Test the core mathematics alone, in some minutes
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q --numprocesses logical --maxprocesses 8 -m "not slow" \
		$(CORE:%=tests/test_%.py) $(addprefix src/gradembed/,gradients interference tree fields)

# PyTorch stays at the version in constraints.txt: of older ones package indexes have builds with CUDA for Linux only,
# several gigabytes. Where they are no trouble: make test-lowest TORCH="torch==2.6 torchvision==0.21"
TORCH = $(shell grep -E '^torch(vision)?==' constraints.txt)
test-lowest: $(DONE)  ## Run the quick tests with the lowest versions that pyproject.toml allows, in .venv-lowest
	mkdir -p build
	printf '%s\n' $(TORCH) | $(BIN)/uv pip compile --quiet --python $(BIN)/python --resolution lowest-direct \
		--extra tests pyproject.toml - > build/lowest.txt
	$(PYTHON) -m venv --clear $(VENV)-lowest
	$(VENV)-lowest/bin/python -m pip install --quiet --disable-pip-version-check --progress-bar off \
		--constraint build/lowest.txt --editable ".[tests]"
	$(VENV)-lowest/bin/python -m pytest -m "not slow" --ignore tests/test_notebooks.py -W ignore::DeprecationWarning

docs: $(DONE)  ## Build the documentation into build/docs; every example on its pages is run
	$(BIN)/python scripts/build_docs.py

package: $(DONE)  ## Build wheel and source distribution into dist/
	$(BIN)/python -m build --no-isolation --outdir dist

lint: $(DONE)  ## Check style, docstrings, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(DONE)  ## Mend what the formatter can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(DONE)  ## Measure speed side by side with what one would use instead
	$(BIN)/python -m benchmarks.interference
	$(BIN)/python -m benchmarks.fields
	$(BIN)/python -m benchmarks.ensemble
	$(BIN)/python -m benchmarks.scale
	$(BIN)/python -m benchmarks.general
	$(BIN)/python -m benchmarks.monitor
	$(BIN)/python -m benchmarks.report

clean:  ## Remove what the commands wrote: environments, build, dist, caches
	rm -rf $(VENV) $(VENV)-lowest build dist data/cache .mypy_cache .pytest_cache .ruff_cache
