"""The filters of ``modeldeck search`` as they are typed."""

import pytest

from modeldeck.cli.arguments import make_parser


@pytest.mark.parametrize(
    ("typed", "count"),
    [("9B", 9 * 10**9), ("1.5b", 1_500_000_000), ("500M", 5 * 10**8), ("100", 100), ("2T", 2 * 10**12)],
)
def test_a_number_of_weights_may_have_a_unit(typed: str, count: int) -> None:
    arguments = make_parser().parse_args(["search", "--min-parameters", typed, "--max-parameters", typed])
    assert (arguments.min_parameters, arguments.max_parameters) == (count, count)


@pytest.mark.parametrize("typed", ["", "B", "-1B", "9 billion", "nan", "infB"])
def test_anything_else_is_told(typed: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        make_parser().parse_args(["search", f"--max-parameters={typed}"])
    assert "is not a number of weights" in capsys.readouterr().err


@pytest.mark.parametrize(("typed", "gated"), [([], None), (["--gated"], True), (["--no-gated"], False)])
def test_gated_models_can_be_wanted_unwanted_or_either(typed: list[str], gated: bool | None) -> None:
    assert make_parser().parse_args(["search", *typed]).gated is gated
