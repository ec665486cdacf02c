"""Opens a vision projector in a child process, which may die of it; see `modeldeck._children`.

llama.cpp checks little of a projector's header, and some damaged projectors end in a segmentation fault.
"""

import os
from collections.abc import Iterator
from typing import Any


def answer(request: dict[str, Any]) -> Iterator[dict[str, bool]]:
    """Open ``request["projector"]`` for ``request["model"]``: one answer, whether llama.cpp takes it."""
    from llama_cpp import llama_cpp, mtmd_cpp

    model_params = llama_cpp.llama_model_default_params()
    model_params.vocab_only = True
    model = llama_cpp.llama_model_load_from_file(os.fsencode(request["model"]), model_params)
    projector = None
    if model is not None:
        mtmd_params = mtmd_cpp.mtmd_context_params_default()
        mtmd_params.use_gpu = False
        projector = mtmd_cpp.mtmd_init_from_file(os.fsencode(request["projector"]), model, mtmd_params)
    yield {"is_accepted": projector is not None}
