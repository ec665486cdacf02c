"""How long a test waits for what comes soon on a quiet machine."""

PATIENCE_SECONDS = 300.0
"""One wait's limit. It is shorter than pytest's limit of a whole test, so that a failure says what did not come."""

AT_ONCE_SECONDS = 15.0
"""The limit of what takes a second on a quiet machine. The engine itself gives up a silent connection after 20 s."""
