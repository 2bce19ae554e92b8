# Every target sets up what it needs: a Python 3.11+ and make are enough.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
DOCS   := .venv-docs
CODE   := ledgerq db jobs worker migrations tests examples bench
# more than there are processors: the tests wait for servers, processes and leases
TEST_PROCESSES ?= 4
# an image that forbids compiled files would have each process compile the library anew
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo dev test check check-style check-types check-layers check-migrations docs docs-screens bench bench-before bench-growth bench-private bench-database chaos chaos-exhaustive arq-suite format lock clean

demo: $(READY)  ## a thousand real jobs through a real Redis into a real PostgreSQL
	$(BIN)/python -m worker.demo --jobs 1000

dev: $(READY)  ## keep PostgreSQL, Redis and a worker running in .ledgerq/
	$(BIN)/ledgerq dev

test: $(READY)  ## the whole test suite, on servers of its own, in TEST_PROCESSES processes
	$(BIN)/python -m pytest --numprocesses $(TEST_PROCESSES) --dist worksteal

check: check-types check-style check-layers check-migrations  ## the definition of clean; `make -j2` does two at once

check-types: $(READY)
	$(BIN)/mypy
	cd examples/shop && $(CURDIR)/$(BIN)/mypy --cache-dir $(CURDIR)/.mypy_cache/shop

check-style: $(READY)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/ruff check $(CODE)
	$(BIN)/basedpyright

check-layers: $(READY)
	$(BIN)/lint-imports

check-migrations: $(READY)
	rm -f $(VENV)/check.sqlite3 && export DATABASE_URL=sqlite:///$(VENV)/check.sqlite3 \
		&& $(BIN)/alembic upgrade head && $(BIN)/alembic check

docs: $(READY) $(DOCS)/.ready  ## the pages of docs/ into site/; a broken link or reference fails it
	$(BIN)/typer ledgerq.cli.main utils docs --name ledgerq --output docs/reference/cli.md
	$(DOCS)/bin/zensical build --clean --strict

docs-screens: $(READY)  ## the terminal's screens in docs/screens/, from a run of the tutorial
	$(BIN)/python -m tests.screens

bench: $(READY)  ## beside arq, SAQ, Celery and others, in one run; QUICK=1 takes four minutes
	$(BIN)/python -m bench

bench-before: $(READY)  ## beside an earlier checkout that has its own .venv: BEFORE=../before
	$(BIN)/python -m bench.before $(BEFORE)

bench-growth: $(READY)  ## what a job costs when tables, payloads, entries, workers, queues get large
	$(BIN)/python -m bench.growth

bench-private: $(READY)  ## what it gains to use private parts of redis-py
	$(BIN)/python -m bench.private

bench-database: $(READY)  ## the database layer beside the naive way
	$(BIN)/python -m bench.database

chaos: $(READY)  ## break everything for about ten minutes (CHAOS_MINUTES) and count what was lost
	$(BIN)/python -m tests.chaos

chaos-exhaustive: $(READY)  ## a kill at every send (with strace), a cancellation at every await; bugs put in must be caught
	$(BIN)/python -m tests.chaos --exhaustive
	$(BIN)/python -m tests.chaos --self-test

arq-suite: $(READY)  ## arq's own tests on our worker; downloads arq's source
	$(BIN)/python -m tests.arq_suite

format: $(READY)
	$(BIN)/ruff format $(CODE)
	$(BIN)/ruff check --fix $(CODE)

lock: $(READY)  ## resolve pyproject.toml again, for every platform and Python >= 3.11
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
		--no-annotate --group pyproject.toml:taskmanager pyproject.toml -o requirements/runtime.txt
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
		--no-annotate --constraint requirements/runtime.txt \
		--all-extras pyproject.toml -o requirements/dev.txt
	echo hatchling | $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
		--no-header --no-annotate \
		--constraint requirements/dev.txt - -o requirements/build.txt
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
		--no-annotate --group pyproject.toml:docs -o requirements/docs.txt

$(READY): requirements/dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "ledgerq needs Python 3.11 or newer; name one with: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

$(DOCS)/.ready: requirements/docs.txt
	$(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/docs.txt
	@touch $@

clean:
	rm -rf $(VENV) $(DOCS) site .ledgerq .bench
