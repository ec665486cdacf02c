"""The tree of errors. Each class has a ``code``, which is its name in JSON, and a message that says what to do next.

::

    ModelDeckError
    ├── InvalidRequestError         invalid_request
    ├── HubError                    hub
    │   ├── RepoNotFoundError       repo_not_found
    │   ├── RevisionNotFoundError   revision_not_found
    │   ├── RemoteFileNotFoundError file_not_found
    │   ├── AmbiguousVariantError   ambiguous_variant   (choices)
    │   ├── UnauthorizedError       unauthorized
    │   ├── GatedError              gated               (url)
    │   ├── RateLimitedError        rate_limited        (retry_after_seconds)
    │   └── ServerError             server_error        (status_code)
    ├── NetworkError                network
    │   ├── OfflineError            offline
    │   ├── NetworkTimeoutError     timeout
    │   ├── TLSError                tls
    │   ├── ProxyError              proxy
    │   └── StalledError            stalled
    ├── StorageError                storage
    │   ├── DiskFullError           disk_full           (needed_bytes, free_bytes)
    │   └── PermissionDeniedError   permission_denied
    ├── IntegrityError              integrity           (expected, actual)
    ├── ContentChangedError         content_changed
    ├── LockError                   lock                (differences)
    ├── DownloadCancelledError      cancelled
    ├── GGUFError                   not_gguf
    ├── DoesNotFitError             does_not_fit        (needed_bytes, available_bytes)
    ├── LoadFailedError             load_failed
    ├── LoadCancelledError          load_cancelled
    ├── LlamaMissingError           llama_missing
    │   └── LlamaInstallingError    llama_installing    (remaining_seconds)
    ├── LlamaCrashedError           llama_crashed
    ├── ModelUnloadedError          model_unloaded
    ├── GenerationCancelledError    generation_cancelled
    ├── ChatTemplateError           chat_template
    ├── NoFrontEndError             no_front_end
    ├── EngineLostError             engine_lost
    ├── ProtocolError               protocol
    ├── ClusterError                cluster
    ├── PeersLostError              peers_lost
    ├── WorkersLostError            workers_lost
    └── PromptKilledWorkerError     prompt_killed_worker (index, workers)
"""

from __future__ import annotations

import sys
from typing import Any, ClassVar

from modeldeck._types import ErrorInfo

_CLASS_BY_CODE: dict[str, type[ModelDeckError]] = {}


class ModelDeckError(Exception):
    """The base class of every error that modeldeck raises.

    Catch it to handle any failure of modeldeck. Its message tells you what to do next.

    Parameters
    ----------
    message : str
        What happened and what to do next, in one or two sentences.
    **details : Any
        JSON values that a program may need, such as ``url`` or ``choices``. Each is also an attribute of the error.

    Attributes
    ----------
    code : str
        The name of the error in JSON, such as ``"disk_full"``. It stays the same from version to version.
    message : str
        What happened and what to do next.
    details : dict[str, Any]
        The values that belong to this error. The page of each class lists the ones it has.

    Examples
    --------
    >>> import modeldeck
    >>> try:
    ...     modeldeck.search("qwen3", limit=1000)
    ... except modeldeck.ModelDeckError as error:
    ...     print(error.code, "-", error.message)
    invalid_request - limit must be between 1 and 100.
    """

    __module__ = "modeldeck"  # where everybody finds it, and what a traceback should say

    code: ClassVar[str] = "error"

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.details = details
        self._was_shown = False

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if cls.__module__ == __name__:
            cls.__module__ = ModelDeckError.__module__
        if "code" in cls.__dict__:
            _CLASS_BY_CODE[cls.code] = cls

    def __getattr__(self, name: str) -> Any:
        details = self.__dict__.get("details", {})
        if name in details:
            return details[name]
        raise AttributeError(name)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.message, self.details)

    def _render_traceback_(self) -> list[str]:
        """Return what IPython shows of this error: the message, and with ``%tb`` the whole traceback."""
        if self._was_shown:
            lines: list[str] = (
                sys.modules["IPython"]
                .get_ipython()
                .InteractiveTB.structured_traceback(type(self), self, self.__traceback__)
            )
            return lines
        self._was_shown = True
        return [f"{type(self).__name__}: {self.message}", "(%tb shows the traceback.)"]

    def to_info(self) -> ErrorInfo:
        """Return the error as plain data, as the widget, the engine's clients and ``--json`` receive it.

        Returns
        -------
        ErrorInfo
            The code, the message and the details.

        Examples
        --------
        >>> modeldeck.InvalidRequestError("Give a limit.").to_info().code
        'invalid_request'
        """
        return ErrorInfo(code=self.code, message=self.message, details=dict(self.details))


def _rebuild(cls: type[ModelDeckError], message: str, details: dict[str, Any]) -> ModelDeckError:
    return cls(message, **details)


def error_from_info(info: ErrorInfo) -> ModelDeckError:
    """Make the exception again from its `ErrorInfo`; a code that this version does not know gives the base class."""
    return _CLASS_BY_CODE.get(info.code, ModelDeckError)(info.message, **info.details)


def error_codes() -> tuple[str, ...]:
    """Return the code of every class of errors, in the order of the alphabet."""
    return tuple(sorted({ModelDeckError.code, *_CLASS_BY_CODE}))


class InvalidRequestError(ModelDeckError):
    """A value that the caller gave cannot be right, such as a malformed repository id or an unknown option.

    Correct the value that the message names. Nothing was sent to the Hub.
    """

    code = "invalid_request"


class HubError(ModelDeckError):
    """The Hub answered and refused the request.

    Each subclass says why, and what to do.
    """

    code = "hub"


class RepoNotFoundError(HubError):
    """The Hub has no repository with this name, or this token may not see it.

    Check the spelling of ``owner/name``. For a private repository, use a token that can read it.
    """

    code = "repo_not_found"


class RevisionNotFoundError(HubError):
    """The repository has no branch, tag or commit with this name.

    Use ``"main"``, or copy the revision from the repository's page on the Hub.
    """

    code = "revision_not_found"


class RemoteFileNotFoundError(HubError):
    """Nothing matches the variant, the file name or the local model that was asked for.

    Choose one of the names that the message lists. `describe` lists the variants on the Hub, `local_models` those on
    this machine.
    """

    code = "file_not_found"


class AmbiguousVariantError(HubError):
    """The label matches several variants, so modeldeck does not guess.

    Use one of ``choices`` instead of the label.

    Attributes
    ----------
    choices : list[str]
        The ``variant_id`` of each variant that matches.
    """

    code = "ambiguous_variant"


class UnauthorizedError(HubError):
    """The Hub did not accept the token, or needs one and received none.

    Log in with ``hf auth login`` or set ``HF_TOKEN``. A token without spaces that can read the repository is enough.
    """

    code = "unauthorized"


class GatedError(HubError):
    """The owner of the repository asks everyone to accept a licence or to request access first.

    Open ``url`` in a browser, accept there, and try again with the token of the same account.

    Attributes
    ----------
    url : str
        The page of the repository on the Hub.
    """

    code = "gated"


class RateLimitedError(HubError):
    """The Hub received too many requests from this address or token.

    Wait, then try again. Requests with a token have a higher limit. A download waits and retries by itself.

    Attributes
    ----------
    retry_after_seconds : float
        Seconds to wait. It exists only if the Hub said so.
    """

    code = "rate_limited"


class ServerError(HubError):
    """The server failed, or its answer was not what the Hub's protocol says.

    Try again later. If you set ``HF_ENDPOINT``, check that it is the address of a Hub or of a mirror.

    Attributes
    ----------
    status_code : int
        The HTTP status. It exists only if there was one.
    """

    code = "server_error"


class NetworkError(ModelDeckError):
    """The server could not be reached, or the connection was lost.

    Each subclass says why, and what to do. A download keeps what it has received.
    """

    code = "network"


class OfflineError(NetworkError):
    """There is no connection to the server, or offline mode is on.

    Check the network. Unset ``HF_HUB_OFFLINE`` to leave offline mode. Models in the cache still load.
    """

    code = "offline"


class NetworkTimeoutError(NetworkError):
    """The server did not answer in time.

    Check the connection and try again.
    """

    code = "timeout"


class TLSError(NetworkError):
    """The secure connection failed, usually because the certificate is not trusted.

    If your network inspects traffic, set ``SSL_CERT_FILE`` to its certificate authority. Check the clock too.
    """

    code = "tls"


class ProxyError(NetworkError):
    """The proxy refused the request, or a proxy setting cannot be used.

    Check ``HTTPS_PROXY``, ``HTTP_PROXY``, ``ALL_PROXY`` and ``NO_PROXY``.
    """

    code = "proxy"


class StalledError(NetworkError):
    """The server stayed connected but sent almost no data, in several attempts.

    Check the connection or try again later. The download resumes from the last byte.
    """

    code = "stalled"


class StorageError(ModelDeckError):
    """The disk could not be read or written.

    Check the disk that holds the cache and that it is mounted, then try again.
    """

    code = "storage"


class DiskFullError(StorageError):
    """The disk of the cache does not have enough free space.

    Delete what you do not need, for example with `remove`, or set ``HF_HUB_CACHE`` to a larger disk. Then retry.

    Attributes
    ----------
    needed_bytes : int
        Bytes that the download still needs. It exists only if that is known.
    free_bytes : int
        Bytes that are free. It exists only if that is known.
    """

    code = "disk_full"


class PermissionDeniedError(StorageError):
    """The operating system does not allow reading or writing the cache.

    Ask the owner of the cache for access, or set ``HF_HUB_CACHE`` to a directory you own.
    """

    code = "permission_denied"


class IntegrityError(ModelDeckError):
    """The data is not what the Hub promised: its digest is different, also after a second try.

    Try again. If it fails again, the server or the disk is faulty. Such a file never gets its final name.

    Attributes
    ----------
    expected : str
        The digest that the Hub lists.
    actual : str
        The digest of the data.
    """

    code = "integrity"


class ContentChangedError(ModelDeckError):
    """The server no longer has the file that this download began with.

    Call `describe` again and start the download from there.
    """

    code = "content_changed"


class LockError(ModelDeckError):
    """A lock file cannot be used, or what it demands is not here or no longer on the Hub.

    The message says which. `sync` brings what is missing, and `lock` writes the file again.

    Attributes
    ----------
    differences : list[str]
        What differs, a sentence for each model. It exists only if the file could be read.
    """

    code = "lock"


class DownloadCancelledError(ModelDeckError):
    """The download that was waited for was cancelled, in this process or elsewhere.

    Start it again if you still want it.
    """

    code = "cancelled"


class GGUFError(ModelDeckError):
    """The file is not a GGUF file that llama.cpp can read, or it is damaged.

    Check the file with `verify`. A damaged one can be repaired with ``repair=True``.
    """

    code = "not_gguf"


class DoesNotFitError(ModelDeckError):
    """The model needs more memory than this machine has free.

    Choose a smaller variant or a smaller ``n_ctx``, or unload other models.

    Attributes
    ----------
    needed_bytes : int
        Memory that the model needs. It exists only when loading failed.
    available_bytes : int
        Memory that is free. It exists only when loading failed.
    """

    code = "does_not_fit"


class LoadFailedError(ModelDeckError):
    """llama.cpp could not load the model.

    The message holds the reason that llama.cpp gave. Correct the option it names, or check the file with `verify`.
    """

    code = "load_failed"


class LoadCancelledError(ModelDeckError):
    """Loading was cancelled, and its memory was given back.

    Load the model again if you still want it.
    """

    code = "load_cancelled"


class LlamaMissingError(ModelDeckError):
    """llama-cpp-python is not installed, or it cannot be imported.

    Install it with ``pip install "modeldeck[llama]"``. Everything but loading works without it.
    """

    code = "llama_missing"


class LlamaInstallingError(LlamaMissingError):
    """llama-cpp-python is being installed by another program.

    Load the model again when it is there. The process need not be restarted.

    Attributes
    ----------
    remaining_seconds : float or None
        How long this still takes, as an estimate.
    """

    code = "llama_installing"


class LlamaCrashedError(ModelDeckError):
    """llama.cpp met an internal error that would have ended the process. This model cannot be used any more.

    Load the model again. Its memory comes back when the process, or the notebook's kernel, restarts.

    Attributes
    ----------
    reason : str
        What llama.cpp reported.
    """

    code = "llama_crashed"


class ModelUnloadedError(ModelDeckError):
    """A `Llama` was used after it was unloaded.

    Load the model again.
    """

    code = "model_unloaded"


class GenerationCancelledError(ModelDeckError):
    """The generation ended early: it was cancelled, or another call on the same model began.

    The model can be used again at once. Read a stream to its end, or close it, before the next call.
    """

    code = "generation_cancelled"


class ChatTemplateError(ModelDeckError):
    """The chat template of the model is faulty, takes too long or produces too much text.

    Pass ``chat_format=`` when you load the model, or use `Llama.create_completion` with a prompt of your own.
    """

    code = "chat_template"


class NoFrontEndError(ModelDeckError):
    """The code waits for a click, but no notebook page shows the widget.

    Show the browser as the last line of a cell first, or use `load`, which needs no widget.
    """

    code = "no_front_end"


class EngineLostError(ModelDeckError):
    """The download engine cannot be started or does not answer.

    Run ``modeldeck engine stop`` and try again, or pass ``inline=True``. Downloaded data is kept.
    """

    code = "engine_lost"


class ProtocolError(ModelDeckError):
    """Two parts of modeldeck do not understand each other, usually because their versions differ.

    Restart the kernel and run ``modeldeck engine stop``, so that both parts are of one version.
    """

    code = "protocol"


class ClusterError(ModelDeckError):
    """The Dask cluster cannot do what was asked, for example because no worker has modeldeck.

    The message names the workers and says what they lack.
    """

    code = "cluster"


class PeersLostError(ModelDeckError):
    """No other host can send the file any more.

    Pull again. Received data is kept, and the pull finds another host, or the Hub.
    """

    code = "peers_lost"


class WorkersLostError(ModelDeckError):
    """All workers that had the model are gone, and no other has joined.

    Start workers, then map the prompts again.
    """

    code = "workers_lost"


class PromptKilledWorkerError(ModelDeckError):
    """A prompt ended its worker's process, and did so again on another worker.

    Leave the prompt out, or shorten it. The cluster and the other prompts are not affected.

    Attributes
    ----------
    index : int
        The position of the prompt in the list that was given.
    workers : list[str]
        The addresses of the workers that it ended.
    """

    code = "prompt_killed_worker"
