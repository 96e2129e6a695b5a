# make figures: set up, compute the mini profile, draw its figures.
# make test: set up, run the fast tests.   make test-all: all of them.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check

.PHONY: setup figures test test-all lint lowest bench faults fuzz determinism lab site lock audit clean

setup: .venv/ready

# Exact files, by their hashes, and torch, of which each machine has its own build; then this project itself,
# without looking anything up.
.venv/ready: requirements.lock requirements-torch.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(PIP) install --no-compile --no-deps --require-hashes --requirement requirements.lock
	$(PIP) install --no-compile --requirement requirements-torch.lock
	$(PIP) install --no-deps --no-build-isolation --editable .
	$(PIP) check
	touch $@

PROFILE ?= mini

figures: setup
	$(BIN)/rds run --profile $(PROFILE)

test: setup
	$(BIN)/python -m pytest -m "not slow and not real"

test-all: setup
	$(BIN)/python -m pytest

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/deptry rdslib notebooks

# The fast tests with the lowest versions that pyproject.toml allows, in an environment of their own.
lowest:
	$(PYTHON) tests/lock.py lowest
	.venv-lowest/bin/python -m pytest -m "not slow and not real"

# Ratios of speed, as tables; nothing here can fail for being slow.
bench: setup
	for each in less encode reference scale train; do $(BIN)/python -m tests.bench.bench_$$each || exit 1; done

# Faults on purpose at every stage, which takes hours, and readers given a million nearly right inputs; tables.
faults: setup
	$(BIN)/python -m tests.faults

fuzz: setup
	$(BIN)/python -m tests.faults.fuzz

# The selections of mini, made again in other surroundings, which takes hours; a table of what changes.
determinism: setup
	$(BIN)/python -m tests.faults.determinism

lab: setup
	$(BIN)/jupyter lab --preferred-dir notebooks

# The site, in build/site: guides, API, and the notebooks of lab and paper, drawn from records and published numbers.
site: setup
	$(BIN)/rds run --profile lab --records figures/lab/records.parquet --out build/figures/lab
	$(BIN)/rds run --profile paper --out build/figures/paper
	for each in lab paper; do $(BIN)/rds report --profile $$each --figures build/figures/$$each || exit 1; done
	$(BIN)/python -m tests.docs.site

# Re-make the lock files and environment.yml from the newest versions that pyproject.toml allows.
lock:
	$(PYTHON) tests/lock.py

# What is in the lock files: as a list for machines (CycloneDX), and which of it has a known vulnerability.
audit:
	$(PYTHON) -m venv .venv-audit
	.venv-audit/bin/python -m pip install --quiet --disable-pip-version-check cyclonedx-bom pip-audit
	mkdir -p build
	cat requirements.lock requirements-torch.lock | .venv-audit/bin/cyclonedx-py requirements --output-file build/sbom.json -
	grep -ho '^[^ #]*==[^ ]*' requirements.lock requirements-torch.lock > build/pins.txt
	.venv-audit/bin/pip-audit --strict --disable-pip --no-deps --requirement build/pins.txt

clean:
	rm -rf .venv .venv-audit .venv-lowest
