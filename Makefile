# `make demo`, `make test` and `make check` each set up .venv when it is missing or older than its two recipes.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

export OMP_NUM_THREADS ?= 2

.PHONY: demo test test-slow check tables

# `make tables` takes hours and can be stopped and started again; `make tables QUICK=1` shows in minutes that all parts run.
# `make tables WORKERS=8` trains and draws in so many processes.
WORKERS ?= 1
TABLES := --workers $(WORKERS) $(if $(QUICK),--quick --results runs/tables-quick/results.md,--results docs/results.md)

demo: $(STAMP)
	$(BIN)/dsd demo --out runs/demo

tables: $(STAMP)
	$(BIN)/dsd evaluate all $(TABLES)

# Files of tests are shared out to two processes of a thread each.
test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow"

# Some minutes more: what starts, kills and starts again many processes, each with a quicker test in `make test`.
test-slow: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m slow

check: $(STAMP)
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/basedpyright
	$(BIN)/lint-imports

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@
