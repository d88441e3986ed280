# Every target does its own set-up in .venv, once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# the demo: PAIRS generated tiles in DATA, EPOCHS for every network, results in OUT
PAIRS ?= 200
EPOCHS ?= 6
DATA ?= data/demo
OUT ?= outdir/demo_$(shell date +%Y%m%d-%H%M%S)

# freed memory is kept and used again; the C library would return it, and get it zeroed each time
KEEP_FREED := MALLOC_MMAP_THRESHOLD_=4000000000 MALLOC_TRIM_THRESHOLD_=4000000000

.PHONY: demo test lint bench

$(VENV)/.done: requirements.txt requirements-dev.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

demo: $(VENV)/.done
	$(BIN)/python -m datasets.demo --out $(DATA) --pairs $(PAIRS)
	$(BIN)/python -m benchmarks.pipeline --config benchmarks/demo.yaml --data-root $(DATA) \
		--outdir $(OUT) --epochs $(EPOCHS)

test: $(VENV)/.done
	OMP_NUM_THREADS=1 $(KEEP_FREED) $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadfile

lint: $(VENV)/.done
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

bench: $(VENV)/.done
	$(BIN)/python -m benchmarks.throughput
