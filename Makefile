# The whole developer interface. `make demo` and `make test` need Python 3.11+, git and make; nothing else.
PYTHON ?= python3
SAMPLE ?= stamps
BIN := .venv/bin
# Folders with reference tensors and real data; tests that need them skip, and say so, where these are empty.
REFERENCE_DIR ?=
DATA_DIR ?=
PYTEST_ARGS ?=
# Files of tests that run at once. Each takes a core and up to 6 GiB.
JOBS ?= 2

.PHONY: setup demo test peers stores check format clean
setup: .venv/.installed
	@:

.venv/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "unibrivl needs Python 3.11 or newer, this is " + sys.version.split()[0] + "; name one with: make PYTHON=python3.11")'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt uv
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable '.[cpu,dev]'
	@touch $@

demo:
	@started=$$(date +%s); $(MAKE) --no-print-directory setup && \
	  $(BIN)/unibrivl bench demo --sample $(SAMPLE) --out demo --started $$started

test: setup
	@tests/install-chromium
	@$(BIN)/python -m pytest --numprocesses=$(JOBS) --dist=loadfile $(if $(REFERENCE_DIR),--reference-dir=$(REFERENCE_DIR)) $(if $(DATA_DIR),--data-dir=$(DATA_DIR)) $(PYTEST_ARGS)

# Others' programs in an environment of their own: they must read our shards, and the speed benches compare with them.
peers: setup .peers/.installed
	@PEERS_PYTHON=$(abspath .peers/bin/python) $(BIN)/python -m pytest -m peers $(PYTEST_ARGS)

.peers/.installed: bench/peers.txt
	@$(BIN)/uv venv --quiet --clear --python $(BIN)/python .peers
	@$(BIN)/uv pip install --quiet --python .peers/bin/python --requirement bench/peers.txt
	@touch $@

# Vector stores that `unibrivl bench speed index --peers-python .stores/bin/python` compares with.
stores: setup .stores/.installed
	@:

.stores/.installed: bench/stores.txt
	@$(BIN)/uv venv --quiet --clear --python $(BIN)/python .stores
	@$(BIN)/uv pip install --quiet --python .stores/bin/python --requirement bench/stores.txt
	@touch $@

check: setup
	@$(BIN)/ruff format --check . && $(BIN)/ruff check . && $(BIN)/pyright

format: setup
	@$(BIN)/ruff format . && $(BIN)/ruff check --fix .

clean:
	rm -rf demo build *.egg-info .peers .stores
