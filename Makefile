# Two commands do everything on a machine with Python 3.11+ and make: `make run` and `make test`.
# `make` alone lists the targets. Each target sets up the environment first, if it must.

ifeq ($(filter 4.% 5.%,$(MAKE_VERSION)),)
$(error GNU make 4 or newer is needed, this is $(MAKE_VERSION). On macOS: `brew install make`, then `gmake run`)
endif

.DEFAULT_GOAL := help
SHELL := /bin/sh
BIN := .venv/bin
READY := .venv/ready
UV := uv==0.13.9
# env.yaml, or another environment: make run ENV=env.staging.yaml
ENV ?= env.yaml
export PLOOMBER_ENV_FILENAME := $(ENV)
export PATH := $(CURDIR)/$(BIN):$(PATH)
export DO_NOT_TRACK := true
export MLFLOW_DISABLE_TELEMETRY := true
export PLOOMBER_STATS_ENABLED := false
export PLOOMBER_VERSION_CHECK_DISABLED := 1

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-15s %s\n", $$1, $$2}'

# --- the environment -------------------------------------------------------------------------

.PHONY: setup
setup: $(READY) ## make the environment in .venv (every other target does this too)

# 3.11 to 3.13 are tried: a python3 that is newer comes last
$(READY): requirements.lock settings.ini setup.py pyproject.toml $(wildcard platform/jupyter/*)
	@case "$$(pwd)" in *[:{}\\]*) echo "The course cannot work in the folder $$(pwd): its tools read : { } or \\ in a path as something else. Move or rename it."; exit 1;; esac
	@set -e; \
	for python in $${PYTHON:-$$(python3 -c 'import sys; print("python3" * (sys.version_info < (3, 14)))' 2>/dev/null) python3.13 python3.12 python3.11 python3}; do \
	  if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then found=$$python; break; fi; \
	done; \
	if [ -z "$$found" ]; then \
	  echo "Python 3.11 or newer is needed and was not found ($$($${PYTHON:-python3} --version 2>&1 | head -1)). Install it, or name it: make run PYTHON=/path/to/python3.12"; exit 1; fi; \
	if ! "$$found" -c 'import ensurepip, venv' 2>/dev/null; then \
	  echo "$$found has no venv module. On Debian or Ubuntu: sudo apt install python3-venv. Or name another Python: make run PYTHON=..."; exit 1; fi; \
	echo "Setting up the environment in .venv, once: a minute or two ..."; \
	[ -x $(BIN)/python ] || "$$found" -m venv .venv; \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check '$(UV)'; \
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes --compile-bytecode -r requirements.lock; \
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps -e .; \
	mkdir -p .venv/etc/jupyter/labconfig .venv/etc/ipython .venv/share/jupyter/lab/settings; \
	cp platform/jupyter/jupyter_server_config.json .venv/etc/jupyter/; \
	cp platform/jupyter/page_config.json .venv/etc/jupyter/labconfig/; \
	cp platform/jupyter/overrides.json .venv/share/jupyter/lab/settings/; \
	cp platform/jupyter/ipython_kernel_config.py .venv/etc/ipython/; \
	touch $(READY)

.PHONY: lock
lock: $(READY) ## write requirements.lock anew from settings.ini
	$(BIN)/uv pip compile setup.py --extra dev --universal --fork-strategy fewest --python-version 3.11 --generate-hashes --no-header --quiet -o requirements.lock

# --- the course ------------------------------------------------------------------------------

.PHONY: run
run: $(READY) ## raw files to a registered champion and scored drivers
	@mlops-course run

.PHONY: lab
lab: $(READY) ## open the lessons in JupyterLab
	@jupyter lab notebooks/00_start_here.ipynb $$([ "$$(id -u)" = 0 ] && echo --allow-root)

.PHONY: serve
serve: $(READY) ## answer online on port 8172, with the champion of the last build
	@mlops-course serve

.PHONY: live
live: $(READY) ## the whole loop on a company that lives on: drift, alert, retraining, new champion
	@mlops-course live --env env.live.yaml

.PHONY: stop
stop: $(READY) ## end every service that the course has started
	@mlops-course stop

.PHONY: ui
ui: $(READY) ## open MLflow on the runs and models of the last build
	@mlops-course ui

# --- what developers use ---------------------------------------------------------------------

.PHONY: export
export: $(READY) ## write the package and the README's table from the notebooks, and clean the notebooks
	nbdev_export
	nbdev_clean
	python tests/rules.py --readme

.PHONY: lint
lint: $(READY) ## ruff, spelling, and the rules of the lessons
	@rm -rf out/lint && python tests/rules.py --as-taught out/lint/notebooks notebooks/*.ipynb
	ruff check . && ruff check out/lint/notebooks
	ruff format --check . && ruff format --check out/lint/notebooks
	typos && typos out/lint/notebooks
	@python tests/rules.py notebooks/*.ipynb

.PHONY: format
format: $(READY) ## format code and notebooks
	ruff format . && ruff check --fix .
	ruff format --isolated --line-length 140 notebooks/*.ipynb

.PHONY: test
test: lint ## lint, package in step, all tests that need no server, every notebook verified
	pytest tests --ignore tests/system --ignore tests/benchmarks -n auto --maxprocesses 4 --dist loadfile
	$(MAKE) --no-print-directory test-notebooks

.PHONY: test-notebooks
test-notebooks: $(READY) ## run every notebook and compare with its stored outputs
	rm -rf out/nbval
	PLOOMBER_ENV_FILENAME=env.test.yaml MLOPS_COURSE_LAB=out/nbval pytest --nbval notebooks -p no:randomly

.PHONY: test-all
test-all: test ## and the tests that need servers, kills, load or a browser
	pytest tests/system -m patient -n 2 --dist loadfile
	pytest tests/system -m "not patient"

.PHONY: bench
bench: $(READY) ## the benchmarks of the README; one of them: make bench ONLY=serving
	python tests/benchmarks/run.py $(ONLY)

.PHONY: screenshots
screenshots: run ## make the README's pictures anew, from the last build and a browser
	PYTHONPATH=tests:tests/system python tests/system/screenshots.py

.PHONY: clean
clean: ## remove what runs have made, and nothing else
	rm -rf out .pytest_cache .ruff_cache .hypothesis
