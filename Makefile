# Every target sets up what it needs on a fresh machine by itself: a virtual environment, the package, and Mosquitto.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
EXTRAS := dev

.PHONY: help demo test lint format bench soak heavy clean

help: ## Show this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

$(VENV)/.ready: pyproject.toml constraints.txt scripts/set-up
	@PYTHON="$(PYTHON)" scripts/set-up "$(VENV)" "$(EXTRAS)"

demo: $(VENV)/.ready ## Watch one model's whole life on a small fleet (about a minute)
	@scripts/set-up-mosquitto
	@$(BIN)/edgeward demo

test: $(VENV)/.ready ## Run all tests but those of soak and heavy
	@scripts/set-up-mosquitto
	@$(BIN)/python -m pytest -n 2 --dist loadgroup -m "not soak"
	@PYTHON="$(PYTHON)" scripts/test-tflite-runtime "$(VENV)-tflite-runtime"

lint: $(VENV)/.ready ## Check style, types and architecture
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: $(VENV)/.ready ## Bring the code into the project's style
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: $(VENV)/.ready ## Measure; prints JSON
	@scripts/set-up-mosquitto
	@$(BIN)/python -m bench

soak: $(VENV)/.ready ## Run the tests that take minutes
	@scripts/set-up-mosquitto
	@$(BIN)/python -m pytest -m soak --timeout 1800

# Each file in a process of its own: TensorFlow, loaded first, makes PyTorch's triton abort.
heavy: .venv-heavy/.ready ## Run the tests that need TensorFlow, PyTorch and onnxruntime's plugins (9 GB)
	@failed=0; for file in tests/heavy/test_*.py; do \
	    echo "› $$file"; .venv-heavy/bin/python -m pytest -m heavy --timeout 900 "$$file" || failed=1; \
	done; PYTHON="$(PYTHON)" scripts/test-plugins "$(VENV)-plugins" || failed=1; exit $$failed

.venv-heavy/.ready: pyproject.toml constraints.txt scripts/set-up
	@PYTHON="$(PYTHON)" scripts/set-up .venv-heavy "$(EXTRAS),tensorflow,torch,compress,camera,serving-client"

clean: ## Remove what was built and measured here
	@rm -rf $(VENV) .venv-heavy $(VENV)-tflite-runtime $(VENV)-plugins dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache .edgeward
