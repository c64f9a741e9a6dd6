# make demo    set everything up, export the embedded checkpoint, compare and evaluate it
# make bench   set everything up, measure us and the peers (an hour on 2 cores; SST2=folder of GLUE's SST-2)
# make fuzz    set everything up, feed hostile input to both scripts for MINUTES; what fails is kept in outputs/fuzz
# make test    set everything up, run ruff and the fast tests;  make test-all: the slow ones too
PYTHON ?= python3
VENV ?= .venv
PY = $(VENV)/bin/python
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
CONSTRAINTS := $(wildcard constraints/py$(VERSION).txt)
PIP = $(PY) -m pip install --quiet --disable-pip-version-check $(addprefix -c ,$(CONSTRAINTS))
# export and evaluate write here
OUT ?= outputs/demo
# tests at a time
JOBS ?= 2
# GLUE's SST-2, for `make bench`
SST2 ?= ../shared/data/SST-2

# of `make fuzz`
MINUTES ?= 30

.PHONY: demo test test-all fuzz bench clean

$(VENV)/.ready: pyproject.toml requirements.txt $(CONSTRAINTS)
	$(PYTHON) -m venv $(VENV)
	$(PIP) -r requirements.txt
	touch $@

$(VENV)/.ready-test: $(VENV)/.ready
	$(PIP) -e .[test]
	touch $@

demo: $(VENV)/.ready
	$(PY) export_albert_aie.py --demo --save_dir $(OUT) --compare_cpu
	$(PY) run_aie_eval.py --demo --aie_model_dir $(OUT)/albert_seq128_bs32.pt --output_dir $(OUT)

test: $(VENV)/.ready-test
	$(PY) -m ruff check .
	$(PY) -m pytest -q -n $(JOBS)

test-all: $(VENV)/.ready-test
	$(PY) -m ruff check .
	$(PY) -m pytest -q -n $(JOBS) -m "slow or not slow"

fuzz: $(VENV)/.ready-test
	$(PY) tests/fuzz.py --minutes $(MINUTES)

bench: $(VENV)/.ready-test
	$(PIP) -e .[bench]
	$(PY) benchmarks/peers.py --demo --data_dir $(SST2)

clean:
	rm -rf $(VENV) outputs
