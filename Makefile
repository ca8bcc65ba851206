# `make run` shows it, `make check` is for every save, `make test` proves it. Each sets up first what it needs.
#
# The install is editable: an edit counts at once. It is the strict kind, a tree of links below build/, since mypy can't
# see through the other kind, and since only what a real install would hold is there. A new file needs a new link: the
# install step depends on the list of files, not on what they say, so any target here makes it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ROOMS := shared supervisor control worker

# Its dependencies want versions of their own.
BASEPLATE := .venv-baseplate
OLDER := .older-gunicorn
# Programs that start gunicorn: one of them is a plugin of pytest too, and would be in every test.
WRAPPERS := .venv-wrappers

.PHONY: FORCE run check test lint types fuzz soak chaos bench pictures clean

$(VENV)/.dependencies: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "expected Python 3.11 or newer: make PYTHON=...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -c 'import tomllib; p = tomllib.load(open("pyproject.toml", "rb"))["project"]; print("\n".join(p["dependencies"] + p["optional-dependencies"]["test"]))' > $(VENV)/requirements.txt
	$(BIN)/pip install --quiet --disable-pip-version-check -r $(VENV)/requirements.txt
	touch $@

# Rewritten only if a file or this directory has got another name: a copied .venv would show the other tree's code.
$(VENV)/.files: $(VENV)/.dependencies FORCE
	@find $(ROOMS:%=$(CURDIR)/%) -type f -not -name '*.pyc' -not -name '.*' | sort > $@.new
	@cmp -s $@.new $@ && rm $@.new || mv $@.new $@

$(VENV)/.installed: $(VENV)/.files pyproject.toml docs/man/einhornpy.1 Makefile
	rm -rf build *.egg-info
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --force-reinstall \
		--config-settings editable_mode=strict -e .
	rm -rf *.egg-info
	install -D -m 644 docs/man/einhornpy.1 -t $(VENV)/share/man/man1
	touch $@

run: $(VENV)/.installed
	@echo "The example app on http://127.0.0.1:8000 under einhornpy. In another terminal:"
	@echo "    curl http://127.0.0.1:8000/"
	@echo "    $(BIN)/einhornpy status"
	@echo "    $(BIN)/einhornpy upgrade"
	@echo "^C here stops it."
	@PATH="$(CURDIR)/$(BIN):$$PATH" einhornpy -n 4 -b 127.0.0.1:8000 -c example --chdir examples/wsgi_app -- gunicorn app:wsgi

lint: $(VENV)/.installed
	$(BIN)/ruff check .

types: $(VENV)/.installed
	$(BIN)/mypy -p einhornpy.shared -p einhornpy.supervisor -p einhornpy.control -p einhornpy.worker
	$(BIN)/mypy tests bench docs/make_pictures.py

# What can be known at once: no masters, and neither the exhaustive search nor the planted bugs, a minute of computing.
PURE := tests/core tests/reporting tests/settings tests/shared tests/sockets/test_listeners.py \
	tests/steering/test_reload_check.py tests/whole/test_docs.py tests/whole/test_fuzz.py tests/whole/test_layers.py \
	tests/whole/test_truth.py tests/worker/test_warm_up.py

check: lint types
	$(BIN)/pytest -q -n 2 --dist worksteal -m "not soak and not masters" -k "not every_order and not planted" $(PURE)

$(BASEPLATE)/.installed:
	test -x $(BASEPLATE)/bin/python || $(PYTHON) -m venv $(BASEPLATE)
	$(BASEPLATE)/bin/pip install --quiet --disable-pip-version-check 'baseplate>=2.7,<3'
	touch $@

$(WRAPPERS)/.installed:
	test -x $(WRAPPERS)/bin/python || $(PYTHON) -m venv $(WRAPPERS)
	$(WRAPPERS)/bin/pip install --quiet --disable-pip-version-check 'gunicorn>=27' ddtrace dumb-init newrelic opentelemetry-distro uv
	touch $@

# What many an app is still served by.
$(OLDER)/.installed:
	$(BIN)/pip install --quiet --disable-pip-version-check --target $(OLDER) 'gunicorn==21.2.0'
	touch $@

# Most of them wait for processes most of the time: two for each of two cores.
test: lint types $(BASEPLATE)/.installed $(OLDER)/.installed $(WRAPPERS)/.installed
	$(BIN)/pytest -n 4 --dist worksteal -m "not soak"

# Each target of tests/whole/test_fuzz.py gets 20 inputs from each of so many seeds; it says how many there were.
fuzz: $(VENV)/.installed
	FUZZ_EXAMPLES=$${FUZZ_EXAMPLES:-10000} $(BIN)/pytest tests/whole/test_fuzz.py -s
	EINHORN_PLANNER_RANDOM=1 EINHORN_PLANNER_EXAMPLES=$${FUZZ_EXAMPLES:-10000} \
		$(BIN)/pytest tests/core -k state_machine -s

soak: $(VENV)/.installed
	$(BIN)/pytest -m soak -s

# What happens comes from the seed, which is printed: make chaos SEED=7 repeats it. OPTIONS: see python -m tests.chaos --help.
chaos: $(VENV)/.installed
	$(BIN)/python -m tests.chaos --seconds 1200 $(if $(SEED),--seed $(SEED)) $(OPTIONS)

# wrk comes from the distribution's package of that name.
bench: $(VENV)/.installed
	$(BIN)/python -c 'import tomllib; print("\n".join(tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["bench"]))' > $(VENV)/requirements-bench.txt
	$(BIN)/pip install --quiet --disable-pip-version-check -r $(VENV)/requirements-bench.txt
	for name in status readings scale idle templates preload deploy sharing throughput page logs keep_alive limit reload; do $(BIN)/python -m bench.$$name || exit 1; done

# Debian's chromium draws them, and its pngquant makes them small.
pictures: $(VENV)/.installed
	$(BIN)/python -m docs.make_pictures

clean:
	rm -rf $(VENV) $(BASEPLATE) $(OLDER) $(WRAPPERS) .venv-fork-safety build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
