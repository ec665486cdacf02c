"""``python -m modeldeck.service``: the engine's process."""

from modeldeck.service.server import main

if __name__ == "__main__":
    main()
