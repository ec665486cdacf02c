"""``python -m modeldeck``."""

import sys

from modeldeck.cli import main

sys.exit(main())
