# make demo: install, then everything once on simulated micrographs.   make test: install, then all checks.
# Another interpreter: make PYTHON=python3.12 ...
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.PHONY: install demo test check test-slow bench bench-check clean

# The first Python that is new enough; `python3` where none is, so that the message below names its version.
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for each in python3 python3.13 python3.12 python3.11; do \
	if "$$each" -c '$(NEW_ENOUGH)' 2>/dev/null; then echo "$$each"; exit; fi; done; echo python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@if [ ! -x $(BIN)/pip ]; then \
	  command -v "$(PYTHON)" >/dev/null || { echo "make: no '$(PYTHON)' here; install Python 3.11 or newer, or name one: make PYTHON=/path/to/python3.12" >&2; exit 1; }; \
	  "$(PYTHON)" -c '$(NEW_ENOUGH)' || { echo "make: '$(PYTHON)' is $$("$(PYTHON)" --version 2>&1); 3.11 or newer is needed: install one, or name it: make PYTHON=/path/to/python3.12" >&2; exit 1; }; \
	  echo "making $(VENV) with $$("$(PYTHON)" --version) ..."; \
	  "$(PYTHON)" -m venv $(VENV) || { rm -rf $(VENV); echo "make: $(PYTHON) cannot make an environment; on Debian and Ubuntu install its venv package (python3-venv)" >&2; exit 1; }; \
	fi
	@echo "installing into $(VENV) (some minutes the first time) ..."
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: install
	$(BIN)/microseg demo --output demo

test: install
	@$(MAKE) --no-print-directory check

check:
	$(BIN)/ruff check --quiet .
	$(BIN)/ruff format --quiet --check .
	$(BIN)/mypy --no-error-summary
	@$(BIN)/lint-imports --no-logo >$(VENV)/lint-imports.log 2>&1 || { cat $(VENV)/lint-imports.log; exit 1; }
	$(BIN)/python -m pytest

test-slow: install
	$(BIN)/python -m pytest -m slow

bench-check: install
	$(BIN)/python -m benchmarks check

bench: install
	@for name in forward segment stitch archive tile train plan memory; do echo "== $$name"; $(BIN)/python -m benchmarks $$name; done

# Leaves the environment and what `runs/` holds.
clean:
	rm -rf demo build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
