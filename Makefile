# Two commands do everything on a machine with Python 3.11+ and make: `make run` and `make test`.
# `make` alone lists the targets. Each target sets up the environment first, if it must.

ifeq ($(filter 4.% 5.%,$(MAKE_VERSION)),)
$(error GNU make 4 or newer is needed, this is $(MAKE_VERSION). On macOS: `brew install make`, then `gmake run`)
endif

.DEFAULT_GOAL := help
.NOTPARALLEL:
SHELL := /bin/sh
BIN := .venv/bin
READY := .venv/ready

# The environment's file: ENV on the command line, else the variable PLOOMBER_ENV_FILENAME, else env.yaml. An ENV that somebody
# has exported is most often another program's (ENV=production): it counts if it names an environment here, and is never silent.
CHOSEN := $(PLOOMBER_ENV_FILENAME)
LIVE := env.live.yaml
ifeq ($(origin ENV),command line)
CHOSEN := $(ENV)
LIVE := $(or $(ENV),$(LIVE))
else ifeq ($(CHOSEN),)
CHOSEN := $(wildcard $(filter env%.yaml,$(ENV)))
$(if $(ENV),$(warning the variable ENV says $(ENV): $(if $(CHOSEN),this environment is taken,no file env*.yaml here, so it does not count). To name one: make run ENV=env.test.yaml))
endif
export PLOOMBER_ENV_FILENAME := $(or $(CHOSEN),env.yaml)

# A PORT counts where it was typed; one that is exported is another program's.
ON_PORT := $(if $(filter command line,$(origin PORT)),$(if $(PORT),--port '$(PORT)'))

# Nothing that was set for another Python or another Jupyter is for this one.
unexport PYTHONHOME PYTHONPATH PYTHONSAFEPATH PYTHONPLATLIBDIR PYTHONEXECUTABLE PYTHONUSERBASE
unexport PYTHONSTARTUP PYTHONINSPECT PYTHONOPTIMIZE PYTHONWARNINGS JUPYTER_PATH JUPYTER_CONFIG_PATH
export JUPYTER_PREFER_ENV_PATH := 1
# Without a home that can be written, programs keep their settings and caches here: uv, Jupyter, IPython, matplotlib, MLflow.
KEPT := . .cache .config .local .local/share .local/share/jupyter .jupyter .ipython
ifneq ($(shell cd "$${HOME:-/nowhere}" 2>/dev/null && for each in $(KEPT); do [ ! -e $$each ] || [ -w $$each ] || exit; done && echo yes),yes)
export HOME := $(CURDIR)/.venv/home
unexport XDG_CACHE_HOME XDG_CONFIG_HOME XDG_DATA_HOME XDG_STATE_HOME
unexport JUPYTER_CONFIG_DIR JUPYTER_DATA_DIR JUPYTER_RUNTIME_DIR IPYTHONDIR MPLCONFIGDIR
endif
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

# It says for which folder .venv was made, and by which Python: in a checkout that was moved or copied, and for another Python,
# it is made anew.
ifneq ($(shell [ -x $(BIN)/python ] && sed -n 1p $(READY) 2>/dev/null),$(CURDIR))
$(READY): looked-at
else ifeq ($(origin PYTHON),command line)
$(READY): looked-at
endif
.PHONY: looked-at

$(READY): requirements.lock settings.ini setup.py pyproject.toml platform/setup.sh $(wildcard platform/jupyter/*)
	@PYTHON_FROM='$(origin PYTHON)' sh platform/setup.sh

LOCKED := $(BIN)/uv pip compile --universal --fork-strategy fewest --python-version 3.11 --generate-hashes --no-header --quiet
.PHONY: lock
lock: $(READY) ## write the locks anew from settings.ini: of all, of the images' part of it, and Airflow's
	$(LOCKED) setup.py --extra dev -o requirements.lock
	$(LOCKED) setup.py --extra build -c requirements.lock --no-emit-package mypy --no-emit-package nbclassic -o platform/course/requirements.lock
	$(LOCKED) platform/airflow/requirements.txt -o platform/airflow/requirements.lock

# --- the images ------------------------------------------------------------------------------

DOCKER := docker
TARGET := course

.PHONY: image
image: ## make an image of the course from platform/Dockerfile, or another one: make image TARGET=postgres
	DOCKER_BUILDKIT=1 $(DOCKER) build -f platform/Dockerfile --target $(TARGET) -t mlops-course/$(TARGET) \
		--build-arg BASE="$${BASE:-$$(sed -n 's/^BASE=//p' platform/images.env)}" \
		--build-arg DEBIAN_ARCHIVE --build-arg PIP_INDEX_URL --build-arg PIP_EXTRA_INDEX_URL .

.PHONY: pin-images
pin-images: ## write the digests of the images that others have made into platform/images.env, where a registry can be reached
	@sh platform/pin_images.sh $(DOCKER)

# --- the course ------------------------------------------------------------------------------

.PHONY: run
run: $(READY) ## raw files to a registered champion and scored drivers
	@mlops-course run

.PHONY: doctor
doctor: $(READY) ## say what this machine has and lacks for each part of the course, and what helps
	@mlops-course doctor

.PHONY: lab
lab: $(READY) ## open the lessons in JupyterLab
	@jupyter lab --ServerApp.root_dir="$$PWD" --LabApp.default_url=/lab/tree/notebooks/00_start_here.ipynb \
		$$([ "$$(id -u)" = 0 ] && echo --allow-root)

.PHONY: serve
serve: $(READY) ## answer online on port 8172 (or PORT=...), with the champion of the last build
	@mlops-course serve $(ON_PORT)

.PHONY: live
live: export PLOOMBER_ENV_FILENAME := $(LIVE)
live: $(READY) ## the whole loop on a company that lives on, in five minutes the first time, then in three
	@mlops-course live

.PHONY: replay
replay: $(READY) ## what an environment's files hold after its clock happens, and the services answer: make replay ENV=env.flights.yaml
	@mlops-course replay

.PHONY: stop
stop: $(READY) ## end every service that the course has started
	@mlops-course stop

# The platform is an environment of its own; another one counts where it was typed.
ON_ENV := $(if $(filter command line,$(origin ENV)),--env '$(ENV)')

.PHONY: platform-up
platform-up: $(READY) ## start PostgreSQL, Redis, Kafka, MLflow, Prometheus and the rest, without Docker
	@bash platform/run.sh all up $(ON_ENV)

.PHONY: platform-down
platform-down: $(READY) ## end them; what they keep stays
	@bash platform/run.sh all down $(ON_ENV)

.PHONY: ui
ui: $(READY) ## open MLflow on the runs and models of the last build, on port 5000 (or PORT=...)
	@mlops-course ui $(ON_PORT)

# --- what developers use ---------------------------------------------------------------------

.PHONY: export
export: $(READY) ## write the package, the tables of lessons and pages, and the projects' schema; clean the notebooks
	nbdev_export
	nbdev_clean
	python tests/rules.py --contents
	python -c 'from mlops_course.contracts import write_schema; write_schema()'
	python -c 'from mlops_course.broker import write_event_schemas; write_event_schemas()'

.PHONY: lint
lint: $(READY) ## ruff, spelling, and the rules of the lessons
	@rm -rf out/lint && python tests/rules.py --as-taught out/lint/notebooks notebooks/*.ipynb
	ruff check . && ruff check out/lint/notebooks
	ruff format --check . && ruff format --check --line-length 100 out/lint/notebooks
	typos && typos out/lint/notebooks
	@python tests/rules.py notebooks/*.ipynb

.PHONY: format
format: $(READY) ## format code and notebooks
	ruff format . && ruff check --fix .
	ruff format --isolated --line-length 100 notebooks/*.ipynb

.PHONY: test
test: lint ## lint, package in step, all tests that need no server, every notebook verified
	pytest tests --ignore tests/system --ignore tests/containers --ignore tests/benchmarks -n auto --maxprocesses 4 --dist loadfile
	$(MAKE) --no-print-directory test-notebooks

.PHONY: test-notebooks
test-notebooks: $(READY) ## run every notebook and compare with its stored outputs
	rm -rf out/nbval
	PLOOMBER_ENV_FILENAME=env.test.yaml MLOPS_COURSE_LAB=out/nbval pytest --nbval notebooks -p no:randomly -n 2

.PHONY: test-all
test-all: test ## and the tests that need servers, kills, load or a browser
	pytest tests/system -m patient -n 3 --dist loadfile --no-loadscope-reorder
	pytest tests/system -m "not patient" -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: test-docker
test-docker: $(READY) ## the platform in containers: all services, the loop and one retraining; needs Docker, takes about ten minutes
	pytest tests/containers -p no:randomly

.PHONY: bench
bench: $(READY) ## the benchmarks of docs/BENCHMARKS.md; one of them: make bench ONLY=serving
	python tests/benchmarks/run.py $(ONLY)

.PHONY: screenshots
screenshots: $(READY) ## make the pictures of README, docs and lessons anew, with a browser and the whole loop
	PYTHONPATH=tests:tests/system python tests/system/screenshots.py

.PHONY: clean
clean: ## remove what runs have made, and nothing that a learner has made
	@[ ! -d out ] || { cd out && find . -mindepth 1 \( -path ./lab -o -path ./lab/progress.jsonl \) -o -prune -exec rm -rf {} +; }
	@rmdir out/lab out 2>/dev/null || true # a link stays
	@rm -rf .pytest_cache .ruff_cache .hypothesis
	@echo "Removed what runs have made. Kept: notebooks/ with your answers in them, learners/ with your progress"
	@[ ! -f out/lab/progress.jsonl ] || echo "Kept too: out/lab/progress.jsonl, your progress so far; \`mlops-course progress\` moves it to learners/"
