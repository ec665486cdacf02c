"""Opens a vision projector in a process that may die of it: ``projector_child.py MODEL PROJECTOR``.

llama.cpp checks little of what a projector's header says; some damaged ones end in a segmentation fault. Run as a file,
outside the package. Exits with 0 whether llama.cpp takes the projector or refuses it.
"""

import sys


def main(model_path: str, projector_path: str) -> None:
    from llama_cpp import llama_cpp, mtmd_cpp

    if sys.platform != "win32":
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    model_params = llama_cpp.llama_model_default_params()
    model_params.vocab_only = True
    model = llama_cpp.llama_model_load_from_file(model_path.encode(), model_params)
    if model is not None:
        mtmd_params = mtmd_cpp.mtmd_context_params_default()
        mtmd_params.use_gpu = False
        mtmd_cpp.mtmd_init_from_file(projector_path.encode(), model, mtmd_params)


if __name__ == "__main__":
    main(*sys.argv[1:])
