"""Grouping, labels and choices, over recorded repositories and hand-made corners."""

import json
from pathlib import Path

import pytest

from modeldeck._errors import AmbiguousVariantError, RemoteFileNotFoundError
from modeldeck._types import GGUFFile
from modeldeck.gguf.names import (
    Grouping,
    find_variant,
    group_variants,
    has_quantization,
    label_of,
    quantization_of,
)

DATA = Path(__file__).parents[1] / "data"
RULES = json.loads((DATA / "naming/hfjs-quant-rules.json").read_text())


def recorded_repositories() -> dict[str, list[str]]:
    repositories: dict[str, list[str]] = json.loads((DATA / "naming/real-gguf-paths.json").read_text())
    for path in sorted((DATA / "repos").glob("*.json")):
        record = json.loads(path.read_text())
        repositories[f"repos:{record['id']}"] = [file["path"] for file in record["gguf_files"]]
    return repositories


REPOSITORIES = recorded_repositories()


def files(*names: str, size: int | None = None) -> list[GGUFFile]:
    return [GGUFFile(filename=name, size=size) for name in names]


def ids(grouping: Grouping) -> list[str]:
    return [each.variant_id for each in grouping.variants]


def sidecar_names(grouping: Grouping) -> dict[str, list[str]]:
    return {each.variant_id: [sidecar.file.filename for sidecar in each.sidecars] for each in grouping.variants}


@pytest.mark.parametrize(("path", "expected"), RULES["spec_vectors"])
def test_huggingface_js_vectors(path: str, expected: str | None) -> None:
    assert quantization_of(path) == expected


@pytest.mark.parametrize(("path", "groups"), RULES["spec_group_vectors"])
def test_huggingface_js_group_vectors(path: str, groups: dict[str, str]) -> None:
    variation = f"_{groups['sizeVariation']}" if "sizeVariation" in groups else ""
    assert label_of(path) == groups.get("prefix", "") + groups["quant"] + variation


@pytest.mark.parametrize(
    ("path", "label", "quantization"),
    [
        ("Llama-Q4_0_4_4.gguf", "Q4_0_4_4", "Q4_0"),
        ("Qwen3-14B.fp16.gguf", "fp16", "F16"),
        ("fp16/qwq-32b-fp16-00001-of-00017.gguf", "fp16", "F16"),
        ("model-Q4_K_L.gguf", "Q4_K_L", "Q4_K_L"),
        ("GLM-4.7-Flash-Q4_K.gguf", "Q4_K", "Q4_K"),
        ("model.Q6.gguf", "Q6", "Q6"),
        ("DeepSeek-R1-0528-IQ4_KS_R4-00001-of-00009.gguf", "IQ4_KS_R4", "IQ4_KS_R4"),
        ("model-IQ5_KS.gguf", "IQ5_KS", "IQ5_KS"),
        ("model-IQ4_KSS.gguf", "IQ4_KSS", "IQ4_KSS"),
        ("model-Q4_K_M-fp16.gguf", "Q4_K_M", "Q4_K_M"),
        ("qwen2.5-3b-instruct-q4_k_m.gguf", "Q4_K_M", "Q4_K_M"),
        ("gemma-4-26B_q4_0-it.gguf", "Q4_0", "Q4_0"),
        ("foo_Q4_K_M_v2.gguf", "Q4_K_M", "Q4_K_M"),
        ("Model.i1-IQ3_XXS.gguf", "IQ3_XXS", "IQ3_XXS"),
        ("Q5_K_M/model-00001-of-00002.gguf", "Q5_K_M", "Q5_K_M"),
        ("Yi-34B-GPTQ4.gguf", None, None),
        ("stories15M.gguf", None, None),
    ],
)
def test_spellings_huggingface_js_misses(path: str, label: str | None, quantization: str | None) -> None:
    assert label_of(path) == label
    assert quantization_of(path) == quantization


def test_every_recorded_file_has_exactly_one_place() -> None:
    for repo_id, names in REPOSITORIES.items():
        grouping = group_variants(files(*names))
        own = [file.filename for each in grouping.variants for file in each.files]
        paired = {sidecar.file.filename for each in grouping.variants for sidecar in each.sidecars}
        unpaired = [sidecar.file.filename for sidecar in grouping.sidecars]
        others = [file.filename for file in grouping.others]
        assert sorted([*own, *paired, *unpaired, *others]) == sorted(set(names)), repo_id
        assert len({each.variant_id for each in grouping.variants}) == len(grouping.variants), repo_id


def test_nearly_every_recorded_model_file_has_a_label() -> None:
    model_files = [
        (file.filename, each.quantization)
        for names in REPOSITORIES.values()
        for each in group_variants(files(*names)).variants
        for file in each.files
    ]
    unlabelled = [name for name, quantization in model_files if quantization is None]
    assert len(unlabelled) <= len(model_files) / 100, unlabelled
    assert len(model_files) > 5000


def test_every_recorded_repository_has_a_variant_and_its_projectors_are_paired() -> None:
    for repo_id, names in REPOSITORIES.items():
        grouping = group_variants(files(*names))
        assert grouping.variants, repo_id
        if any("mmproj" in name for name in names):
            assert all(len(each.sidecars) == 1 for each in grouping.variants), repo_id
        for each in grouping.variants:
            text = each.variant_id.lower()
            assert not any(word in text for word in ("mmproj", "imatrix", "mtp/", "/._")), text


def test_shards_are_one_variant_in_order() -> None:
    grouping = group_variants(
        files("BF16/m-BF16-00002-of-00003.gguf", "BF16/m-BF16-00001-of-00003.gguf", "BF16/m-BF16-00003-of-00003.gguf")
    )
    [only] = grouping.variants
    assert only.variant_id == "BF16/m-BF16-00001-of-00003.gguf"
    assert [file.filename[-22:-14] for file in only.files] == ["16-00001", "16-00002", "16-00003"]
    assert only.label == "BF16"


def test_shards_with_missing_parts_are_no_variant() -> None:
    grouping = group_variants(files("m-Q8_0-00001-of-00003.gguf", "m-Q8_0-00003-of-00003.gguf", "m-Q4_0.gguf"))
    assert ids(grouping) == ["m-Q4_0.gguf"]
    [family] = grouping.incomplete
    assert (family.prefix, family.total, len(family.files)) == ("m-Q8_0", 3, 2)
    assert [file.filename for file in grouping.others] == [file.filename for file in family.files]


@pytest.mark.parametrize("name", ["m-00000-of-00001.gguf", "m-00002-of-00001.gguf", "m-00001-of-00000.gguf"])
def test_impossible_shard_numbers_are_no_variant(name: str) -> None:
    grouping = group_variants(files(name))
    assert not grouping.variants
    assert [file.filename for file in grouping.others] == [name]


def test_one_label_twice_stays_two_variants() -> None:
    grouping = group_variants(files("LFM2-Q4_0.gguf", "LFM2-QAD-Q4_0.gguf"))
    assert ids(grouping) == ["LFM2-Q4_0.gguf", "LFM2-QAD-Q4_0.gguf"]
    assert {each.label for each in grouping.variants} == {"Q4_0"}


def test_a_projector_is_paired_f16_first() -> None:
    grouping = group_variants(files("m-Q4_K_M.gguf", "mmproj-BF16.gguf", "mmproj-F16.gguf", "mmproj-F32.gguf"))
    assert sidecar_names(grouping) == {"m-Q4_K_M.gguf": ["mmproj-F16.gguf"]}
    assert [each.file.filename for each in grouping.sidecars] == ["mmproj-BF16.gguf", "mmproj-F32.gguf"]


def test_a_projector_of_a_shorter_name_serves_all_its_models() -> None:
    grouping = group_variants(
        files("Qwen3.8-27B-AD-Q5_K_M.gguf", "Qwen3.8-27B-Q4_0.gguf", "mmproj-Qwen3.8-27B-F16.gguf")
    )
    assert all(sidecar_names(grouping).values())


def test_each_model_gets_the_projector_of_its_name_or_folder() -> None:
    grouping = group_variants(
        files(
            "a-2b-Q4_0.gguf", "mmproj-a-2b-F16.gguf", "b-4b-Q4_0.gguf", "mmproj-b-4b-BF16.gguf",
            "x/c-Q8_0.gguf", "x/mmproj-F32.gguf", "y/d-Q8_0.gguf", "y/mmproj-F16.gguf",
        )
    )  # fmt: skip
    assert sidecar_names(grouping) == {
        "a-2b-Q4_0.gguf": ["mmproj-a-2b-F16.gguf"],
        "b-4b-Q4_0.gguf": ["mmproj-b-4b-BF16.gguf"],
        "x/c-Q8_0.gguf": ["x/mmproj-F32.gguf"],
        "y/d-Q8_0.gguf": ["y/mmproj-F16.gguf"],
    }


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("mtp-gemma-4-E4B-it.gguf", "drafter"),
        ("MTP/mtp-Qwen-Q4_0.gguf", "drafter"),
        ("eagle3-gpt-oss-20b-BF16.gguf", "drafter"),
        ("dflash-kquant.gguf", "drafter"),
        ("model-dspark-Q8_0.gguf", "drafter"),
        ("imatrix_unsloth.gguf", "imatrix"),
        ("model-imatrix.gguf", "imatrix"),
        ("model.imatrix", "imatrix"),
        ("imatrix_unsloth.gguf_file", "imatrix"),
        ("my-lora-f16.gguf", "adapter"),
        ("adapter-model.gguf", "adapter"),
        ("model.mmproj-Q8_0.gguf", "mmproj"),
        ("mmproj/vision.gguf", "mmproj"),
    ],
)
def test_sidecars_are_told_from_models(name: str, kind: str) -> None:
    grouping = group_variants(files("model-Q4_K_M.gguf", name))
    assert ids(grouping) == ["model-Q4_K_M.gguf"]
    found = [each.kind for each in (*grouping.sidecars, *grouping.variants[0].sidecars)]
    assert found == [kind]


def test_a_word_in_the_name_does_not_empty_a_repository() -> None:
    assert ids(group_variants(files("Qwen3-4B-DFlash.Q8_0.gguf"))) == ["Qwen3-4B-DFlash.Q8_0.gguf"]
    assert ids(group_variants(files("Hermes-LoRA-merged.Q4_0.gguf"))) == ["Hermes-LoRA-merged.Q4_0.gguf"]


def test_files_no_one_can_load_here_are_others() -> None:
    names = [
        "README.md", "._m-Q4_0.gguf", "m-be-Q4_0.gguf", "m-f16-big-endian.gguf", "vocoder-m-F16.gguf", "m.gguf-split-a"
    ]  # fmt: skip
    grouping = group_variants(files("m-Q4_0.gguf", *names))
    assert ids(grouping) == ["m-Q4_0.gguf"]
    assert [file.filename for file in grouping.others] == names


def test_be_may_be_a_word() -> None:
    assert ids(group_variants(files("to-be-or-not-Q4_0.gguf"))) == ["to-be-or-not-Q4_0.gguf"]


def test_variants_are_sorted_by_quality() -> None:
    labels = ["F32", "BF16", "Q8_0", "Q6_K_L", "Q6_K", "Q5_K_L", "UD-Q4_K_XL", "UD-Q4_K_M", "Q4_K_M", "IQ4_XS", "IQ1_S"]
    names = [f"m-{label}.gguf" for label in labels]
    assert ids(group_variants(files(*reversed(names), size=1))) == names


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ({"m.gguf": 5, "m-Q8_0.gguf": 9, "m-Q4_0.gguf": 4}, ["m-Q8_0.gguf", "m.gguf", "m-Q4_0.gguf"]),
        ({"small.gguf": 1, "large.gguf": 9, "middle.gguf": 5}, ["large.gguf", "middle.gguf", "small.gguf"]),
        ({"m-Q4_0.gguf": 4, "full.gguf": 16, "tiny.gguf": 1}, ["full.gguf", "m-Q4_0.gguf", "tiny.gguf"]),
        ({"m-fp16.gguf": 16, "m-Q8_0.gguf": 8}, ["m-fp16.gguf", "m-Q8_0.gguf"]),
    ],
)
def test_variants_without_a_known_label_are_placed_by_size(sizes: dict[str, int], expected: list[str]) -> None:
    listed = [GGUFFile(filename=name, size=size) for name, size in sizes.items()]
    assert ids(group_variants(listed)) == expected


def test_order_agrees_with_huggingface_js_where_it_follows_the_width() -> None:
    # Left out: old formats, where huggingface.js ranks Q4_0 above Q4_1, and its F16 above Q4_1_SOME_F16.
    contested = {"Q5_0", "Q5_1", "Q4_0", "Q4_1", "Q4_0_4_4", "Q4_0_4_8", "Q4_0_8_8", "Q4_1_SOME_F16", "Q4_2", "Q4_3",
                 "IQ1_M", "TQ2_0"}  # fmt: skip
    expected = [label for label in RULES["GGUF_QUANT_ORDER_biggest_first"] if label not in contested]
    assert [
        each.label for each in group_variants(files(*(f"m-{label}.gguf" for label in expected))).variants
    ] == expected


def test_find_by_id_filename_label_and_end_of_name() -> None:
    variants = group_variants(
        files("sub/m-Q4_K_M.gguf", "m-UD-Q4_K_XL.gguf", "m-Q8_0-00001-of-00002.gguf", "m-Q8_0-00002-of-00002.gguf",
              "m-fp16.gguf", "m-QAD-Q4_0.gguf", "m-Q4_0.gguf")
    ).variants  # fmt: skip

    def found(selector: str) -> str:
        return find_variant(variants, selector).variant_id

    assert found("sub/m-Q4_K_M.gguf") == "sub/m-Q4_K_M.gguf"
    assert found("m-q4_k_m.GGUF") == "sub/m-Q4_K_M.gguf"
    assert found("m-Q4_K_M") == "sub/m-Q4_K_M.gguf"
    assert found("q4_k_m") == "sub/m-Q4_K_M.gguf"
    assert found("Q4_K_XL") == "m-UD-Q4_K_XL.gguf"
    assert found("m-Q8_0-00002-of-00002.gguf") == "m-Q8_0-00001-of-00002.gguf"
    assert found("F16") == found("fp16") == "m-fp16.gguf"
    assert found("QAD-Q4_0") == "m-QAD-Q4_0.gguf"
    with pytest.raises(AmbiguousVariantError) as caught:
        found("Q4_0")
    assert sorted(caught.value.choices) == ["m-Q4_0.gguf", "m-QAD-Q4_0.gguf"]


def test_a_repacked_file_does_not_make_its_plain_twin_ambiguous() -> None:
    variants = group_variants(files("m-Q4_0.gguf", "m-Q4_0_4_4.gguf")).variants
    assert find_variant(variants, "Q4_0").variant_id == "m-Q4_0.gguf"


def test_an_exact_name_is_never_ambiguous() -> None:
    variants = group_variants(files("m-Q4_0.gguf", "m-q4_0.gguf")).variants
    for variant in variants:
        assert find_variant(variants, variant.variant_id) is variant


def test_not_found_says_what_there_is() -> None:
    with pytest.raises(RemoteFileNotFoundError, match="Choose one of: Q8_0, Q4_0"):
        find_variant(group_variants(files("m-Q4_0.gguf", "m-Q8_0.gguf")).variants, "Q5_K_M")
    with pytest.raises(RemoteFileNotFoundError, match="no complete GGUF model"):
        find_variant((), "Q5_K_M")


@pytest.mark.parametrize(
    ("filenames", "quantization", "has_it"),
    [
        (("m-Q4_K_M.gguf", "README.md"), "Q4_K_M", True),
        (("m-q4_k_m.gguf",), "q4_k_m", True),
        (("m-fp16.gguf",), "F16", True),
        (("m-Q4_K_S.gguf", "Q4_K_M.txt"), "Q4_K_M", False),
        (("mmproj-F16.gguf", "m-Q8_0.gguf"), "F16", False),
        ((), "F16", False),
    ],
)
def test_a_repository_has_a_quantization_if_a_model_of_it_has(
    filenames: tuple[str, ...], quantization: str, has_it: bool
) -> None:
    assert has_quantization(filenames, quantization) is has_it
