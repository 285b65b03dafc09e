# Sagalog: `make` lists what can be made. Needs git, make and Python 3.11 or newer; everything else goes into .venv.

PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3 python; do \
	command -v $$p >/dev/null 2>&1 && $$p -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo $$p && break; done)
BIN := .venv/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check install
ARGS ?=

# Tests start hundreds of processes; each would compile all modules anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help demo test check docs release-check bench bench-peers simulate mutants fuzz clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1	/' | expand -t 20

demo: .venv/demo ## watch a few hundred orders survive a kill -9 (20 seconds)
	@$(BIN)/sagalog demo $(ARGS)

test: .venv/test ## run all tests, in three processes; ARGS="-k timer" chooses
	$(BIN)/python -m pytest -n 3 --dist worksteal $(ARGS)

check: .venv/check docs ## lint, types, walls between layers, the site, what a step costs, and the wheel in an empty environment
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/pyright --verifytypes sagalog --ignoreexternal >.venv/verifytypes || { cat .venv/verifytypes; exit 1; }
	$(BIN)/python -m benchmarks guard
	scripts/smoke_wheel $(BIN)/python
	scripts/release_check $(BIN)/python quick

release-check: .venv/release ## build twice and compare, twine, check-wheel-contents, and each extra by itself in an empty environment (some minutes)
	scripts/release_check $(BIN)/python $(ARGS)

docs: .venv/docs ## build the site in site/, which needs no server: open site/index.html
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	$(BIN)/python scripts/reference_pages.py --check

# Each ends within a minute or so; `python -m benchmarks NAME --help` has the options for more.
bench: .venv/test ## measure everything, beside what the engines themselves can do (about three minutes); results in benchmarks/results
	$(BIN)/python -m benchmarks steps --journal sqlite postgres nats --seconds 2 $(ARGS)
	@for name in latency hot fan timers recover grow cost; do $(BIN)/python -m benchmarks $$name $(ARGS) || exit 1; done

bench-peers: .venv/test .venv-peers/installed ## measure DBOS, eventsourcing, Absurd, sagaz and Restate with the same work, beside Sagalog (two minutes)
	$(BIN)/python -m benchmarks peers $(ARGS)

simulate: .venv/test ## run the engine's own guarantees under simulation on all cores, for some minutes
	$(BIN)/sagalog simulate tests.testing.shop_world:Shop --first-seed random --seeds 40000 --untried-ok $(ARGS)

mutants: .venv/test ## plant bugs in the engine, one at a time: the simulation has to find each
	SAGALOG_MUTANTS=all $(BIN)/python -m pytest tests/testing/test_mutants*.py -v $(ARGS)

fuzz: .venv/test .venv/fuzz ## feed every decoder bad bytes, guided by coverage (x86_64 Linux); ARGS="--seconds 600 record"
	$(BIN)/python -m tests.fuzz $(ARGS)

clean: ## remove .venv and caches
	rm -rf .venv .venv-peers .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .fuzz dist site

.venv/bin/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer (with venv) is needed: install it, or say make PYTHON=/path/to/python"; exit 1; }
	@echo "making .venv with $(PYTHON)"
	@$(PYTHON) -m venv .venv

# One stamp for each set of requirements; the project itself is installed from its folder.
.venv/demo .venv/test .venv/check .venv/docs .venv/fuzz .venv/release: .venv/%: requirements/%.txt pyproject.toml | .venv/bin/python
	@echo "installing requirements/$*.txt"
	@$(PIP) --require-hashes -r requirements/$*.txt
	@$(PIP) --no-build-isolation --no-deps -e .
	@touch $@

# An environment of their own. Without npm, Restate is shown as missing.
.venv-peers/installed: requirements/peers.txt benchmarks/peers/package-lock.json | .venv/bin/python
	@echo "installing requirements/peers.txt"
	@rm -rf .venv-peers && $(BIN)/python -m venv .venv-peers
	@.venv-peers/bin/python -m pip --quiet --disable-pip-version-check install --require-hashes -r requirements/peers.txt
	@mkdir .venv-peers/node && cp benchmarks/peers/package*.json .venv-peers/node
	@if command -v npm >/dev/null; then npm ci --silent --ignore-scripts --no-fund --no-audit --prefix .venv-peers/node; \
	else echo "npm is not installed: Restate will be missing"; fi
	@touch $@
