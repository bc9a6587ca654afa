# quantmesh: the commands of this project. `make help` lists them.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
WORKERS ?= 2
# A client with pins of its own: its tests run it in an environment that they make.
TRITON := tests/integration/open_inference
ARGS ?=
PIP_QUIET := --quiet --disable-pip-version-check
FRAMEWORKS_VENV ?= .venv-frameworks
FRAMEWORKS_BIN := $(FRAMEWORKS_VENV)/bin
FRAMEWORKS_STAMP := $(FRAMEWORKS_VENV)/.installed
TORCH := 2.13.0

.PHONY: help setup demo up test test-topologies test-frameworks chaos fuzz check proto proto-check breaking fmt bench lock clean

help: ## Say what each command does
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-16s %s\n", $$1, $$2}'

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else "quantmesh needs Python 3.11 or newer, this is %d.%d: set PYTHON=python3.11" % v[:2])'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "no venv module: on Debian and Ubuntu, apt-get install python3-venv"; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

setup: $(STAMP) ## Make .venv with the locked dependencies

demo: setup ## Replay real prices through the whole mesh, print the table, keep serving (ARGS=--once to end)
	$(BIN)/quantmesh demo $(ARGS)

up: setup ## Run the mesh: three gRPC services, the gateway and an embedded Redis
	$(BIN)/quantmesh up $(ARGS)

test: setup ## Run all tests (ARGS=... goes to pytest)
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(ARGS)

test-topologies: setup ## Run the streams' tests on a cluster and behind Sentinels, in the clear and over TLS, and on Redis 6.2
	for topology in cluster cluster-tls sentinel sentinel-tls redis62; do \
		QUANTMESH_TEST_TOPOLOGY=$$topology $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile tests/integration/streams tests/integration/modelstore \
			--ignore tests/integration/streams/test_tutorial.py --ignore tests/integration/streams/test_topologies.py || exit 1; \
	done

# An environment of its own, three gigabytes. PyTorch's build for the CPU is taken where the index has it.
$(FRAMEWORKS_STAMP): requirements.lock requirements-frameworks.lock pyproject.toml
	@test -x $(FRAMEWORKS_BIN)/python || $(PYTHON) -m venv $(FRAMEWORKS_VENV)
	$(FRAMEWORKS_BIN)/python -m pip install $(PIP_QUIET) --no-deps --require-hashes -r requirements.lock
	$(FRAMEWORKS_BIN)/python -m pip install $(PIP_QUIET) --no-deps --require-hashes -r requirements-frameworks.lock
	$(FRAMEWORKS_BIN)/python -m pip install $(PIP_QUIET) --no-deps 'torch==$(TORCH)+cpu' 2>/dev/null \
		|| $(FRAMEWORKS_BIN)/python -m pip install $(PIP_QUIET) 'torch==$(TORCH)'
	$(FRAMEWORKS_BIN)/python -m pip install $(PIP_QUIET) --no-deps --no-build-isolation -e .
	@touch $@

# Each file in a process of its own: two frameworks in one may bring two OpenMP runtimes.
test-frameworks: $(FRAMEWORKS_STAMP) ## Run the conversions of PyTorch, TensorFlow, LightGBM and XGBoost, in an environment of their own
	@for file in tests/frameworks/test_*.py; do \
		echo "$$file"; $(FRAMEWORKS_BIN)/python -m pytest -q $$file $(ARGS) || exit 1; \
	done

chaos: setup ## Kill the streams' processes in 240 seeded schedules, count what came of it (ARGS='--seeds 17')
	$(BIN)/python -m tests.chaos.streams.driver $(ARGS)

fuzz: setup ## Send five minutes of nonsense to each listener of inference_svc (ARGS='--seconds 60 --seed 7')
	$(BIN)/python -m tests.chaos.fuzz $(ARGS)

check: setup proto-check breaking ## Lint, formats, types, dependency rule, contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

proto: setup ## Regenerate gen/ from protos/
	$(BIN)/python tools/generate.py gen

proto-check: setup
	$(BIN)/buf lint
	$(BIN)/buf format --diff --exit-code
	$(BIN)/python tools/generate.py --check gen

# Compared with the last commit on main; on main itself, with the commit before.
breaking: setup
	BUF=$(BIN)/buf $(BIN)/python tools/breaking.py

fmt: setup ## Format the code and the contracts
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .
	$(BIN)/buf format --write

bench: setup ## Measure against floors, in one run, as ratios
	$(BIN)/python -m bench.streams
	$(BIN)/python -m bench.inference

lock: setup ## Resolve the dependencies again (hash-pinned, no index addresses)
	$(BIN)/uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --quiet --upgrade --output-file requirements.lock
	$(BIN)/uv pip compile requirements-frameworks.in --constraint requirements.lock --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --quiet --upgrade --output-file requirements-frameworks.lock
	cd $(TRITON) && $(CURDIR)/$(BIN)/uv pip compile tritonclient.in --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --quiet --upgrade --output-file tritonclient.lock

clean: ## Remove the environment, caches and builds
	rm -rf $(VENV) $(FRAMEWORKS_VENV) dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
