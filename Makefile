# Everything here stays inside the checkout: the environment in .venv, and in it the cache of kernels and models.
.PHONY: help setup setup-train setup-test kernels run demo test lint types quick bench clean
.DEFAULT_GOAL := help
SHELL := /bin/sh
VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= $(shell for p in python3.12 python3.11 python3; do \
	if $$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; then echo $$p; break; fi; done)
export CURATE_CACHE ?= $(CURDIR)/$(VENV)/cache
export PIP_DISABLE_PIP_VERSION_CHECK := 1
INSTALL := $(BIN)/python -m pip install --quiet --constraint constraints.txt

help:
	@echo "make run     the main job on the embedded sample (sets up .venv first)"
	@echo "make demo    all seven samples up to a trained model that writes text (installs torch; some minutes)"
	@echo "make test    all tests, types and style"
	@echo "make bench   speed of every stage beside other tools, MB/s per core"
	@echo "make clean   remove .venv"

$(VENV)/ready: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "make: needs Python 3.11 or 3.12 (none of python3.12, python3.11, python3 is one); set PYTHON=..." >&2; exit 2; }
	@echo "setting up $(VENV) with $(PYTHON) (packages only, about a minute) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(INSTALL) --editable .
	@touch $@

# torch comes as the build for CPUs where the machine's package index has one, else with CUDA (some gigabytes).
$(VENV)/ready-train: $(VENV)/ready
	@echo "setting up torch in $(VENV) (minutes, by the network) ..."
	@$(INSTALL) --editable ".[train]"
	@touch $@

$(VENV)/ready-test: $(VENV)/ready-train
	@$(INSTALL) --editable ".[test,train]"
	@touch $@

setup: $(VENV)/ready
setup-train: $(VENV)/ready-train
setup-test: $(VENV)/ready-test

run: setup
	$(BIN)/curate run commoncrawl --out $(or $(OUT),corpus)

demo: setup-train
	$(BIN)/curate run all --out $(or $(OUT),corpus-all)

test: setup-test lint types kernels
	$(BIN)/python -m pytest -n 2 --dist loadfile

quick: setup-test kernels
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow"

kernels: setup
	@$(BIN)/python -c "from curate.kernels.warm import compile_all; compile_all()"

lint: setup-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: setup-test
	$(BIN)/mypy

bench: setup-test
	$(BIN)/python -m tests.bench

clean:
	rm -rf $(VENV)
