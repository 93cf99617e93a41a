# Every target works on a bare machine with Python 3.11, 3.12 or 3.13: the first call makes .venv, later calls find it
# ready. PY=python3 uses that interpreter as it is and installs nothing.
#
#   make search [DEVICE=cpu|cuda] [OUT=runs/default] [ARGS="--trials 100 --seed 1"]

DEVICE ?= cpu
OUT ?= runs/default
ARGS ?=
TRITON := triton==3.9.0

ifdef PY
PYTHON := $(PY)
READY :=
NAS := $(PYTHON) -m nas
else
VENV := .venv
PYTHON := $(VENV)/bin/python
READY := $(VENV)/ready-$(shell cat pyproject.toml constraints.txt Makefile | cksum | cut -d ' ' -f 1)
NAS := $(VENV)/bin/nas
endif

.PHONY: help search train bench test lint clean
.DEFAULT_GOAL := help

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-7s %s\n", $$1, $$2}' Makefile

search: $(READY)  ## search the tiny space on the standard library's source, build and verify the front
	$(NAS) search --space tiny --corpus stdlib --device $(DEVICE) --out $(OUT) $(ARGS)

train: $(READY)  ## train the supernet of the tiny space from nothing
	$(NAS) train --space tiny --corpus stdlib --device $(DEVICE) --out $(OUT) $(ARGS)

bench: $(READY)  ## check, then time, the sparse kernels against the dense ones
	$(PYTHON) -m experiments.kernels --device $(DEVICE) $(ARGS)

test: $(READY)  ## run the tests, one thread in each of two processes
	OMP_NUM_THREADS=1 $(PYTHON) -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

lint: $(READY)  ## ruff (rules, format) and mypy (strict)
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy

clean:  ## remove .venv and caches; runs/ stays
	rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

ifndef PY
SUPPORTED := import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))

$(READY):
	@if ! $(PYTHON) -c '$(SUPPORTED)' >/dev/null 2>&1; then \
	  for python in python3 python3.13 python3.12 python3.11; do \
	    if $$python -c '$(SUPPORTED)' >/dev/null 2>&1; then found=$$python; break; fi; \
	  done; \
	  if [ -z "$$found" ]; then \
	    echo "expected Python 3.11, 3.12 or 3.13 with the module venv, got: $$(python3 -V 2>&1)." >&2; \
	    echo "Install one (Debian and Ubuntu: apt-get install python3 python3-venv), or pass PY=/path/to/python" >&2; \
	    echo "of an environment that has the packages of pyproject.toml." >&2; \
	    exit 1; \
	  fi; \
	  echo "making $(VENV) with $$found (once)"; \
	  $$found -m venv --clear $(VENV); \
	fi
	$(PYTHON) -m pip install -c constraints.txt -e ".[dev]"
	@$(PYTHON) -c 'import triton' 2>/dev/null || $(PYTHON) -m pip install --no-deps $(TRITON) \
	  || echo "no Triton for this system: the tests of its kernels will be skipped"
	@rm -f $(VENV)/ready-*
	@touch $@
endif
