# Every target sets up .venv first, where it is missing or no longer what pyproject.toml and constraints.txt say.
# ARGS is passed on: make train ARGS="model=npr seed=2", make test ARGS="tests/images --no-cov".
PYTHON ?= python3
ARGS ?=
PORT ?= 5000
bin := .venv/bin
outputs := $(or $(TAPETUM_OUTPUTS),outputs)

.DEFAULT_GOAL := help
.PHONY: help setup train test dev lint format bench mlflow clean

help:  ## list what can be made
	@awk -F ':.*## *' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile

setup:
	@PYTHON="$(PYTHON)" sh scripts/setup.sh

train: setup  ## train the default detector on its embedded data; ARGS="model=... data=..."
	$(bin)/python train.py $(ARGS)

test: setup  ## run the tests, with coverage
	$(bin)/python -m pytest -n 2 --dist loadfile --cov=tapetum --cov-fail-under=85 $(ARGS)

dev: setup  ## prepare for development: pre-commit hooks
	$(bin)/pre-commit install
	@echo "Now type: . $(bin)/activate"

lint: setup  ## check style, types and gravity
	$(bin)/ruff check .
	$(bin)/ruff format --check .
	$(bin)/mypy src
	$(bin)/lint-imports --no-logo

format: setup  ## bring the code into shape
	$(bin)/ruff check --fix-only .
	$(bin)/ruff format .

bench: setup  ## run every benchmark; fails if one missed its figure
	@failed=; for file in $(wildcard benchmarks/[!_]*.py); do \
	    echo "== $$file"; $(bin)/python $$file $(ARGS) || failed="$$failed $$file"; \
	done; [ -z "$$failed" ] || { echo "failed:$$failed"; exit 1; }

mlflow: setup  ## open MLflow's page of the runs with logger=mlflow: http://127.0.0.1:5000
	@test -f "$(outputs)/mlflow.db" || { \
	    echo "Nothing is logged to MLflow in $(outputs) yet: type make train ARGS=\"logger=mlflow\" first"; exit 1; }
	@echo "MLflow: http://127.0.0.1:$(PORT) (Ctrl-C ends it)"
	@MLFLOW_DISABLE_TELEMETRY=true $(bin)/mlflow ui --host 127.0.0.1 --port $(PORT) --workers 1 \
	    --backend-store-uri "sqlite:///$(outputs)/mlflow.db" \
	    --default-artifact-root "$(abspath $(outputs))/mlflow-artifacts" $(ARGS)

clean:  ## remove caches and build products; .venv and outputs stay
	rm -rf build dist *.egg-info .coverage .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
