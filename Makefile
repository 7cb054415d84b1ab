# Two commands: `make demo` (or `make run`) and `make test`. Both set everything up by themselves.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
LATENCY := tests/live/test_isolation.py tests/live/test_rolling.py
FILES   := -n 3 --dist loadfile --no-loadscope-reorder

help: ## show the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

# The stamp is newer than the lock files exactly when the environment holds what they name.
$(VENV)/.ready: requirements.lock requirements-dev.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "recio-ingest needs Python 3.11 or newer; say which with: make PYTHON=/path/to/python3.11 ..."; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || \
	  { echo "this Python cannot make a virtual environment: apt-get install python3-venv"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes --only-binary :all: -r requirements-dev.lock
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

setup: $(VENV)/.ready ## make the virtual environment from the locked, hashed packages

demo: setup ## run against simulated venues on loopback, with an embedded PostgreSQL
	$(BIN)/recio-ingest --demo

run: setup ## run against the live venues (configuration: RECIO_CONFIG, or the defaults)
	$(BIN)/recio-ingest

# A database of its own for each test is 600 files: 0.25 s on a disk, 0.03 s in memory. What is killed, and what measures, is on
# disk wherever it runs; so is everything where memory is short.
MEMORY  := $(shell df --output=avail -BM /dev/shm 2>/dev/null | awk 'NR == 2 && $$1 + 0 > 8000 { print "/dev/shm" }')

# Three files at once, those first that take minutes: counted faults and live runs wait more than they work. What measures
# latency has the machine to itself.
test: setup lint types ## every check and every test
	@failed=0; \
	RECIO_SHARED_POSTGRES=$(MEMORY) $(BIN)/python -m pytest $(FILES) tests/faults tests/live tests $(addprefix --ignore=,$(LATENCY)) || failed=1; \
	$(BIN)/python -m pytest $(LATENCY) || failed=1; \
	exit $$failed

bench: setup ## the benchmarks: ratios, on this machine, in this run
	PYTHONPATH=tests $(BIN)/python -m benchmarks

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

fmt: setup ## format the code
	$(BIN)/ruff check --fix-only -q .
	$(BIN)/ruff format -q .

lock: setup ## resolve the dependencies again and write the hashes
	$(BIN)/python -m pip install -q uv
	$(BIN)/uv pip compile -q --universal --generate-hashes --no-header --no-emit-index-url --no-annotate --extra embedded -o requirements.lock pyproject.toml
	$(BIN)/uv pip compile -q --universal --generate-hashes --no-header --no-emit-index-url --no-annotate --extra embedded --extra archive -o requirements-archive.lock pyproject.toml
	$(BIN)/uv pip compile -q --universal --generate-hashes --no-header --no-emit-index-url --no-annotate --extra dev -o requirements-dev.lock pyproject.toml

clean: ## remove what the targets made (never your data)
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache

.PHONY: help setup demo run test bench lint types fmt lock clean
