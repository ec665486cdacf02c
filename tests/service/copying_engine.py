"""An engine process with the copying manager instead of the real one."""

import os

from copying_manager import CopyingManager

from modeldeck.service.server import main

RATE_VARIABLE = "COPY_BYTES_PER_SECOND"

if __name__ == "__main__":
    rate = int(os.environ.get(RATE_VARIABLE, "1000000"))
    main(create_manager=lambda state_dir: CopyingManager(state_dir=state_dir, bytes_per_second=rate))
