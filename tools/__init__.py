"""How this project is set up, tested and shown: ``python3 -m tools COMMAND``, or ``make COMMAND``."""
