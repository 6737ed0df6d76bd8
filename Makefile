# make demo: set everything up and run the study on the embedded model.  make test: set everything up and pass the tests.
PYTHON ?= python3
VENV   ?= .venv
BIN     = $(VENV)/bin
STAMP   = $(VENV)/.installed

.PHONY: setup demo test lint types coverage docs

setup: $(STAMP)

# torch comes first: a CPU build of a few hundred MB, where a plain `torch` pulls gigabytes of CUDA libraries.
$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet torch==2.13.0
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@

demo: setup
	$(BIN)/python extract.py
	$(BIN)/python train.py

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/pyright

# A process a core, whole files to each: fixtures of a file are made once. One thread a process.
test: lint types
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile

coverage: setup
	$(BIN)/python -m pytest --cov=badhands --cov-report=term:skip-covered

# The pages of docs/ and the API as a site, in site/; a broken link or a docstring that lies ends it.
docs: setup
	$(BIN)/zensical build --strict --clean
