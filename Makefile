PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
UV_VERSION := 0.13.8
# The images' locks: of Debian's Python there, in the versions of requirements.lock. Named here is what LiteRT asks for and uses in
# its compilers alone, cffi in its own, tqdm and uvicorn on Windows; and NumPy, which is Debian's.
UNUSED := backports-strenum colorama flatbuffers ml-dtypes numpy protobuf pycparser tqdm
LOCK_IMAGE = $(BIN)/uv pip compile --quiet --universal --python-version 3.13 --generate-hashes --constraint requirements.lock \
	$(addprefix --no-emit-package ,$(UNUSED))

# Without bytecode every process would compile TensorFlow's and Prefect's sources again: twice the start-up.
unexport PYTHONDONTWRITEBYTECODE
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: train test check format lock bench setup

train: setup  ## data to released model; runs only what changed
	$(BIN)/python -m flows.train

test: setup  ## all tests
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

check: setup  ## lint and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: setup  ## resolve again; hashes and names, no download addresses
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --group dev pyproject.toml -o requirements.lock
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes benchmarks/serving-requirements.in -o benchmarks/serving-requirements.lock
	$(LOCK_IMAGE) --group serving -o serving/requirements.lock
	$(LOCK_IMAGE) --group lambda -o serving/lambda.lock

bench: setup  ## each prints a table
	$(BIN)/python -m benchmarks.training

setup: .venv/installed

.venv/installed: requirements.lock
	rm -rf .venv
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .
	touch $@
