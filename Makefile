# make demo   the main job in an environment of its own: fine-tunes the embedded model, ends in pictures and a curve
# make test   sets up an environment and runs the tests
# make check  exactly what CI runs: linters, types, layer contracts, tests
PYTHON ?= python3
VENV ?= .venv

.PHONY: demo test lint check

demo: $(VENV)/installed
	$(VENV)/bin/ddpo train

test: $(VENV)/installed-dev
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest --numprocesses 3 --dist worksteal

lint: $(VENV)/installed-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

check: lint test

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --constraint constraints.txt --editable .
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(VENV)/bin/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@
