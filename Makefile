# Every target sets up what it needs: .venv is made once from the hashed lock and remade when the lock changes.
SHELL := /bin/bash
BIN := .venv/bin
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input install --quiet
RECIPES := $(basename $(notdir $(wildcard src/latflow/app/recipes/*.toml)))
WORKERS ?= 2
TESTS ?= tests

.PHONY: demo test validate confirm lint format docs lock setup clean
.DEFAULT_GOAL := demo

demo: setup ## dynamical fermions, sampled exactly from nothing, compared with HMC, and the report
	$(BIN)/latflow run schwinger-l8

test: setup ## the whole suite
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(TESTS)

validate: setup ## hours: every recipe as it is shipped, each estimate held against the exact result or the baseline
	$(BIN)/python benchmarks/validate.py $(RECIPES)

confirm: setup ## files written here, read by latqcdtools in an environment of its own
	rm -rf .confirm && $(BIN)/python benchmarks/confirm_files.py write .confirm/files
	$(PYTHON) -m venv .confirm/venv
	.confirm/venv/bin/python -m pip --disable-pip-version-check --no-input install --quiet latqcdtools==1.3.4
	.confirm/venv/bin/python benchmarks/confirm_files.py check .confirm/files

lint: setup ## style, types and the import layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

format: setup ## rewrite the code in the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: setup ## docs/_build/html/index.html; runs the tutorial
	$(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html
	@echo "Documentation: docs/_build/html/index.html"

lock: ## resolve requirements.lock anew (needs uv)
	uv pip compile pyproject.toml --extra app --group dev --universal --python-version 3.11 \
		--generate-hashes --no-emit-index-url --no-header --no-annotate -o requirements.lock

setup: .venv/.installed

.venv/.requirements: requirements.lock
	@test -n "$(PYTHON)" || { echo "latflow needs Python 3.11 or later; set PYTHON=/path/to/python3.11" >&2; exit 1; }
	@echo "Setting up .venv with $(PYTHON), once"
	@$(PYTHON) -m venv .venv
	@$(PIP) --require-hashes -r requirements.lock
	@touch $@

.venv/.installed: .venv/.requirements pyproject.toml
	@$(PIP) --no-deps --no-build-isolation -e .
	@touch $@

clean: ## remove everything that can be made again, except runs
	rm -rf .venv docs/_build .pytest_cache .ruff_cache .hypothesis .import_linter_cache .jax_cache .confirm
