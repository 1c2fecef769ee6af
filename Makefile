# What a newcomer types. The recipes only set up and call the PDM scripts of pyproject.toml; nothing is written twice.

PYTHON ?= $(firstword $(shell command -v python3.11 python3.12 python3.13 python3))
VENV := .venv
PDM := .tools/pdm/bin/pdm
# PDM's newest releases of two dependencies break it; these do not.
PDM_PACKAGES := 'pdm==2.29.3' 'hishel<1.2' 'unearth<0.18'
PY_SPY := .tools/py-spy/bin/py-spy
PIP_AUDIT := .tools/pip-audit/bin/pip-audit
PRE_COMMIT := .tools/pre-commit/bin/pre-commit
RUN := $(PDM) run
export PDM_CHECK_UPDATE := false
# Nothing outside this folder, not even a cache.
export PDM_CACHE_DIR := $(CURDIR)/.tools/cache
export PDM_LOG_DIR := $(CURDIR)/.tools/log
export PDM_IGNORE_ACTIVE_VENV := true

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-unit test-integration torture bench plans profile check format hooks audit coverage clean

##@ Begin

help: ## list what there is to do
	@sed -n -e 's/^##@ \(.*\)/\n\1/p' -e 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 26

setup: $(VENV)/.synced ## make .venv in this checkout, with the locked dependencies

$(PDM):
	@$(PYTHON) -c 'import sys; sys.exit(not ((3, 11) <= sys.version_info < (3, 14)))' \
		|| { echo "Python 3.11, 3.12 or 3.13 is needed, but $(PYTHON) is another: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	$(PYTHON) -m venv .tools/pdm
	.tools/pdm/bin/python -m pip install --quiet --disable-pip-version-check --no-cache-dir $(PDM_PACKAGES)

$(VENV)/.synced: pyproject.toml pdm.lock | $(PDM)
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(PDM) use --quiet --first $(VENV)/bin/python
	$(PDM) sync --quiet --clean
	touch $@

demo: setup ## play real traffic through the service on embedded servers (ONCE=1: compare and end)
	$(RUN) demo $(if $(ONCE),--once)

##@ Test

test: setup ## the whole suite
	$(RUN) test

test-unit: setup ## what needs no server
	$(RUN) test-unit

test-integration: setup ## what talks to servers
	$(RUN) test-integration

torture: setup ## real faults under real traffic, the long form (ONLY="outages replays", SEED=1, ROUNDS=1)
	$(RUN) torture $(ONLY) --seed $(or $(SEED),1) --rounds $(or $(ROUNDS),1)

coverage: setup ## the whole suite, with branch coverage of the package
	$(RUN) coverage

##@ Measure

bench: setup ## what the service does in a second, and beside what (QUICK=1, ONLY="drain reads", BASELINE=file, JSON=file, PAGE=file)
	$(RUN) bench $(if $(QUICK),--quick) $(if $(ONLY),--only $(ONLY)) $(if $(BASELINE),--baseline $(BASELINE)) \
		$(if $(PAGE),--markdown $(PAGE)) --json $(or $(JSON),bench.json)

plans: setup ## how PostgreSQL runs each statement on large tables, written to docs/plans.md
	$(RUN) python -m benchmarks.plans --markdown docs/plans.md

profile: setup $(PY_SPY) ## where the time of a drain goes, by py-spy
	$(RUN) python -m benchmarks.profile --py-spy $(PY_SPY)

$(PY_SPY):
	$(PYTHON) -m venv .tools/py-spy
	.tools/py-spy/bin/python -m pip install --quiet --disable-pip-version-check --no-cache-dir 'py-spy==0.4.3'

##@ Keep the code in order

check: setup ## ruff, format, mypy strict, import rules
	$(RUN) check

format: setup ## let ruff format everything
	$(RUN) format

hooks: setup $(PRE_COMMIT) ## have git run these checks before each commit
	$(PRE_COMMIT) install

$(PRE_COMMIT):
	$(PYTHON) -m venv .tools/pre-commit
	.tools/pre-commit/bin/python -m pip install --quiet --disable-pip-version-check --no-cache-dir 'pre-commit==4.7.0'

# Strict: a dependency of which the advisory service knows nothing is no dependency without advisories.
audit: setup $(PIP_AUDIT) ## look for known vulnerabilities in what the image holds (asks PyPI)
	$(PDM) export --prod --format requirements --output .tools/requirements.txt
	@$(PIP_AUDIT) --strict --require-hashes --disable-pip --progress-spinner off --cache-dir .tools/cache/pip-audit \
		--requirement .tools/requirements.txt || { echo "make audit: not passed. A table above names what is vulnerable \
	and which version is not; an ERROR says that the advisory service could not be asked, so that nothing is known." >&2; exit 1; }

$(PIP_AUDIT):
	$(PYTHON) -m venv .tools/pip-audit
	.tools/pip-audit/bin/python -m pip install --quiet --disable-pip-version-check --no-cache-dir 'pip-audit==2.10.1'

##@ Tidy up

clean: ## remove what setup, demo and bench made
	rm -rf $(VENV) .tools .pdm-python .demo bench.json
