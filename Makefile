# Every target does its own set-up in .venv, once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OUT ?= outdir/demo
# the demo's size: PAIRS of generated tiles, EPOCHS for every network
PAIRS ?= 200
EPOCHS ?= 12

.PHONY: demo test lint bench clean

$(VENV)/.done: requirements.txt requirements-dev.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

demo: $(VENV)/.done
	rm -rf $(OUT)
	$(BIN)/python -m datasets.demo --out data/demo --pairs $(PAIRS)
	$(BIN)/python -m benchmarks.pipeline --dataset demo --outdir $(OUT) \
		--train-options "--epochs $(EPOCHS)"

test: $(VENV)/.done
	$(BIN)/python -m pytest

lint: $(VENV)/.done
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

bench: $(VENV)/.done
	$(BIN)/python -m benchmarks.throughput

clean:
	rm -rf $(OUT)
