# Everything a fresh checkout needs, given Python 3.11 or newer with its venv module, and make.
# `make help` lists what there is. Works as root and as an ordinary user; writes to this folder only.

.DEFAULT_GOAL := help
SHELL := /bin/sh
.DELETE_ON_ERROR:

UV_VERSION := 0.13.8
TOOLS := .tools
VENV := .venv
BIN := $(VENV)/bin
UV := $(TOOLS)/bin/uv
UV_STAMP := $(TOOLS)/uv-$(UV_VERSION)
VENV_STAMP := $(VENV)/.synced
ENGINE := .venv-engine
ENGINE_STAMP := $(ENGINE)/.synced
NODE := tests/sdk_node
NODE_STAMP := $(NODE)/node_modules/.package-lock.json
NAME ?=

export UV_PYTHON_DOWNLOADS := never
export UV_LINK_MODE ?= copy
# Compiled code is kept, wherever the environment says not to: else every process that a target
# starts, and tests start hundreds, compiles everything that it imports anew, which takes longer
# than most of them work.
export PYTHONDONTWRITEBYTECODE :=

# The first interpreter that is new enough and can make environments; one that is named on the command
# line is taken as it is. The distribution's comes first: it was built with profiles of what it runs,
# which those that version managers build mostly are not, and every request takes less with it.
PYTHON ?= $(shell for python in /usr/bin/python3 python3 python3.13 python3.12 python3.11; do \
	if $$python -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' \
	>/dev/null 2>&1; then command -v $$python; break; fi; done)

# uv does not read pip's settings. Where a machine has some, uv is given the same ones. Any index
# will do: versions and hashes are pinned, which also makes it safe to look into all of them.
define with_index
	setting() { $(TOOLS)/bin/python -m pip config list | sed -n "s/^[^.]*\.$$1='\(.*\)'$$/\1/p" | head -n 1; }; \
	carry() { eval "now=\$${$$1:-}"; if [ -z "$$now" ] && [ -n "$$2" ]; then export "$$1=$$2"; fi; }; \
	carry UV_DEFAULT_INDEX "$$(setting index-url)"; \
	carry SSL_CERT_FILE "$$(setting cert)";
endef
define with_uv
	$(with_index) \
	carry UV_INDEX "$$(setting extra-index-url)"; \
	carry UV_FIND_LINKS "$$(setting find-links | tr ' ' ',')"; \
	carry UV_INDEX_STRATEGY unsafe-best-match; \
	$(UV)
endef

.PHONY: help venv run demo test test-long test-engine test-node lint bench soak openapi examples lock clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 24

venv: $(VENV_STAMP) ## set up .venv from requirements.lock

run: $(VENV_STAMP) ## start everything on embedded defaults and print how to use it
	@$(BIN)/steelyard up

demo: $(VENV_STAMP) ## a month of business from request to invoice and margin, checked, in a minute
	@$(BIN)/steelyard demo

test: $(VENV_STAMP) ## the whole suite, fault tests with few rounds
	@$(BIN)/python -m pytest -q --numprocesses 4 --dist loadfile --no-loadscope-reorder

test-long: $(VENV_STAMP) ## the full counts; NAME=suite takes one suite (what pytest -k takes)
	@STEELYARD_ROUNDS=full $(BIN)/python -m pytest -q --timeout=3600 \
		$(if $(NAME),-m "not engine" -k "$(NAME)",-m long)

test-engine: $(VENV_STAMP) $(ENGINE_STAMP) ## a real inference engine, and GuideLLM as load (a large download)
	@$(BIN)/python -m pytest -q --timeout=1200 -m engine

test-node: $(VENV_STAMP) $(NODE_STAMP) ## the official clients of JavaScript (needs node and npm)
	@$(BIN)/python -m pytest -q tests/api/proxy/sdk/test_node.py

lint: $(VENV_STAMP) ## ruff, format, strict types, arrows between the packages
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/pyright
	@$(BIN)/lint-imports --no-logo

bench: $(VENV_STAMP) ## NAME=benchmark runs one and writes build/bench; without NAME: lists them
ifeq ($(NAME),)
	@echo "make bench NAME=…, one of:"
	@grep -l __main__ tests/benchmarks/*.py | sed 's|.*/\(.*\)\.py|  \1|'
else
	@$(BIN)/python -m tests.benchmarks.$(NAME)
endif

soak: $(VENV_STAMP) ## half of what the machine can do for MINUTES=60, with memory watched
	@MINUTES=$(or $(MINUTES),60) $(BIN)/python -m tests.benchmarks.soak

openapi: $(VENV_STAMP) ## write the committed OpenAPI document and the schema of plan files anew
	@$(BIN)/python -m api.openapi
	@$(BIN)/steelyard plan schema --json > openapi/plan.schema.json

examples: $(VENV_STAMP) ## rate the example plans anew and write their page
	@$(BIN)/python -m billing.planfiles.rated_examples

# From the index alone: it tells the hashes of all files of a version. Where a machine keeps one file
# of it at hand, uv would write down only that one's, and no other system could install from the lock.
lock: $(UV_STAMP) ## resolve pyproject.toml into both lock files
	@$(with_index) $(UV) pip compile --quiet $(LOCK) --group dev --output-file requirements.lock
	@$(with_index) $(UV) pip compile --quiet $(LOCK) --constraint requirements.lock \
		--output-file requirements-run.lock

clean: ## remove what these targets made, databases excepted
	rm -rf $(VENV) $(TOOLS) $(ENGINE) $(NODE)/node_modules build .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find api billing migrations tests workers -name __pycache__ -type d -prune -exec rm -rf {} +

LOCK := pyproject.toml --universal --python-version 3.11 --generate-hashes --no-header \
	--no-annotate --no-emit-index-url --no-emit-find-links

$(UV_STAMP):
	@if [ -z "$(PYTHON)" ]; then \
		echo "make: no Python 3.11 or newer with its venv module was found." >&2; \
		echo "Install one (Debian and Ubuntu: python3 and python3-venv), or name it: make PYTHON=/path/to/python3" >&2; \
		exit 1; fi
	@echo "Setting up uv $(UV_VERSION) in $(TOOLS) with $(PYTHON)"
	@rm -rf $(TOOLS)
	@$(PYTHON) -m venv $(TOOLS)
	@$(TOOLS)/bin/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	@touch $@

$(VENV_STAMP): $(UV_STAMP) requirements.lock pyproject.toml
	@echo "Installing into $(VENV) what requirements.lock names"
	@if [ ! -x $(BIN)/python ]; then $(UV) venv --quiet --python $(TOOLS)/bin/python $(VENV); fi
	@$(with_uv) pip sync --quiet --require-hashes --python $(BIN)/python requirements.lock
	@$(UV) pip install --quiet --offline --no-deps --no-build-isolation --python $(BIN)/python \
		--editable .
	@touch $@

$(NODE_STAMP): $(NODE)/package.json $(NODE)/package-lock.json
	@echo "Installing into $(NODE)/node_modules what package-lock.json names"
	@cd $(NODE) && npm ci --silent
	@touch $@

# pip itself, because PyTorch's builds are often served from a folder that only pip is told about.
$(ENGINE_STAMP): $(UV_STAMP) tests/engine/requirements.txt
	@echo "Installing an inference engine into $(ENGINE)"
	@rm -rf $(ENGINE)
	@$(TOOLS)/bin/python -m venv $(ENGINE)
	@$(ENGINE)/bin/python -m pip install --quiet --disable-pip-version-check \
		--requirement tests/engine/requirements.txt
	@touch $@
