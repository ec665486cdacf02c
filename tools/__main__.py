"""The commands behind ``make``. This needs only Python; what needs other packages runs inside ``.venv``."""

import sys

if sys.version_info < (3, 11):
    sys.exit(
        "modeldeck needs Python 3.11 or later; this is " + sys.version.split()[0] + ". Try: make PYTHON=python3.11"
    )

import argparse

from tools import bounds, documentation, environment, lock, suite


def main() -> int:
    parser = argparse.ArgumentParser(prog="python3 -m tools", description=__doc__)
    parser.add_argument(
        "command", choices=COMMANDS, help="; ".join(f"{name}: {text}" for name, (_, text) in COMMANDS.items())
    )
    command, _ = COMMANDS[parser.parse_args().command]
    try:
        return command()
    except environment.SetupError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


COMMANDS = {
    "demo": (environment.demo, "set up what is needed, start the local hub and JupyterLab on the quickstart"),
    "test": (suite.test, "set up everything, run every test"),
    "test-oldest": (bounds.test_oldest, "run the quick suites with the lowest versions of the dependencies"),
    "test-newest": (bounds.test_newest, "run the quick suites with the newest versions of the dependencies"),
    "check": (suite.check, "set up everything, run the linters and type checkers only"),
    "hosts": (suite.hosts, "set up everything and other notebooks, run the widget's tests in them"),
    "docs": (documentation.docs, "set up everything, build the documentation site"),
    "shots": (documentation.shots, "set up everything, take the pictures of the README and the documentation"),
    "setup": (environment.setup, "set up everything"),
    "lock": (lock.lock, "resolve the newest dependencies into constraints.txt"),
    "clean": (environment.clean, "delete everything that set-up and builds made in the checkout"),
}

if __name__ == "__main__":
    sys.exit(main())
