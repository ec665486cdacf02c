"""The trait ``_view``: the endpoint, the context length, and what is known of this machine."""

from __future__ import annotations

import anyio
import anyio.to_thread
import msgspec
from msgspec.structs import replace

from modeldeck._errors import LlamaInstallingError
from modeldeck._settings import DEFAULT_ENDPOINT
from modeldeck._types import EngineLimits
from modeldeck.widget.publisher import Publisher
from modeldeck.widget.traits import DeckView, EngineMode, EngineView, LlamaView, Locale, MachineView

_INSTALLATION_SECONDS = 2.0


class DeckOwner:
    """Owns the trait ``_view``."""

    def __init__(
        self, publisher: Publisher, *, endpoint: str, n_ctx: int, locale: Locale | None, comm_id: str | None
    ) -> None:
        self._publisher = publisher
        self.view = DeckView(
            comm_id=comm_id,
            endpoint=endpoint,
            is_default_endpoint=endpoint == DEFAULT_ENDPOINT,
            n_ctx=n_ctx,
            locale=locale,
        )

    def set_n_ctx(self, n_ctx: int) -> None:
        """Judge and load models for another context length in tokens."""
        self._show(replace(self.view, n_ctx=n_ctx))

    def set_engine(self, mode: EngineMode, notice: str | None) -> None:
        """Show where downloads run."""
        self._show(replace(self.view, engine=EngineView(mode=mode, notice=notice, limits=self.view.engine.limits)))

    def set_limits(self, limits: EngineLimits) -> None:
        """Show what all downloads together may use."""
        self._show(replace(self.view, engine=replace(self.view.engine, limits=limits)))

    async def look_at_machine(self) -> None:
        """Measure the memory, and look for llama-cpp-python."""
        from modeldeck.llama import availability
        from modeldeck.sizing.hardware import probe_hardware

        hardware = await anyio.to_thread.run_sync(probe_hardware)
        self._show(
            replace(
                self.view,
                hardware=msgspec.convert(hardware, MachineView, from_attributes=True),
                llama=msgspec.convert(availability(), LlamaView, from_attributes=True),
            )
        )

    async def follow_machine(self) -> None:
        """Measure the memory, and show how the installation of llama-cpp-python proceeds until it has ended."""
        await self.look_at_machine()
        while self.view.llama.code == LlamaInstallingError.code:
            await anyio.sleep(_INSTALLATION_SECONDS)
            await self.look_at_machine()

    def _show(self, view: DeckView) -> None:
        self.view = view
        self._publisher.publish("view", view)
