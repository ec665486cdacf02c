"""What people paste to name a model."""

import pytest

from modeldeck.hub.addresses import ModelAddress, model_address

ENDPOINT = "http://127.0.0.1:8000"
MIRROR = "https://mirror.example/api/hf"
PAGE = "https://huggingface.co/o/n"
COMMIT = "a" * 40


def named(selector: str | None = None, revision: str | None = None) -> ModelAddress:
    return ModelAddress(repo_id="o/n", selector=selector, revision=revision)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("o/n", named()),
        (" o/n\n", named()),
        ("o/n:Q4_K_M", named("Q4_K_M")),
        ("o/n:BF16/m-00001-of-00002.gguf", named("BF16/m-00001-of-00002.gguf")),
        ("o/n:", named("")),
        ("hf.co/o/n", named()),
        ("www.huggingface.co/o/n", named()),
        ("\ufeffo/n:Q4_K_M\u200b", named("Q4_K_M")),
        ("hf.co/o/n:Q4_K_M", named("Q4_K_M")),
        ("  HF.co/o/n:Q4_K_M ", named("Q4_K_M")),
        ("huggingface.co/o/n", named()),
        ("https://hf.co/o/n", named()),
        ("http://huggingface.co/o/n", named()),
        (PAGE, named()),
        (f"{PAGE}/", named()),
        (f"{PAGE}?local-app=llama.cpp", named()),
        (f"{PAGE}#usage", named()),
        (f"{PAGE}:Q4_K_M", named("Q4_K_M")),
        (f"{PAGE}/discussions/3", named()),
        (f"{PAGE}/tree/main", named(None, "main")),
        (f"{PAGE}/tree/main/BF16", named(None, "main")),
        (f"{PAGE}/tree/refs%2Fpr%2F1", named(None, "refs/pr/1")),
        (f"{PAGE}/blob/main/m-Q4_K_M.gguf", named("m-Q4_K_M.gguf", "main")),
        (f"{PAGE}/blob/main/BF16/m%20x.gguf?x=1", named("BF16/m x.gguf", "main")),
        (f"{PAGE}/resolve/main/m.gguf?download=true", named("m.gguf", "main")),
        (f"{PAGE}/resolve/{COMMIT}/m.gguf", named("m.gguf", COMMIT)),
        (f"{PAGE}/raw/v1/m.gguf", named("m.gguf", "v1")),
        (f"{PAGE}?show_file_info=m-Q4_K_M.gguf", named("m-Q4_K_M.gguf")),
        (f"{PAGE}/tree/main?show_file_info=BF16%2Fm.gguf", named("BF16/m.gguf", "main")),
        (f"{ENDPOINT}/o/n", named()),
        (f"{ENDPOINT}/o/n/resolve/main/m.gguf", named("m.gguf", "main")),
        ("127.0.0.1:8000/o/n:Q8_0", named("Q8_0")),
        ("hf://o/n", named()),
        ("hf://o/n:Q4_K_M", named("Q4_K_M")),
        ("hf://o/n/BF16/m.gguf", named("BF16/m.gguf")),
        ("hf://o/n@v1/m.gguf", named("m.gguf", "v1")),
        ("hf://o/n@refs%2Fpr%2F1", named(None, "refs/pr/1")),
        ("hf://o/n@refs/pr/1/m.gguf", named("m.gguf", "refs/pr/1")),
        ("hf://o/n@refs/pr/1", named(None, "refs/pr/1")),
        ("hf://o/n@refs/convert/gguf/BF16/m.gguf", named("BF16/m.gguf", "refs/convert/gguf")),
        ("hf://o/n@refs/pr/1:Q8_0", named("Q8_0", "refs/pr/1")),
        ("hf://o/n@refs/m.gguf", named("m.gguf", "refs")),
        ("hf://models/o/n", named()),
    ],
)
def test_a_name_or_an_address_names_a_model(text: str, address: ModelAddress) -> None:
    assert model_address(text, ENDPOINT) == address


@pytest.mark.parametrize(
    "text",
    [
        "",
        "qwen 3",
        "gpt2",
        "a/b/c",
        "/etc/passwd",
        "./o/n",
        "C:\\models\\m.gguf",
        "o/n--x",
        "hf.co",
        "hf://",
        "hf://datasets/o/n",
        "https://huggingface.co",
        "https://huggingface.co/o",
        "https://huggingface.co//x",
        "https://huggingface.co/models?search=qwen",
        "https://huggingface.co/datasets/o/n",
        "https://huggingface.co/spaces/o/n",
        "https://huggingface.co/collections/o/n-1",
        "https://huggingface.co:8443/o/n",
        "https://huggingface.co.evil.example/o/n",
        "https://elsewhere.example/o/n",
        "ftp://huggingface.co/o/n",
        "https://huggingface.co\\@elsewhere.example/o/n",
        "https://[",
        "https://xn--a",
        "https://xn--zzzzzz.com/a/b",
        "xn--a/b/c",
        "https://huggingface.co/\ud800/n",
    ],
)
def test_any_other_text_names_none(text: str) -> None:
    assert model_address(text, ENDPOINT) is None


@pytest.mark.parametrize(
    ("text", "address"),
    [
        (f"{MIRROR}/o/n", named()),
        (f"{MIRROR}/o/n/blob/main/m.gguf", named("m.gguf", "main")),
        ("mirror.example/api/hf/o/n:Q8_0", named("Q8_0")),
        (f"{PAGE}/blob/main/m.gguf", named("m.gguf", "main")),
        ("https://mirror.example/o/n", None),
        ("https://mirror.example/api/hfx/o/n", None),
    ],
)
def test_an_endpoint_with_a_path_has_its_models_below_it(text: str, address: ModelAddress | None) -> None:
    assert model_address(text, MIRROR) == address
