# make train: the small study and its report.   make test: the tests.   make parity: those against torch.
PYTHON ?= python3
RUNS ?= runs

.PHONY: train test parity lint clean

train: .venv/installed
	.venv/bin/python bin/train --config=cbs_p2c.py:tiny --runs=$(RUNS)
	.venv/bin/python bin/report $(RUNS)/cbs_p2c_tiny
	@echo "event files: $(RUNS)/cbs_p2c_tiny/*/events.out.tfevents.*  (.venv/bin/tensorboard --logdir $(RUNS)/cbs_p2c_tiny)"

test: .venv/installed lint
	.venv/bin/python -m pytest -n 2 --dist worksteal -q --durations=25

# in the same environment, which the tests above must do without: torch is large
parity: .venv/with_parity
	.venv/bin/python -m pytest -q -m parity

lint: .venv/installed
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[test,plots]'
	@touch $@

.venv/with_parity: .venv/installed
	.venv/bin/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[test,plots,parity]'
	@touch $@

clean:
	rm -rf .venv tests/.xla_cache
