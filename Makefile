# The front door: `make` lists the commands. Everything is installed into .venv from the locks.
SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: help install analyse test lab export papers docs lock clean

PYTHON ?= $(shell .venv/bin/python -c 'print(".venv/bin/python")' 2>/dev/null || echo python3)
SCALE ?= cpu
export JAX_COMPILATION_CACHE_DIR ?= $(CURDIR)/.jax_cache
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS ?= 0
# NumPyro walks sets of names: only with one order of them does a program compiled once serve every process.
export PYTHONHASHSEED ?= 0

given = $(filter command line,$(origin $(1)))
INSTALL = tools/install.py $(if $(ACCELERATOR),--accelerator "$(ACCELERATOR)") $(if $(call given,PYTHON),--this-python)

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-9s %s\n", $$1, $$2 }' Makefile

install: ## the environment alone; ACCELERATOR=cuda12 or cuda13 for an NVIDIA GPU, PYTHON=python3.12 for another Python
	@command -v "$(PYTHON)" >/dev/null || { echo "install: there is no $(PYTHON) here; lensnb needs Python 3.11 to 3.13" >&2; exit 1; }
	@"$(PYTHON)" $(INSTALL)

# What `make analyse` hands on to the notebook; only when written on the command line, never from the environment.
PARAMETERS = CUTOUT NOISE_MAP PSF PSF_FWHM MASK PIXEL_SCALE BAND MODEL Z_L Z_S N_SAMPLES SEED OUT
GIVEN = $(foreach name,$(PARAMETERS),$(if $(call given,$(name)),$(name)))
export $(GIVEN)

analyse: install ## model a lens and write a report: the demo, or CUTOUT=my.fits with PSF= NOISE_MAP= PSF_FWHM= Z_L= ... OUT=
	@set --; for name in $(GIVEN); do \
	  eval "value=\$$$$name"; set -- "$$@" -p "$$(echo $$name | tr A-Z a-z)=$$value"; \
	done; exec .venv/bin/lensnb run nbs/papers/00_analyse.ipynb --scale "$(SCALE)" "$$@"

test: install ## the tests; SLOW=1 adds the few that take minutes, TESTS=tests/test_x.py picks some
	@.venv/bin/python -m pytest $(if $(SLOW),--slow) $(TESTS)

lab: install ## read and change the notebooks in JupyterLab
	@.venv/bin/jupyter lab --notebook-dir=nbs

export: install ## write lensnb/ and README.md from the notebooks
	@.venv/bin/nbdev_export
	@.venv/bin/python tools/readme.py

papers: install ## run every notebook in nbs/papers; SCALE=smoke (a minute each), cpu (the default) or gpu
	@.venv/bin/lensnb run nbs/papers/*.ipynb --scale "$(SCALE)"

docs: install ## build the documentation site
	@.venv/bin/python tools/docs.py

lock: ## resolve the requirements into the locks anew (needs uv)
	@"$(PYTHON)" tools/lock.py

clean: ## remove what builds and tests left behind; results in runs/ and .venv stay
	@rm -rf build dist _proc _docs *.egg-info .jax_cache .pytest_cache .ruff_cache .hypothesis
	@find lensnb nbs tests tools -name __pycache__ -type d -prune -exec rm -rf {} +
