"""The engine's home: a process of its own or a thread of the caller, and the clients that talk to it."""
