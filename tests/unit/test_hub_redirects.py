"""Redirects and next pages stay at the user's own endpoint."""

import pytest

from modeldeck.hub.redirects import next_page, redirect_target

ENDPOINT = "https://hub.example"
MIRROR = "https://mirror.example/api/hf"
FILE = "resolve/main/m.gguf"
INFO = "/api/models/o/n/revision/main"
SMALL = f"/api/resolve-cache/models/o/n/{'a' * 40}/a%20b?x"


@pytest.mark.parametrize(
    ("endpoint", "asked", "location", "target"),
    [
        # A Hub at the root of its origin: an address is what it says.
        (ENDPOINT, "/api/models/old/revision/main", INFO, f"{ENDPOINT}{INFO}"),
        (ENDPOINT, f"/old/{FILE}", f"/o/n/{FILE}?x=%2F", f"{ENDPOINT}/o/n/{FILE}?x=%2F"),
        (ENDPOINT, f"/o/n/{FILE}", "https://cdn.example/a~b?Signature=s%2B", "https://cdn.example/a~b?Signature=s%2B"),
        (ENDPOINT, f"/o/n/{FILE}", "file:///etc/passwd", None),
        # A Hub below a path: a renamed repository and small files stay below it.
        (MIRROR, "/api/models/old/revision/main", INFO, f"{MIRROR}{INFO}"),
        (MIRROR, f"/old/{FILE}", f"/o/n/{FILE}", f"{MIRROR}/o/n/{FILE}"),
        (MIRROR, f"/o/n/{FILE}", f"/n/{FILE}", f"{MIRROR}/n/{FILE}"),
        (MIRROR, f"/o/n/{FILE}", SMALL, f"{MIRROR}{SMALL}"),
        (MIRROR, f"/old/{FILE}", f"{MIRROR}/o/n/{FILE}", f"{MIRROR}/o/n/{FILE}"),
        (MIRROR, f"/old/{FILE}", f"https://mirror.example/o/n/{FILE}", f"{MIRROR}/o/n/{FILE}"),
        (MIRROR, f"/old/{FILE}", f"https://huggingface.co/o/n/{FILE}", f"{MIRROR}/o/n/{FILE}"),
        # The mirror's own storage, storage elsewhere, and a mirror that sends a client to the public Hub.
        (MIRROR, f"/o/n/{FILE}", "/storage/blob/1", "https://mirror.example/storage/blob/1"),
        (MIRROR, f"/o/n/{FILE}", f"https://other.example/o/n/{FILE}", f"https://other.example/o/n/{FILE}"),
        (MIRROR, f"/o/n/{FILE}", f"https://huggingface.co/o/n/{FILE}", f"https://huggingface.co/o/n/{FILE}"),
    ],
)
def test_a_redirect_leads_to(endpoint: str, asked: str, location: str, target: str | None) -> None:
    assert redirect_target(f"{endpoint}{asked}", location, endpoint=endpoint) == target


@pytest.mark.parametrize("endpoint", [ENDPOINT, MIRROR, "http://127.0.0.1:8080/a/b"])
@pytest.mark.parametrize(
    "link",
    [
        "{endpoint}/api/models?cursor=a%3D&expand[]=gguf",
        "/api/models?cursor=a%3D&expand[]=gguf",
        "?cursor=a%3D&expand[]=gguf",
        "https://huggingface.co/api/models?cursor=a%3D&expand[]=gguf",
        "http://upstream.internal:8000/hub/api/models?cursor=a%3D&expand[]=gguf",
    ],
)
def test_the_next_page_is_at_the_endpoint(endpoint: str, link: str) -> None:
    first = f"{endpoint}/api/models?filter=gguf"
    page = next_page(first, link.format(endpoint=endpoint), first=first, endpoint=endpoint)
    assert page == f"{endpoint}/api/models?cursor=a%3D&expand[]=gguf"


@pytest.mark.parametrize(
    "link",
    ["/api/whoami", "https://huggingface.co/api/models/o/n", "file:///api/models", "http://[", "/models?cursor=1"],
)
def test_a_link_to_something_else_is_not_a_page(link: str) -> None:
    first = f"{MIRROR}/api/models?filter=gguf"
    assert next_page(first, link, first=first, endpoint=MIRROR) is None
