"""A small Hub over a folder of GGUF files, compatible with Hugging Face's: the server of the demo and the tests."""

from tools.localhub import faults
from tools.localhub.log import RequestRecord
from tools.localhub.server import LocalHub

__all__ = ["LocalHub", "RequestRecord", "faults"]
