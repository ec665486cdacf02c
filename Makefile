# Every command is `python3 -m tools COMMAND`; `make PYTHON=python3.13 test` uses another interpreter.
PYTHON ?= python3

.PHONY: demo test test-oldest test-newest check hosts docs shots setup lock clean
demo test test-oldest test-newest check hosts docs shots setup lock clean:
	@exec $(PYTHON) -m tools $@
