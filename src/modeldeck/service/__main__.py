"""``python -m modeldeck.service``: the engine's process."""

from modeldeck.service.engine_process import main

if __name__ == "__main__":
    main()
