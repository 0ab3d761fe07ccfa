# Every target works on a fresh clone with Python 3.11-3.13, make and git alone, and is quick when nothing changed.
# The tests run in two processes, a file's tests in one of them: ARGS="-n 0" for one, which pdb needs.
# ARGS goes to the command: make demo ARGS="seed=1", make test ARGS="-k resume", make lock ARGS=--upgrade

.DEFAULT_GOAL := help
.PHONY: help setup demo ablation test test-full test-programs test-slurm docs lint format bolts peers lock clean
SHELL := /bin/bash

VENV := .venv
ABLATION := logs/ablation
ABLATION_TABLES := ablation_2a,ablation_2b,ablation_2c,ablation_2d
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile
# Compiling tens of thousands of files that are never imported would double the time of an installation; those that are
# imported are compiled at its end.
PIP := $(BIN)/python -m pip install --disable-pip-version-check --no-compile $(if $(CI),--quiet)

help:  ## this list
	@echo "make TARGET [ARGS=...]"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(VENV)/installed  ## the environment in .venv, as requirements.lock has it (about 6 GB; PYTHON=... picks the interpreter)

demo: setup  ## train the non-local network on built-in clips, in minutes on a laptop
	@CHARADES_SHARDS= $(BIN)/python src/train.py experiment=charades_nl $(ARGS)

ablation: setup  ## the paper's Tables 2a-2d on built-in clips, three seeds: an hour at most on two cores; goes on where it stopped
	@$(BIN)/python src/sweep.py configs/sweeps/ablation.yaml n=2 out=$(ABLATION)/runs callbacks.progress=null $(ARGS)
	@$(BIN)/python src/report.py $(ABLATION)/runs table=$(ABLATION_TABLES) out=$(ABLATION)/report
	@$(BIN)/python benchmarks/range_picture.py $(ABLATION)/runs $(ABLATION)/report/distance.png
	@echo "the tables: $(ABLATION)/report (Markdown, CSV, HTML); accuracy against distance: distance.png there"

test: setup  ## the tests, less those that take minutes each
	@$(PYTEST) $(ARGS)

test-full: setup  ## all tests
	@$(PYTEST) -m "(full or not full) and not programs and not slurm" $(ARGS)

test-programs: setup  ## the tests that need nginx, the FFmpeg libraries or Chromium (Debian: nginx-light, ffmpeg, chromium; make peers)
	@$(BIN)/python -m pytest -m programs $(ARGS)

test-slurm: setup  ## a job of two nodes under a Slurm of its own (root; Debian: slurm-wlm, munge)
	@$(BIN)/python -m pytest -m slurm $(ARGS)

docs: setup  ## these pages and the reference as a site that needs no network, in build/docs
	@$(BIN)/python -m sphinx -W --keep-going -q -d build/doctrees -c docs . build/docs $(ARGS)
	@echo "the pages: build/docs/index.html"

lint: setup  ## formatting, lint, types, and notebooks without outputs; changes nothing
	@$(BIN)/ruff format --check
	@$(BIN)/ruff check
	@$(BIN)/mypy
	@git ls-files '*.ipynb' | xargs -r $(BIN)/nbstripout --verify

format: setup  ## what lint asks for, as far as a program can do it
	@$(BIN)/ruff check --fix --exit-zero
	@$(BIN)/ruff format
	@git ls-files '*.ipynb' | xargs -r $(BIN)/nbstripout

bolts: $(VENV)/bolts  ## lightning-bolts, for optim/schedule=bolts_warmup_cosine; optional

peers: $(VENV)/peers  ## mmaction2, mmcv, pytorchvideo and W&B's sweeps, which tests and benchmarks compare with; optional

lock: setup  ## compile requirements.lock from pyproject.toml
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --extra dev \
		pyproject.toml -o requirements.lock $(ARGS)

clean:  ## remove caches and build products; .venv, data and runs stay
	@rm -rf build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

# Candidates are run rather than looked up: some are shims that only fail. PYTHON, where given, is the only one.
$(VENV)/installed: requirements.lock pyproject.toml
	@fits='import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))'; \
	if ! $(BIN)/python -c "$$fits" 2> /dev/null; then \
		for python in $(or $(PYTHON),python3.13 python3.12 python3.11 python3 python); do \
			if $$python -c "$$fits" 2> /dev/null; then found=$$python; break; fi; \
		done; \
		if [ -z "$$found" ]; then \
			echo "make: no Python 3.11, 3.12 or 3.13 with its venv module among: $(or $(PYTHON),python3.13 python3.12 python3.11 python3 python)." \
				"Install one, or name it: make setup PYTHON=/path/to/python3.12" >&2; \
			exit 1; \
		fi; \
		echo "creating $(VENV) with $$($$found --version)"; \
		$$found -m venv --clear $(VENV); \
	fi
	@echo "installing requirements.lock into $(VENV): some minutes the first time, about 6 GB on Linux"
	@$(PIP) --require-hashes -r requirements.lock
	@$(PIP) --quiet --no-deps --no-build-isolation -e .
	@env -u PYTHONDONTWRITEBYTECODE $(BIN)/python scripts/compile_imports.py
	@touch $@

$(VENV)/bolts: $(VENV)/installed requirements-bolts.txt
	@$(PIP) --no-deps --require-hashes -r requirements-bolts.txt
	@touch $@

$(VENV)/peers: $(VENV)/installed requirements-peers.txt
	@$(PIP) --no-deps --require-hashes -r requirements-peers.txt
	@touch $@
