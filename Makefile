# Each target makes what it needs; `make demo` is the one to start with.
VENV := .venv
BIN := $(VENV)/bin
RUNTIME := $(VENV)/.installed
DEV := $(VENV)/.installed-dev
DOCS := $(VENV)/.installed-docs
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow lint audit bench ablation docs ui

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(RUNTIME) ## Run the whole journey on generated images, on this machine
	$(BIN)/finedefics demo

# Two files at a time, each in one process with a Ray cluster of its own; tests/conftest.py says which come first.
test: $(DEV) ## Run the tests that take seconds
	$(BIN)/python -m pytest -m "not slow and not gpu" -n 2 --dist loadfile --no-loadscope-reorder

test-slow: $(DEV) ## Run the tests that take minutes or need a GPU
	$(BIN)/python -m pytest -m "slow or gpu"

lint: $(DEV) ## Check style, types, imports, the reference pages and pinned packages
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy
	$(BIN)/lint-imports
	$(BIN)/python -m tools.reference --check
	$(BIN)/python -m tools.audit

audit: $(DEV) ## Look the pinned packages up among known vulnerabilities
	$(BIN)/python -m tools.audit

bench: $(DEV) ## Measure against the aims and write benchmarks/results.json
	$(BIN)/python -m benchmarks

ablation: $(RUNTIME) ## Measure what hard negatives bring where a batch is small or large (a study)
	$(BIN)/finedefics study run jobs/studies/negatives.yaml

docs: $(DOCS) ## Build the documentation into site/
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo "open site/index.html (its search needs a server: $(BIN)/mkdocs serve)"

ui: $(RUNTIME) ## Browse runs and models in MLflow (loopback, port 5000)
	$(BIN)/finedefics ui

$(DEV): pyproject.toml constraints.txt
	@$(call make_venv)
	@echo "installing the packages for development (minutes the first time)" >&2
	@$(INSTALL) -e '.[dev]'
	@touch $(RUNTIME) $(DEV)

$(DOCS): pyproject.toml constraints.txt
	@$(call make_venv)
	@echo "installing the packages for the documentation (minutes the first time)" >&2
	@$(INSTALL) -e '.[docs]'
	@touch $(RUNTIME) $(DOCS)

$(RUNTIME): pyproject.toml constraints.txt
	@$(call make_venv)
	@echo "installing the packages (minutes the first time)" >&2
	@$(INSTALL) -e .
	@touch $(RUNTIME)

# An interpreter is taken by what it answers, not by its name: a version manager's `python3.12` may be a shim
# that only prints a complaint, and a bare distribution Python may lack the module that makes environments.
PROBE := import ensurepip, sqlite3, ssl, sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
CANDIDATES := $(or $(PYTHON),python3 python3.13 python3.12 python3.11 python)

define make_venv
if ! { $(BIN)/python -c '$(PROBE)' && $(BIN)/python -m pip --version; } >/dev/null 2>&1; then \
	for python in $(CANDIDATES); do \
		if "$$python" -c '$(PROBE)' >/dev/null 2>&1; then \
			exec "$$python" -m venv --clear $(VENV); \
		fi; \
	done; \
	echo "error: Python: no interpreter from 3.11 to 3.13 with venv runs (tried: $(CANDIDATES));" \
		"install one and name it: make PYTHON=/path/to/python" >&2; \
	exit 1; \
fi
endef
