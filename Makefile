# Every verb makes .venv if it is missing and installs what the job needs, once; a second call starts at once.
# PYTHON=...    the Python (3.11 or newer) that makes .venv
# PIP_ARGS=...  more options for pip, for example --extra-index-url with an index that holds CPU builds of torch

VENV := .venv
BIN := $(VENV)/bin
CREATED := $(VENV)/.created
PACKAGE := $(VENV)/.installed-package
DEV := $(VENV)/.installed-dev
BENCH := $(VENV)/.installed-bench
PINS := pyproject.toml constraints.txt

PYTHON ?= $(shell for name in python3 python3.13 python3.12 python3.11 python3.14 python; do \
	$$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $$name && break; done)
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c constraints.txt

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test lint format notebooks torture clean

help: ## show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' Makefile | awk -F'|' '{ printf "make %-18s %s\n", $$1, $$2 }'
	@for file in $(filter-out benchmarks/torture.py,$(wildcard benchmarks/[a-z]*.py)); do \
		name=$${file##*/}; printf 'make %-18s run %s\n' "bench-$${name%.py}" "$$file"; done
	@$(if $(wildcard benchmarks/torture.py),printf 'make %-18s run %s\n' torture benchmarks/torture.py)

demo: $(PACKAGE) ## train five methods on real images, draw their flatness figures into figures/demo, print the table
	$(BIN)/sharpscope demo

test: lint ## check the style and the types, then run every test, example and notebook
	$(BIN)/python -m pytest -n auto --dist loadfile

lint: $(DEV) ## check the style and the types only
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(DEV) ## put every file into the common format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

notebooks: $(DEV) ## run the notebooks and keep their pictures
	$(BIN)/python -m tests.test_notebooks

# Listed by help once they exist.  A benchmark is a module that `python -m` runs.
torture: benchmarks/torture.py $(DEV)
	$(BIN)/python -m benchmarks.torture

bench-%: benchmarks/%.py $(BENCH)
	$(BIN)/python -m benchmarks.$*

clean: ## remove .venv, caches and build files; runs and figures stay
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(CREATED):
	@test -n "$(PYTHON)" || { \
		echo "make: found no Python 3.11 or newer; install one, or say where it is: make PYTHON=/path/to/python3" >&2; exit 2; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "make: $(PYTHON) is not a Python 3.11 or newer; say which one to use: make PYTHON=/path/to/python3" >&2; exit 2; }
	@echo "making $(VENV) with $$("$(PYTHON)" --version)"
	@"$(PYTHON)" -m venv $(VENV)
	@touch $@

$(PACKAGE): $(PINS) | $(CREATED)
	@echo "installing sharpscope into $(VENV); this takes a minute or two, once"
	@$(INSTALL) -e .
	@touch $@

$(DEV): $(PINS) | $(CREATED)
	@echo "installing sharpscope and the tools of its tests into $(VENV); this takes a minute or two, once"
	@$(INSTALL) -e '.[dev]'
	@touch $(PACKAGE) $@

$(BENCH): $(PINS) | $(CREATED)
	@echo "installing sharpscope and the libraries that it is measured against into $(VENV); this takes a minute or two, once"
	@$(INSTALL) -e '.[dev,bench]'
	@touch $(PACKAGE) $(DEV) $@
