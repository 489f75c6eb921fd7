# `make demo` and `make test` work on a fresh clone: each sets up .venv first.
PYTHON ?= python3
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)

# Two files of tests at a time: most of a test is starting processes and waiting for servers. Threads that wait for each other
# by spinning would take the other's processor.
PYTEST := OMP_WAIT_POLICY=passive pytest -q -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: setup demo test test-slow lint audit clean

setup: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

# One Prefect server for all stages; it stops with the command.
demo: setup
	python -m pipelines.server dvc repro
	mmlop report
	mmlop predict models:/mmlop-mini_digits@champion data/mini_digits/test/digit_seven/000.png --top 3
	@echo "Done. Next: source .venv/bin/activate; mmlop registry list; DO_NOT_TRACK=true mlflow ui --backend-store-uri sqlite:///mlflow.db"

test: setup lint
	$(PYTEST)

test-slow: setup
	$(PYTEST) -m slow

lint: setup
	ruff check .
	ruff format --check .
	mypy

# Known weaknesses of the pinned versions, as PyPI lists them; it needs the network, and says so where it has none.
audit: setup
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt pip-audit
	pip-audit --strict --no-deps --disable-pip --progress-spinner off -r constraints.txt

clean:
	rm -rf data splits runs .mmlop mlflow.db* mlartifacts reports/timings.* reports/report.html
