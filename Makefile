# Every command of the project. `make` alone lists them; each makes .venv first if it is not there or is out of date.

# What a user's own shell may hold and what would lead the commands below astray.
unexport PYTHONPATH PYTHONHOME PYTHONOPTIMIZE PYTHONWARNINGS PYTEST_ADDOPTS VIRTUAL_ENV
unexport PIP_USER PIP_TARGET PIP_PREFIX PIP_ROOT PIP_PYTHON PIP_NO_DEPS PIP_DRY_RUN PIP_CONSTRAINT PIP_REQUIREMENT

SHELL = /bin/sh
RUN = .venv/bin/python -m
# One thread a process: two threads that share a loaded core are 10 to 30 times slower.
PYTEST = OMP_NUM_THREADS=1 $(RUN) pytest -n 2

.NOTPARALLEL:
.PHONY: help demo test test-gpu check lint slow evidence mutants bench weights index docs fix

help:  ## list the commands
	@grep -E '^[a-z-]+:.*##' $(firstword $(MAKEFILE_LIST)) | sed 's/:.*##/ \t/' | expand -t 12

demo: .venv/ready  ## train LeNet on real handwritten digits, in less than a minute
	@.venv/bin/zoo fit -c cnn/lenet_digits

test: .venv/ready  ## the fast tests
	@$(PYTEST)

test-gpu: .venv/ready  ## the fast tests where there is a GPU: models, fits and commands on it
	@ZOO_TEST_DEVICE=cuda $(PYTEST)

check: lint test slow  ## everything a change must pass

lint: .venv/ready  ## format, lint and types, without changing a file
	@$(RUN) ruff format --check . && $(RUN) ruff check . && $(RUN) mypy

slow: .venv/ready  ## the slow tests: real processes, kills, the wheel, every recipe's `expect` line
	@$(PYTEST) -m slow

evidence: .venv/ready  ## every recipe on three seeds (the numbers in the headers) and resumed; the long kill test
	@$(PYTEST) -m evidence

mutants: .venv/ready  ## plant known bugs, see which the fast tests catch; writes docs/reliability.md
	@.venv/bin/python tests/mutants

bench: .venv/ready  ## all benchmarks; writes benchmarks/RESULTS.md
	@$(RUN) benchmarks

weights: .venv/ready  ## train the bundled weights anew, some minutes
	@$(RUN) recipes.cli.bundle

index: .venv/ready  ## the list of `zoo models`, after a model was added or changed
	@$(RUN) recipes.cli.index

docs: .venv/ready  ## the API pages, in docs/api
	@.venv/bin/python docs/build.py

fix: .venv/ready  ## format and mend what ruff can mend
	@$(RUN) ruff format . && $(RUN) ruff check --fix .

# The environment. A command that lacks is told once, all together, with the one line that installs it.
.venv/ready: pyproject.toml constraints.txt
	@python=; for p in python3 python3.13 python3.12 python3.11; do \
	    if $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then python=$$p; break; fi; done; \
	lacks=; command -v git >/dev/null 2>&1 || lacks=' git'; \
	if [ -z "$$python" ]; then \
	    if command -v python3 >/dev/null 2>&1; then lacks="$$lacks python3.11 python3.11-venv"; \
	    else lacks="$$lacks python3 python3-venv"; fi; \
	elif ! $$python -c 'import ensurepip, venv' >/dev/null 2>&1; then \
	    lacks="$$lacks $$($$python -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')"; fi; \
	if [ -n "$$lacks" ]; then \
	    as=; [ "$$(id -u)" = 0 ] || as='sudo '; \
	    echo "make needs git and Python 3.11 or newer with venv; this installs what lacks:" \
	        "$${as}apt-get update && $${as}apt-get install -y$$lacks" >&2; exit 1; fi; \
	if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then \
	    $$python -m venv --clear .venv || { echo "Cannot make the environment .venv here: is the disk full, or this folder not writable?" >&2; exit 1; }; fi; \
	echo "Installing the packages into .venv (once; about 6 GB, a few minutes) ..."; \
	.venv/bin/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev]' \
	    || { echo "Cannot install the packages: the reason stands above (no network? disk full?). Run make again to go on." >&2; exit 1; }; \
	touch .venv/ready
