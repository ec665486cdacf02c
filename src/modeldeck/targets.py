"""The names of models that the API and the command take, told apart from the paths of files."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from modeldeck._errors import InvalidRequestError

if TYPE_CHECKING:
    from modeldeck.hub.addresses import ModelAddress


def parse_target(target: str, variant: str | None = None, *, endpoint: str) -> ModelAddress:
    """Return the repository that a target names, with the variant and the revision if it names them.

    Parameters
    ----------
    target : str
        ``"owner/name"``, ``"owner/name:LABEL"``, or an address of it: see `modeldeck.hub.addresses.model_address`.
    variant : str, optional
        A variant that is given beside the target.
    endpoint : str
        The address of the Hub in use.

    Raises
    ------
    InvalidRequestError
        When the target does not name a repository, or a variant other than the one beside it.
    """
    from modeldeck.hub.addresses import ModelAddress, is_web_address, model_address
    from modeldeck.hub.urls import check_repo_id

    if not isinstance(target, str):
        raise InvalidRequestError(f"A repository is named by a text such as 'OWNER/NAME:LABEL', not by {target!r}.")
    address = model_address(target, endpoint)
    if address is None and is_web_address(target):
        raise InvalidRequestError(
            f"{target!r} is not the address of a model at {endpoint} or https://huggingface.co. Give the repository as "
            "OWNER/NAME, and a file of it as OWNER/NAME:FILENAME."
        )
    if address is None:
        return ModelAddress(repo_id=check_repo_id(target.strip()), selector=variant)
    if address.selector == "":
        raise InvalidRequestError(f"{target!r} ends with a colon. Write OWNER/NAME or OWNER/NAME:LABEL.")
    if variant is None or variant == address.selector:
        return address
    if address.selector is not None:
        raise InvalidRequestError(
            f"{target!r} already names the variant {address.selector!r}. Leave out the variant {variant!r}."
        )
    return ModelAddress(repo_id=address.repo_id, selector=variant, revision=address.revision)


def names_model(text: str, *, endpoint: str) -> bool:
    """Return whether a text has the form of a repository's name or of an address, and not only that of a path."""
    from modeldeck.hub.addresses import is_web_address, model_address

    return is_web_address(text) or model_address(text, endpoint) is not None


def is_like_path(text: str) -> bool:
    """Return whether a repository's name, such as ``folder/model.gguf``, may also be meant as the path of a file."""
    return ":" not in text and text.count("/") == 1 and text.strip().endswith(".gguf")


def is_target(text: str, *, endpoint: str) -> bool:
    """Return whether a text names a repository, and not the path of a file.

    A file that exists is a file. ``folder/model.gguf`` is the path of a missing file where there is such a folder.
    """
    if os.path.isfile(text) or not names_model(text, endpoint=endpoint):
        return False
    return not (is_like_path(text) and os.path.isdir(os.path.dirname(text)))
