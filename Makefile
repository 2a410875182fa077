# Everything that CI does is a verb here. `make` alone lists them.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c

VENV := .venv
BIN := $(VENV)/bin
LOCKS := deploy/locks
TOOLS := .cache/tools
STAMP := $(VENV)/.installed-$(shell cat requirements.lock pyproject.toml | cksum | cut -d' ' -f1)
GEN_STAMP := .venv-gen/.installed-$(shell cksum < $(LOCKS)/gen.lock | cut -d' ' -f1)
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null && { echo $$p; break; }; done)
TEST_WORKERS ?= 3

STORE ?= local
DATA ?= digits
OUT ?= out/demo
DEVICE ?= cpu

.PHONY: help
help: ## List the verbs
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | awk -F'\t' '{printf "  make %-12s %s\n", $$1, $$2}'

# --- what a user runs -------------------------------------------------------------------------------------------------

.PHONY: setup
setup: $(STAMP) ## Create .venv with the pinned packages (about 6 GB the first time); reused while the lock is the same

$(STAMP): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11, 3.12 or 3.13 is needed; none of python3, python3.1x was found (set PYTHON=...)." >&2; exit 1; }
	@echo "==> setting up $(VENV) with $$($(PYTHON) --version); the first time this fetches about 3 GB of packages"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip >/dev/null  # the sync below removes pip
	@awk '/^uv==/{p=1} p{print} p && !/\\$$/{exit}' requirements.lock > $(VENV)/uv.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $(VENV)/uv.txt
	@$(BIN)/uv pip sync --python $(BIN)/python --require-hashes --compile-bytecode requirements.lock
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	@rm -f $(VENV)/.installed-* && touch $@
	@echo "==> $(VENV) is ready"

.PHONY: demo
demo: setup ## Run the main job end to end [STORE=local|s3] [DATA=digits|<omniglot folder>] [OUT=out/demo]
	@$(BIN)/python -m services.demo --store '$(STORE)' --data '$(DATA)' --out '$(OUT)'

.PHONY: test
test: setup ## Run the tests
	@OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -n $(TEST_WORKERS) --dist loadfile -m "not slow"

.PHONY: test-ray
test-ray: setup ## Run jobs on a real Ray cluster of two nodes on this machine (about 15 minutes, 2 GB)
	@OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest tests/integration/test_ray.py tests/integration/test_ray_failures.py

.PHONY: test-tools
test-tools: setup $(if $(LABEL_STUDIO_PYTHON),,$(TOOLS)/label-studio/.installed) $(if $(FIFTYONE_PYTHON),,$(TOOLS)/fiftyone/.installed)
test-tools: ## Review findings in a real Label Studio and FiftyOne (2 GB the first time) [LABEL_STUDIO_PYTHON=] [FIFTYONE_PYTHON=]
	@EIF_LABEL_STUDIO_PYTHON='$(or $(LABEL_STUDIO_PYTHON),$(TOOLS)/label-studio/bin/python)' \
		EIF_FIFTYONE_PYTHON='$(or $(FIFTYONE_PYTHON),$(TOOLS)/fiftyone/bin/python)' $(BIN)/python -m pytest tests/tools

# Each has an environment of its own; without it its test skips, and says so.
$(TOOLS)/%/.installed: tests/tools/%.txt | setup
	@mkdir -p $(@D); echo "==> $*, for its test only, into $(@D)"
	@$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(@D) \
		&& $(BIN)/uv pip install --quiet --python $(@D)/bin/python -r $< && touch $@ \
		|| { rm -rf $(@D); echo "==> $* could not be installed: going on without" >&2; }

SOAK_S ?= 120
SOAK_SEED ?= 0
.PHONY: robustness
robustness: setup ## Kill, pause and cut off real servers under traffic, and check the history [SOAK_S=120] [SOAK_SEED=0]
	@EIF_SOAK_S=$(SOAK_S) EIF_SOAK_SEED=$(SOAK_SEED) $(BIN)/python -m pytest tests/robustness

# --- what a developer runs --------------------------------------------------------------------------------------------

SEEDS ?= 3
PAIRS ?= 10
GROUPS ?= 5
NETWORK_PAIRS ?= 3
IMAGES ?=
BACKBONE ?= $(wildcard ../shared/models/mobilenet_v2_imagenet_fp16.safetensors)
PEERS := .cache/peers
PEERS_LIST := tests/benchmarks/paper/peers.txt
.PHONY: bench
bench: setup ## Measure speed and memory of the engine into docs/results (about 10 minutes; a quiet machine) [DEVICE=cpu|cuda]
	@$(BIN)/python -m tests.benchmarks.engine --device '$(DEVICE)' --out docs/results

.PHONY: bench-audit
bench-audit: DATA = ../shared/data
bench-audit: setup ## Measure audits, engine and over gRPC, into docs/results (about 40 minutes; a quiet machine) [DATA=<omniglot folder>]
	@OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m tests.benchmarks.audit_job --data '$(DATA)' --out docs/results
	@OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m tests.benchmarks.audit --shared '$(DATA)/..' --out docs/results
	@$(BIN)/python -m tests.benchmarks.report --out docs/results/report.json

.PHONY: load
load: setup ## Measure the influence service under load into docs/results (about 3 minutes; a quiet machine)
	@$(BIN)/python -m tests.benchmarks.load --out docs/results

.PHONY: paper
paper: DATA = ../shared/data
paper: setup $(PEERS)/.installed ## Measure what the paper measures, into docs/results [DATA=<omniglot folder>] [IMAGES=<a folder a class>] [SEEDS=3]
	@OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m tests.benchmarks.paper --data '$(DATA)' --seeds $(SEEDS) --pairs $(PAIRS) --groups $(GROUPS) \
		--network-pairs $(NETWORK_PAIRS) --peers $(PEERS)/bin/python \
		$(if $(IMAGES),--images '$(IMAGES)' --backbone '$(BACKBONE)')

# Peers have an environment of their own; without it the experiments run, and say that they are missing.
$(PEERS)/.installed: $(PEERS_LIST) | setup
	@mkdir -p $(dir $(PEERS)); echo "==> peers, for comparison only, into $(PEERS)"
	@$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(PEERS) \
		&& $(BIN)/uv pip install --quiet --python $(PEERS)/bin/python -r $(PEERS_LIST) && touch $@ \
		|| { rm -rf $(PEERS); echo "==> peers could not be installed: going on without" >&2; }

.PHONY: check
check: setup check-python check-proto check-deploy ## Format, lint, strict types, import contracts, proto, images

.PHONY: check-python
check-python: setup
	@echo "==> format, lint"; $(BIN)/ruff format --check . && $(BIN)/ruff check .
	@echo "==> types"; $(BIN)/mypy
	@echo "==> import contracts"; $(BIN)/lint-imports

.PHONY: check-proto
check-proto: setup $(GEN_STAMP)
	@echo "==> proto"; cd proto && ../$(BIN)/buf lint && ../$(BIN)/buf format -d --exit-code
	@echo "==> generated code is fresh"; rm -rf out/gen && mkdir -p out/gen
	@$(call generate,out/gen) && diff -r proto/gen/eif out/gen/eif --exclude=__pycache__ || { echo "proto/gen is stale: run 'make gen' and commit it" >&2; exit 1; }

.PHONY: check-deploy
check-deploy: setup
	@echo "==> images"; $(BIN)/hadolint Dockerfile
	@$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec docker-compose.yml

.PHONY: format
format: setup ## Format the code
	@$(BIN)/ruff format . && $(BIN)/ruff check --fix . && cd proto && ../$(BIN)/buf format -w

.PHONY: gen
gen: $(GEN_STAMP) ## Generate proto/gen from proto/
	@rm -rf proto/gen/eif && $(call generate,proto/gen)

# Generated with protobuf 6 tools: the code then loads on protobuf 6 and 7 (docs/decisions/dependencies.md).
define generate
.venv-gen/bin/python -m grpc_tools.protoc -I proto --python_out=$(1) --grpc_python_out=$(1) \
	--mypy_out=quiet:$(1) --mypy_grpc_out=quiet:$(1) \
	--plugin=protoc-gen-mypy=.venv-gen/bin/protoc-gen-mypy --plugin=protoc-gen-mypy_grpc=.venv-gen/bin/protoc-gen-mypy_grpc \
	$$(cd proto && find eif -name '*.proto' | sort)
endef

$(GEN_STAMP): $(LOCKS)/gen.lock | setup
	@test -x .venv-gen/bin/python || $(PYTHON) -m venv .venv-gen
	@$(BIN)/uv pip sync --quiet --python .venv-gen/bin/python --require-hashes $(LOCKS)/gen.lock
	@rm -f .venv-gen/.installed-* && touch $@

COMPILE = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --no-emit-package eif-service
.PHONY: lock
lock: setup ## Resolve the dependencies again into requirements.lock and deploy/locks
	@$(COMPILE) pyproject.toml --all-extras -o requirements.lock
	@for image in influence:server worker:engine embedding:embedding; do \
		$(COMPILE) pyproject.toml --extra $${image#*:} --extra tracing --constraint requirements.lock -o $(LOCKS)/$${image%:*}.lock; done
	@$(COMPILE) $(LOCKS)/gen.in -o $(LOCKS)/gen.lock

.PHONY: clean
clean: ## Remove what the verbs made, but not .venv
	@rm -rf out .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
