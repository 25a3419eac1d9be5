# The two commands of the README, and what CI runs. Needs Python 3.11 or newer, and make.
PYTHON ?= python3
BIN = .venv/bin

.PHONY: quickstart test slow lint

quickstart: .venv/installed
	$(BIN)/hftk quickstart --output runs/quickstart

test: .venv/installed
	$(BIN)/python -m pytest -n 2 -m "not slow and not tf"

slow: .venv/installed
	$(BIN)/python -m pytest -n 2 -m "slow and not tf"

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The stamp is written when everything is installed: from then on nothing here touches the network.
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("hftk needs Python 3.11 or newer: make PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[quickstart,dev]'
	touch $@
