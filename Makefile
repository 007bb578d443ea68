PYTHON ?= python3
VENV := .venv

.PHONY: setup demo test bench lint sizes clean

setup: $(VENV)/.installed

demo: $(VENV)/.installed
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" sh scripts/demo.sh

test: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n 2

bench: $(VENV)/.installed
	$(VENV)/bin/python benchmarks/bench_attack.py
	$(VENV)/bin/python benchmarks/bench_pipeline.py

lint: $(VENV)/.installed-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

clean:
	rm -rf $(VENV) demo sweep protocol_*/ gpu_results .hypothesis .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -r {} +

$(VENV)/.installed: requirements.txt constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install -r requirements.txt -c constraints.txt
	touch $@

$(VENV)/.installed-dev: requirements-dev.txt $(VENV)/.installed
	$(VENV)/bin/pip install -r requirements-dev.txt -c constraints.txt
	# By itself it asks for a version of requests beside which huggingface_hub can't be installed.
	$(VENV)/bin/pip install --no-deps torchattacks -c constraints.txt
	touch $@

sizes:
	@git ls-files '*.py' '*.md' '*.sh' | xargs wc -l | awk '$$2 != "total" \
		{ folder = $$2; if (!sub("/[^/]*$$", "", folder)) folder = "."; \
		files[folder]++; lines[folder] += $$1 } \
		END { for (folder in files) print files[folder] " files, " lines[folder] " lines: " folder }' | sort -k5
