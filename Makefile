# Each target sets itself up: `make test` on a fresh machine with one of these Pythons is enough.
PYTHONS = python3.11 python3.12 python3.13 python3.14
PYTHON ?= $(shell for python in $(PYTHONS); do $$python -c "" 2>/dev/null && echo $$python && break; done)
# Version of transformers: 5, or 4.57 in an environment of its own
STACK  ?= 5
VENV   ?= .venv$(if $(filter 4.57,$(STACK)),-4.57)
PINS    = constraints-$(STACK).txt
BIN     = $(VENV)/bin
# One stamp per set of extras, renewed when the requirements change: those of users, and those of who changes the code.
PACKAGE = $(VENV)/.package
STAMP   = $(VENV)/.installed

.PHONY: help install demo test test-fast quality style bench docs docs-serve clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

# torch goes first and alone: the constraints say why; adapters goes last and without its own: CONTRIBUTING.md says why.
$(PACKAGE): setup.cfg pyproject.toml $(PINS)
	@$(or $(PYTHON),false) -c "" 2>/dev/null || { echo "$(or $(PYTHON),$(PYTHONS)): not found. Install Python 3.11 to 3.14, or name yours: make PYTHON=/path/to/python ..."; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint $(PINS) torch
	$(BIN)/pip install --quiet --constraint $(PINS) --editable ".[structures,h5,prot-t5]"
	$(BIN)/pip install --quiet --constraint $(PINS) --no-deps adapters
	touch $@

$(STAMP): $(PACKAGE)
	$(BIN)/pip install --quiet --constraint $(PINS) --editable ".[test,quality]"
	touch $@

install: $(PACKAGE)  ## install the package into .venv, for those who use it

demo: $(PACKAGE)  ## train on the bundled sample with the bundled backbone, offline, and print the scores
	HF_HUB_OFFLINE=1 $(BIN)/accelerate launch --config_file accelerate_configs/cpu.yaml recipes/train_q8.py \
	    --num_train_epochs 12 --lr_scheduler_type linear --output_dir runs/demo --overwrite_output_dir True

test: $(STAMP)  ## run all tests; those that need the real corpora run if LIFT_SS_DATA_DIR names them
	$(BIN)/python -m pytest -n auto --dist worksteal

test-fast: $(STAMP)  ## run the tests that start no process and finish quickly, for every save
	$(BIN)/python -m pytest -n auto --dist worksteal -m "not process and not slow"

quality: $(STAMP)  ## check lint, formatting, types and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

style: $(STAMP)  ## fix what the linter can fix
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP)  ## run the benchmarks that README's numbers come from
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/metric.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/training.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/prediction.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/accuracy.py

# The documentation's own packages, for those who build it.
$(VENV)/.docs: $(STAMP)
	$(BIN)/pip install --quiet --constraint $(PINS) --editable ".[docs]"
	touch $@

# The variable silences an advertisement of the theme's.
docs: $(VENV)/.docs  ## build the documentation into site/, strictly, and check it for dead links
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build
	$(BIN)/python docs/crawl.py site

docs-serve: $(VENV)/.docs  ## show the documentation at http://127.0.0.1:8000 while you write
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve

clean:  ## remove the virtual environment and the caches
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis build site *.egg-info
