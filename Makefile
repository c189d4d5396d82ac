# What one can do here. `make` alone lists it.
VENV ?= .venv
PYTHON ?= python3
CONSTRAINTS ?= constraints.txt
BIN := $(VENV)/bin
# What the site shows and its pages link to.
PAGES := README.md CONTRIBUTING.md SECURITY.md CHANGELOG.md docs results benchmarks examples
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS)

.DEFAULT_GOAL := help
.PHONY: help demo test oldest slow check docs bench

help:  ## list the commands
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

$(BIN)/bio-rl: pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -m venv $(VENV)
	$(PIP) -e .
	@touch $@

$(BIN)/pytest: pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -m venv $(VENV)
	$(PIP) -e ".[dev]"
	@touch $@

demo: $(BIN)/bio-rl  ## install, and train PPO on CartPole by feedback alignment (a minute or two)
	$(BIN)/bio-rl train rule=feedback_alignment env=cartpole overwrite=true

test: $(BIN)/pytest  ## install with the development tools, and run the tests (under 8 minutes on 2 cores)
	$(BIN)/pytest -n auto

oldest:  ## the same on the oldest versions that pyproject.toml admits
	$(MAKE) test VENV=.venv-oldest CONSTRAINTS=constraints-oldest.txt

slow: $(BIN)/pytest  ## run the tests that take minutes: agents that learn to their full return, long relaxations
	$(BIN)/pytest -m slow

check: $(BIN)/pytest  ## format, lint and types, as in CI
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: $(BIN)/pytest  ## build the site, build/site/index.html, from the Markdown and the docstrings here
	rm -rf build/pages
	mkdir -p build/pages
	cp -r $(PAGES) build/pages
	$(BIN)/zensical build --clean --strict

bench: $(BIN)/pytest  ## what is claimed about speed, measured here
	$(BIN)/python benchmarks/update_cost.py
	$(BIN)/python benchmarks/throughput.py
