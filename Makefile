# Each target makes the environment that it needs. `make` lists the targets.

PYTHON ?= python3
WORKDIR ?= workdirs/demo
# pytest's workers; every worker loads JAX, so more than 4 mostly cost memory.
JOBS ?= 4
# Further arguments of pytest or of the demo: make test ARGS='-k ste'.
ARGS ?=

EXTRAS := experiments,export,inference,onnx,test,dev,docs,notebooks
LIBRARY_TESTS := tests --ignore=tests/experiments \
  --ignore=tests/notebooks
PYTEST := -m pytest -n logical --maxprocesses=$(JOBS) --dist worksteal
PIP_INSTALL := -m pip install --quiet --disable-pip-version-check

.DELETE_ON_ERROR:
.PHONY: help demo test lint format docs dist test-newest constraints clean

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1	/p' Makefile | expand -t 14

demo: .venv/installed  ## train a sparse network on the embedded digits data
	.venv/bin/python -m experiments.main \
	  --config=experiments/configs/digits_mlp_scl.py --workdir=$(WORKDIR) $(ARGS)

test: .venv/installed  ## run all tests and doctests
	.venv/bin/python $(PYTEST) $(ARGS)

lint: .venv/installed  ## run ruff, pyright and import-linter
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/pyright --project pyproject.toml
	.venv/bin/lint-imports --no-logo

format: .venv/installed  ## format the code and apply ruff's fixes
	.venv/bin/ruff check --fix --exit-zero
	.venv/bin/ruff format

docs: .venv/installed  ## build the documentation into docs/_build/html
	.venv/bin/python -m sphinx -W --keep-going -E -q -b html docs docs/_build/html

dist:  ## build the wheel and the source archive, and try the wheel alone
	rm -rf .venv-dist build dist scl_jax.egg-info
	$(PYTHON) -m venv .venv-dist
	.venv-dist/bin/python $(PIP_INSTALL) build
	.venv-dist/bin/python -m build . > .venv-dist/build.log || { \
	  cat .venv-dist/build.log; exit 1; }
	.venv-dist/bin/python $(PIP_INSTALL) dist/*.whl
	cd .venv-dist && bin/python -I ../tests/installed.py ../dist

# A command on the PATH may be a shim that fails, so each candidate is run.
test-newest:  ## run the library's tests on the newest JAX (Python >= 3.12)
	@for python in python3.14 python3.13 python3.12 \
	    $$(ls -r "$${PYENV_ROOT:-$$HOME/.pyenv}"/versions/3.1[2-9]*/bin/python \
	       2>/dev/null) $(PYTHON); do \
	  if $$python -c 'import ensurepip, sys, venv; \
	      sys.exit(sys.version_info < (3, 12))' >/dev/null 2>&1; then \
	    exec $(MAKE) --no-print-directory .venv-newest/tested NEWEST=$$python; \
	  fi; \
	done; \
	echo 'test-newest: skipped, there is no Python >= 3.12 here.'

# Never up to date: the name stands for the run, no such file is written.
.PHONY: .venv-newest/tested
.venv-newest/tested: .venv-newest/installed
	@.venv-newest/bin/python -c 'import sys, jax, numpy, optax; print( \
	  "test-newest: Python", sys.version.split()[0], "jax", jax.__version__, \
	  "optax", optax.__version__, "numpy", numpy.__version__)'
	.venv-newest/bin/python $(PYTEST) $(LIBRARY_TESTS) $(ARGS)

.venv-newest/installed: pyproject.toml
	$(NEWEST) -m venv --clear .venv-newest
	.venv-newest/bin/python $(PIP_INSTALL) -e '.[export,test]' flax
	@touch $@

.venv/installed: pyproject.toml constraints.txt
	@.venv/bin/python -m pip --version >/dev/null 2>&1 || { \
	  $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo 'Python >= 3.11 is needed, and $(PYTHON) is not that.' \
	      'Name one: make PYTHON=python3.12 $(MAKECMDGOALS)' >&2; \
	    exit 1; \
	  }; \
	  echo 'Making .venv and installing into it: a minute or two.'; \
	  $(PYTHON) -m venv --clear .venv; \
	}
	.venv/bin/python $(PIP_INSTALL) -c constraints.txt -e '.[$(EXTRAS)]'
	@touch $@

constraints:  ## pin the newest versions in constraints.txt (Python 3.11)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { \
	  echo 'The pins are made with Python 3.11, and $(PYTHON) is not that.' \
	    'Name one: make constraints PYTHON=python3.11' >&2; \
	  exit 1; \
	}
	$(PYTHON) -m venv --clear .venv-constraints
	.venv-constraints/bin/python $(PIP_INSTALL) -e '.[$(EXTRAS)]'
	sed -n '/^#/p' constraints.txt > .venv-constraints/pins
	.venv-constraints/bin/python -m pip freeze --exclude-editable \
	  | grep -E '^[A-Za-z0-9._-]+==[^ ]+$$' >> .venv-constraints/pins
	mv .venv-constraints/pins constraints.txt
	rm -rf .venv-constraints

clean:  ## remove environments and caches
	rm -rf .venv .venv-newest .venv-constraints .venv-dist *.egg-info build dist \
	  docs/_build docs/notebooks .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -prune -exec rm -rf {} +
