"""The trait ``_plan``: what a load with some choices would take, before the click."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import TYPE_CHECKING, Any, get_args

import anyio.to_thread
import msgspec
from msgspec.structs import replace

from modeldeck._errors import LockError, ModelDeckError
from modeldeck._types import GGUFFile, LocalModel
from modeldeck.gguf.ggml_types import GGML_TYPES, type_id_of
from modeldeck.lockfile import lock_entry, pin
from modeldeck.session import Session
from modeldeck.sizing.cache_shape import padded_cells
from modeldeck.snippets import llama_cpp_code, modeldeck_code
from modeldeck.widget.publisher import Publisher
from modeldeck.widget.repos import ReposOwner
from modeldeck.widget.traits import CodeView, KVType, LoadChoices, PlanView

if TYPE_CHECKING:
    from modeldeck.llama.loading import LoadPlan

_ALL_LAYERS = -1


class PlanOwner:
    """Owns the trait ``_plan``. A newer plan takes the place of the one before, also while that is being made."""

    def __init__(self, session: Session, publisher: Publisher, repos: ReposOwner) -> None:
        self._session = session
        self._publisher = publisher
        self._repos = repos
        self._latest = PlanView()

    async def make(self, repo_id: str, variant_id: str, commit_hash: str | None, choices: LoadChoices) -> None:
        """Show what a load of this variant would take."""
        asked = self._latest = PlanView(
            repo_id=repo_id, variant_id=variant_id, commit_hash=commit_hash, choices=choices
        )
        try:
            model = await self._repos.local_model(repo_id, variant_id, commit_hash)
            view = await self._look(asked, model)
        except ModelDeckError as error:
            view = replace(asked, error=error.to_info())
        if self._latest is asked:
            self._publisher.publish("plan", view)

    async def _look(self, asked: PlanView, model: LocalModel) -> PlanView:
        repo_id = asked.repo_id or ""
        n_ctx = asked.choices.n_ctx or self._repos.n_ctx_of(repo_id)
        projector = self._repos.loads_projector(repo_id, asked.commit_hash)
        try:
            plan = await plan_load(self._session, model, asked.choices, n_ctx, projector=projector)
        except ModelDeckError as error:
            # What is not loadable here can be repeated elsewhere all the same.
            code = await code_of(model, asked.choices, n_ctx, projector=projector)
            return replace(asked, error=error.to_info(), code=code)
        options, layers = plan.options, plan.options["n_gpu_layers"]
        all_layers = (plan.block_count or 0) + 1
        n_ctx_made = padded_cells(options["n_ctx"])
        return replace(
            asked,
            taken=LoadChoices(
                n_ctx=n_ctx_made,
                n_gpu_layers=all_layers if layers == _ALL_LAYERS else layers,
                n_threads=options["n_threads"],
                flash_attn=options["flash_attn"],
                kv_type=_kv_type(options.get("type_k")),
            ),
            fit=dataclasses.replace(plan.fit, n_ctx=n_ctx_made),
            max_n_ctx=plan.context_length,
            max_gpu_layers=all_layers if plan.has_gpu and plan.block_count else None,
            max_threads=plan.processors,
            code=await code_of(model, asked.choices, options["n_ctx"], projector=projector, plan=plan),
        )


async def plan_load(
    session: Session, model: LocalModel, choices: LoadChoices, n_ctx: int, *, projector: bool
) -> LoadPlan:
    """Return what a load would take.

    Parameters
    ----------
    session
        Looks at the files.
    model
        The files that would be loaded.
    choices
        What was chosen.
    n_ctx
        The context length. It counts up to what the model was trained for, unless it was chosen for this load.
    projector
        Whether the vision projector is loaded too.
    """
    look = partial(session.plan, model, projector=projector, **load_arguments(choices))
    plan = await look(n_ctx=n_ctx)
    longest = plan.context_length
    return plan if choices.n_ctx or longest is None or n_ctx <= longest else await look(n_ctx=longest)


async def code_of(
    model: LocalModel, choices: LoadChoices, n_ctx: int, *, projector: bool, plan: LoadPlan | None = None
) -> CodeView | None:
    """Return code that repeats a load, unless no file is the Hub's.

    Parameters
    ----------
    model
        The files that are loaded.
    choices
        What was chosen.
    n_ctx
        The context length that is taken.
    projector
        Whether the vision projector is loaded too.
    plan
        What else is taken here, if that is known.
    """
    return await anyio.to_thread.run_sync(_code_of, model, choices, n_ctx, projector, plan)


def _code_of(
    model: LocalModel, choices: LoadChoices, n_ctx: int, projector: bool, plan: LoadPlan | None
) -> CodeView | None:
    """Do what `code_of` says. Blocks for the sizes of files."""
    files = [
        GGUFFile(filename=filename, size=path.stat().st_size, sha256=sha256)
        for filename, path, sha256 in model.hub_files()
        if projector or path not in model.sidecar_paths
    ]
    if not files:
        return None
    pinned = pin(model.repo_id, model.commit_hash, model.label, files, n_ctx=n_ctx)
    try:
        entry = lock_entry(pinned)
    except LockError:
        entry = None
    chosen, taken = load_arguments(choices), {} if plan is None else plan.options
    # llama.cpp needs flash attention for a cache of these types, and llama-cpp-python leaves it out by itself.
    needed = {"flash_attn": taken.get("flash_attn", True)} if "type_v" in chosen else {}
    return CodeView(
        modeldeck=modeldeck_code(pinned, projector=projector, options=chosen),
        llama_cpp=llama_cpp_code(
            pinned,
            is_embedding=taken.get("embedding", False),
            n_gpu_layers=taken["n_gpu_layers"] if plan is not None and plan.has_gpu else 0,
            options={**needed, **chosen},
        ),
        lock_entry=entry,
    )


def load_arguments(choices: LoadChoices) -> dict[str, Any]:
    """The arguments of ``llama_cpp.Llama`` for what was chosen, without ``n_ctx``."""
    arguments = msgspec.structs.asdict(choices)
    del arguments["n_ctx"]
    kv_type, threads = arguments.pop("kv_type"), choices.n_threads
    if threads is not None:
        arguments["n_threads_batch"] = threads
    if kv_type is not None:
        arguments["type_k"] = arguments["type_v"] = type_id_of(kv_type)
    return {name: value for name, value in arguments.items() if value is not None}


def _kv_type(type_id: int | None) -> KVType | None:
    name = "f16" if type_id is None else GGML_TYPES[type_id].name.lower()
    return next((known for known in get_args(KVType) if known == name), None)
