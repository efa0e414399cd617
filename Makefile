# The targets that people and CI share. Each bootstraps what it needs into the checkout
# (.tools and .venv) from the package registries; the machine needs Python 3.11+ and make.
PYTHON ?= python3
UV_VERSION := 0.13.9
UV := .tools/bin/uv
RUN := .venv/bin/
export UV_PYTHON_DOWNLOADS := never
# As pip does: a company's own certificates are in the machine's store.
export UV_SYSTEM_CERTS := true
PYTEST_ARGS ?=
SEEDS ?= 5
ARGS ?=

SERVERS := tests/support/servers
PEERS := tests/load/peers

.PHONY: help setup lock format lint type test coverage java test-cluster faults bench fuzz demo up clean

help:  ## say what each target does
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

.tools/bin/uv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Upward needs Python 3.11 or newer; this is $$($(PYTHON) --version). Set PYTHON=..."; exit 1; }
	@$(PYTHON) -m venv .tools
	@.tools/bin/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

.venv/.installed: requirements.lock pyproject.toml | .tools/bin/uv
	@test -x .venv/bin/python || $(UV) venv --quiet --python $(PYTHON) .venv
	@# Compiled once here: otherwise each of the many short processes of demo and tests compiles anew.
	@$(UV) pip sync --quiet --python .venv/bin/python --require-hashes --compile-bytecode requirements.lock
	@$(UV) pip install --quiet --python .venv/bin/python --no-deps --no-build-isolation --editable .
	@.venv/bin/python -m compileall -q -j 2 services shared deploy
	@.venv/bin/python -m services.matching.engine --compile
	@touch $@

# Servers that only tests start, as processes of their own, and their tools' own environment.
.cluster/.installed: $(wildcard $(SERVERS)/*.lock) $(SERVERS)/fetch_kafka.py | .tools/bin/uv
	@test -x .cluster/tools/bin/python || $(UV) venv --quiet --python $(PYTHON) .cluster/tools
	@$(UV) pip sync --quiet --python .cluster/tools/bin/python --require-hashes $(SERVERS)/requirements.lock
	@.cluster/tools/bin/python $(SERVERS)/fetch_kafka.py $(SERVERS)/kafka.lock .cluster
	@touch $@

# What others are measured beside, each in an environment of its own; one that does not install
# is left out, and the benchmark says so.
.cluster/peers/.installed: $(wildcard $(PEERS)/*.lock) | .tools/bin/uv
	@mkdir -p .cluster/peers
	@for lock in $(PEERS)/*.lock; do \
	  peer=.cluster/peers/$$(basename $$lock .lock); \
	  test -x $$peer/bin/python || $(UV) venv --quiet --python $(PYTHON) $$peer; \
	  $(UV) pip sync --quiet --python $$peer/bin/python --require-hashes $$lock || rm -rf $$peer; \
	done
	@touch $@

setup: .venv/.installed  ## install everything, pinned by requirements.lock, into .venv

lock: .cluster/.installed  ## solve the dependencies anew and write the locks
	$(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	  --no-header --no-annotate --group dev pyproject.toml build-requirements.in --output-file requirements.lock
	$(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	  --no-header --no-annotate $(SERVERS)/requirements.in --output-file $(SERVERS)/requirements.lock
	for peer in $(PEERS)/*.in; do \
	  $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	    --no-header --no-annotate $$peer --output-file $${peer%.in}.lock; \
	done
	.cluster/tools/bin/python $(SERVERS)/fetch_kafka.py $(SERVERS)/kafka.lock .cluster --write

format: setup  ## rewrite the code in the house format
	@$(RUN)ruff format .
	@$(RUN)ruff check --fix .

lint: setup  ## ruff, import contracts, the published contract
	@$(RUN)ruff format --check .
	@$(RUN)ruff check .
	@$(RUN)lint-imports
	@$(RUN)upward contracts check

type: setup  ## mypy, strict, tests included
	@$(RUN)mypy

test: setup  ## every test that needs neither Java nor MongoDB
	@$(RUN)pytest -n 3 --dist worksteal -m "not cluster and not long" $(COVERAGE) $(PYTEST_ARGS)

coverage: COVERAGE = --cov --cov-report=term:skip-covered --cov-fail-under=90
coverage: test  ## `make test`, and whether it ran 90 % of services and shared: takes longer

java:
	@$(SERVERS)/require-java

test-cluster: java setup .cluster/.installed  ## the tests on a real Kafka broker and a MongoDB-compatible server; takes Java 17
	@# Faults in one process, all else in another: both wait most of the time.
	@$(RUN)pytest -n 2 --dist loadgroup -m "cluster and not long" --cov --cov-config=tests/cluster-coverage.toml --cov-report=term:skip-covered --cov-fail-under=90 $(PYTEST_ARGS)

faults: java setup .cluster/.installed  ## kill -9 at every failpoint; the fault table on real servers with SEEDS=5 seeds
	@$(RUN)pytest -n 2 --dist loadgroup -m "long and not cluster" tests/faults $(PYTEST_ARGS)
	@SEEDS=$(SEEDS) $(RUN)pytest -m cluster tests/faults $(PYTEST_ARGS)

bench: java setup .cluster/.installed .cluster/peers/.installed  ## pipeline and matching beside references and peers; ARGS=--soak for a million events
	@$(RUN)upward bench pipeline $(ARGS)
	@$(RUN)upward bench matching

fuzz: setup  ## schemathesis with many examples on every route; companies of 20,000 checked in plain Python
	@$(RUN)pytest -n 2 -m "long and not cluster" tests/e2e tests/unit $(PYTEST_ARGS)

demo: setup  ## a year of a real organization in a minute; ARGS=--exit ends instead of serving
	@$(RUN)upward demo $(ARGS)

up: setup  ## all five services on one port
	@$(RUN)upward up $(ARGS)

clean:  ## remove what the other targets installed and built
	rm -rf .tools .venv .cluster .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
