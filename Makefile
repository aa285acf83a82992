# Every recipe of the project. `make` alone lists them. They need GNU make, Python 3.11+, stable Rust and a C linker.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory --no-builtin-rules

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
EXTENSION := python/sagacore/_core.abi3.so
RUST_FOLDERS := .cargo broker rust/core rust/disk rust/python rust/sim
RUST_SOURCES := Cargo.toml Cargo.lock $(shell find $(RUST_FOLDERS) -name '*.rs' -o -name '*.toml')

# What a user's shell may set must not change what is built here.
export VIRTUAL_ENV := $(CURDIR)/$(VENV)
export PYO3_PYTHON := $(CURDIR)/$(BIN)/python
export PIP_DISABLE_PIP_VERSION_CHECK := 1
unexport PYTHONPATH PYTHONHOME CONDA_PREFIX

# Where `make` looks for Python: what is linted and typed, and what is formatted.
PYTHON_FOLDERS := python tests $(wildcard bench)

.PHONY: help
help: ## List the recipes
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

.PHONY: setup
setup: $(EXTENSION) ## Make .venv with the locked dependencies and build the extension; does nothing a second time

$(BIN)/python:
	@.ci/check-tools $(PYTHON)
	$(PYTHON) -m $$($(PYTHON) -c 'import ensurepip' 2>/dev/null && echo venv || echo virtualenv) $(VENV)

$(VENV)/.locked: requirements/dev.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --require-hashes --requirement $<
	@touch $@

# The package is installed as a link to python/, so only Rust and the package's metadata make a rebuild needed.
# Nothing is looked up: all that it depends on was installed above, each with its hash.
$(EXTENSION): $(VENV)/.locked pyproject.toml $(RUST_SOURCES)
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pip install --quiet \
		--no-index --no-deps --no-build-isolation --editable .
	@touch $@

.PHONY: demo
demo: setup ## Place orders through a broker, a coordinator and four services, and check the books
	$(BIN)/sagacore demo

.PHONY: test
test: test-rust test-python ## Run all tests, Rust and Python

.PHONY: test-rust
test-rust: setup
	cargo test --workspace --locked --quiet

.PHONY: test-python
test-python: setup
	$(BIN)/python -m pytest

# The next `make setup` puts the release build back: the extension is left older than its sources.
.PHONY: test-debug
test-debug: setup ## Run the Python tests on an extension with debug assertions and overflow checks
	$(BIN)/maturin develop --skip-install --quiet
	@touch -d @0 $(EXTENSION)
	$(BIN)/python -m pytest

.PHONY: lint
lint: setup ## Check style, types, the extension's stub, and Rust's lints
	$(BIN)/ruff check $(PYTHON_FOLDERS)
	$(BIN)/ruff format --check $(PYTHON_FOLDERS)
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest sagacore._core --mypy-config-file pyproject.toml
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked --quiet -- --deny warnings

.PHONY: format
format: setup ## Format all code, and repair what the linters can
	$(BIN)/ruff check --fix-only $(PYTHON_FOLDERS)
	$(BIN)/ruff format $(PYTHON_FOLDERS)
	cargo fmt --all

.PHONY: wheel
wheel: $(VENV)/.locked ## Build the wheel into dist/
	rm -rf dist
	$(BIN)/maturin build --release --strip --quiet --out dist
	@ls -l dist

.PHONY: bench
bench: setup $(VENV)/.plots ## Measure everything into bench/results and draw it; PARTS=growth
	$(BIN)/python -m bench all $(PARTS)
	$(BIN)/python -m bench.plots
	$(BIN)/python -m pytest tests/bench --benchmark-enable --benchmark-only

$(VENV)/.plots: requirements/plots.txt $(VENV)/.locked
	$(BIN)/python -m pip install --quiet --require-hashes --requirement $<
	@touch $@

.PHONY: gate
gate: setup ## Fail if throughput beside the bare pipeline, messages a saga or the coordinator's memory became worse
	$(BIN)/python -m bench gate

.PHONY: instructions
instructions: setup ## Fail if a hot path of the cores takes more instructions than it did; needs valgrind
	$(BIN)/python -m bench instructions

.PHONY: bench-cores
bench-cores: ## Time the hot paths of the cores, with Criterion
	cargo bench --locked --package sagacore-paths --features criterion --bench cores

.PHONY: model
model: ## Check the model of the protocol, and that it catches every broken rule; DEEP=1 adds the large configurations
	cargo run --release --locked --quiet --package sagacore-model -- $(if $(DEEP),--deep)

SECONDS ?= 60

.PHONY: fuzz
fuzz: ## Throw mutated bytes at each parser, at the broker and its log: SECONDS=60 SEED=1
	cargo run --profile fuzz --locked --package sagacore-fuzz -- --seconds $(SECONDS) $(if $(SEED),--seed $(SEED))

CHAOS_LIBRARY := target/release/libsagacore_chaos.so

.PHONY: chaos
chaos: setup ## Kill, pause, cut and fill the shop on real processes, and audit it: SECONDS=60 SEED=1
	cargo build --release --locked --quiet --package sagacore-chaos
	$(BIN)/sagacore chaos --seconds $(SECONDS) $(if $(SEED),--seed $(SEED)) --library $(CHAOS_LIBRARY)

SEEDS ?= 2000
JOBS ?= 2

.PHONY: simulate
simulate: setup ## Run the cores under seeded faults: SEEDS=2000 JOBS=2
	$(BIN)/sagacore simulate --seeds $(SEEDS) --jobs $(JOBS) --json

.PHONY: mutants
mutants: ## Break each rule on purpose: the simulator must notice every one
	cargo run --profile fuzz --locked --package sagacore-sim --features mutations --bin mutants

.PHONY: lock
lock: $(BIN)/python ## Refresh the locked versions: Python's with hashes (requirements/*.txt), and Cargo.lock
	$(BIN)/python -m venv $(VENV)/lock
	$(VENV)/lock/bin/python -m pip install --quiet --require-hashes --requirement requirements/lock.txt
	$(LOCK) pyproject.toml --output-file requirements/run.txt
	$(LOCK) pyproject.toml --group dev --constraints requirements/run.txt --output-file requirements/dev.txt
	$(LOCK) --group plots --constraints requirements/dev.txt --output-file requirements/plots.txt
	$(LOCK) --group lock --output-file requirements/lock.txt
	$(LOCK) bench/peers/requirements.in --output-file bench/peers/requirements.txt
	cargo update

# No header, index or link is written: the files hold names, versions and hashes, and any package index serves them.
LOCK := $(VENV)/lock/bin/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes \
	--no-header --no-annotate --no-emit-index-url --no-emit-find-links

.PHONY: clean
clean: ## Remove everything that was built
	rm -rf $(VENV) target dist $(EXTENSION) .mypy_cache .pytest_cache .ruff_cache .hypothesis .benchmarks
	find python tests bench -name __pycache__ -type d -prune -exec rm -rf {} +
