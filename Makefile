# `make` lists the verbs. Each makes the virtual environment first where it is missing or older
# than what it is made from. Further options of a program go into ARGS="...".
VENV ?= .venv
PYTHON ?=
EXTRAS ?= dev
EXP ?= quickstart
RUN ?= runs/$(basename $(notdir $(EXP)))
SET ?= chebi20
NAME ?= smoke
LIB ?=
Q ?=
OUT ?= index
ARGS ?=
JOBS ?= 2
MARKED ?= not slow and not costly

# Programs compiled ahead of time have an environment of their own, unless VENV says which.
AOT_VENV := $(if $(filter file,$(origin VENV)),.venv-aot,$(VENV))
AOT_EXTRAS := $(if $(filter file,$(origin EXTRAS)),aot,$(EXTRAS))

# Search and serve use the shipped weights unless RUN (or EXP) says which run.
FROM := $(if $(filter-out file,$(origin RUN) $(origin EXP)),--run $(RUN))

PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed-$(EXTRAS)
export PYTHON LIB Q OUT # to the shell as they are, whatever marks are in them

.DEFAULT_GOAL := help
.PHONY: help setup train eval table search index serve data aot aot-check test lint types format check check-all

help: ## list these verbs
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' Makefile

setup: $(STAMP) ## make the virtual environment (PYTHON=python3.12, EXTRAS=dev,cuda)

$(STAMP): pyproject.toml tools/make_venv.sh tools/minilm.txt
	@sh tools/make_venv.sh "$(VENV)" "$(EXTRAS)"

# The programs run without a shell in between, so that a signal reaches them.
train: $(STAMP) ## train an experiment, then evaluate it (EXP=quickstart, ARGS="--train.epochs 2")
	$(PY) -m tmr_jax.train --exp $(EXP) --run $(RUN) $(ARGS)
	$(PY) -m tmr_jax.eval --run $(RUN)

eval: $(STAMP) ## rank the pools of a run again (RUN=runs/quickstart, ARGS="--protocol chebi/test")
	$(PY) -m tmr_jax.eval --run $(RUN) $(ARGS)

table: $(STAMP) ## run what a table of results lacks, then print it (NAME=smoke)
	$(PY) -m tmr_jax.table --name $(NAME) $(ARGS)

# The query goes first: an option such as --where takes all words that follow it.
search: $(STAMP) ## find molecules of a file (LIB=library.smi Q="an aromatic amine")
	@$(PY) -m tmr_jax.search $${Q:+"$$Q"} $(FROM) $${LIB:+--library "$$LIB"} $(ARGS)

index: $(STAMP) ## build an index of a file (LIB=library.smi OUT=index)
	@$(PY) -m tmr_jax.index $(FROM) --library "$$LIB" --out "$$OUT" $(ARGS)

serve: $(STAMP) ## a page and an API over a library (LIB=library.smi)
	@$(PY) -m tmr_jax.serve $(FROM) --library "$$LIB" $(ARGS)

data: $(STAMP) ## fetch a public data set and verify it (SET=chebi20)
	$(PY) -m tmr_jax.data $(SET) $(ARGS)

aot: ## what XLA makes of the programs on a TPU that is not there (ARGS="--targets v5e")
	@$(MAKE) --no-print-directory setup VENV=$(AOT_VENV) EXTRAS=$(AOT_EXTRAS)
	@$(AOT_VENV)/bin/python -m tools.aot $(ARGS)

aot-check: ## hold three small programs to their budgets on v5e, v6e and v4
	@$(MAKE) --no-print-directory aot VENV=$(AOT_VENV) EXTRAS=$(AOT_EXTRAS) ARGS="--check $(ARGS)"

test: $(STAMP) ## run the quick tests (ARGS="tests/models -x"), or others (MARKED=slow)
	$(PY) -m pytest -q -n $(JOBS) --dist loadfile --no-loadscope-reorder -m "$(MARKED)" $(ARGS)

lint: $(STAMP) ## check style and formatting
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

types: $(STAMP) ## check the types of tmr_jax
	$(PY) -m pyright --pythonpath $(PY)

format: $(STAMP) ## rewrite style and formatting in place
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

check: MARKED = not slow
check: lint types test ## what a change must pass: lint, types, tests with train, eval and search

check-all: ## the same, with the slow tests: long programs as a whole
	@$(MAKE) --no-print-directory check MARKED=
