# make demo    set everything up, export the embedded checkpoint, compare and evaluate it
# make bench   set everything up, measure us and the peers (an hour on 2 cores; SST2=folder of GLUE's SST-2)
# make readme  copy rows of outputs/bench.json (the slower of RUNS) into both READMEs, and draw their picture
# make fuzz    feed hostile input to both scripts for MINUTES; what fails is kept in outputs/fuzz
# make mutants plant faults in the code that measures, and list those that no test notices (Python 3.10 on; seconds
#              each, hours for all; MUTANTS='albert_aie.corpus.* albert_aie.data.records.*' for those of some modules)
# make test    set everything up, run ruff and the fast tests;  make test-all: the slow ones too
PYTHON ?= python3
VENV ?= .venv
PY = $(VENV)/bin/python
# the Python of a $(VENV) that is there already, else $(PYTHON)
VERSION := $(shell $(firstword $(wildcard $(PY)) $(PYTHON)) \
	-c 'import sys; print("%d.%d" % sys.version_info[:2])')
# exact versions; a torch that is in $(VENV) already stays, if requirements.txt allows it
PINS ?= constraints/py$(VERSION).txt
PIP = $(PY) -m pip install --quiet --disable-pip-version-check
# export and evaluate write here
OUT ?= outputs/demo
# tests at a time
JOBS ?= 2
# GLUE's SST-2, for `make bench`
SST2 ?= ../shared/data/SST-2

# what `make readme` quotes: of several runs the slower one, row by row
RUNS ?= outputs/bench.json
# of `make fuzz`
MINUTES ?= 30

# of `make mutants`: all
MUTANTS ?=

.PHONY: demo test test-all bench readme fuzz mutants clean

constraints/py%.txt:
	@echo "Python $* was not tried; 3.9 to 3.13 were: make demo PYTHON=python3.11" >&2; exit 1

$(VENV)/.ready: pyproject.toml requirements.txt $(PINS)
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip show --quiet torch 2>/dev/null || $(PIP) -c $(PINS) torch
	grep -v '^torch==' $(PINS) > $(VENV)/pins.txt
	$(PIP) -c $(VENV)/pins.txt -r requirements.txt
	touch $@

$(VENV)/.ready-test: $(VENV)/.ready
	$(PIP) -c $(VENV)/pins.txt -e .[test]
	touch $@

demo: $(VENV)/.ready
	$(PY) export_albert_aie.py --pth_dir demo/checkpoint --data_dir demo/SST-2 --save_dir $(OUT) --compare_cpu
	$(PY) run_aie_eval.py --data_dir demo/SST-2 --aie_model_dir $(OUT)/albert_seq128_bs32.pt --output_dir $(OUT)

test: $(VENV)/.ready-test
	$(PY) -m ruff check .
	$(PY) -m pytest -q -n $(JOBS) --dist worksteal

test-all: $(VENV)/.ready-test
	$(PY) -m ruff check .
	$(PY) -m pytest -q -n $(JOBS) --dist worksteal -m "slow or not slow"

bench: $(VENV)/.ready-test
	$(PIP) -c $(VENV)/pins.txt -e .[bench]
	$(PY) -m benchmarks.peers --pth_dir demo/checkpoint --data_dir $(SST2) --settings as_typed dense end_to_end

readme: $(VENV)/.ready-test
	$(PY) -m benchmarks.tables $(RUNS) --readme README.md README.zh-CN.md
	$(PY) -m benchmarks.picture outputs/bench.json docs/speed.svg

fuzz: $(VENV)/.ready-test
	$(PY) tests/fuzz.py --minutes $(MINUTES)

mutants: $(VENV)/.ready-test
	$(PIP) -c $(VENV)/pins.txt mutmut==3.8.1
	rm -rf mutants
	PATH="$(abspath $(VENV))/bin:$$PATH" OMP_NUM_THREADS=1 ALBERT_SHARED="$${ALBERT_SHARED:-$(abspath ../shared)}" \
		mutmut run --max-children $(JOBS) $(foreach name,$(MUTANTS),'$(name)')
	$(VENV)/bin/mutmut results --all true | sed 's/.*: //' | sort | uniq -c
	$(VENV)/bin/mutmut results

clean:
	rm -rf $(VENV) outputs mutants
