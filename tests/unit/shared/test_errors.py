import pytest

from shared.errors import InvalidInputError, StoreUnavailableError, code_of


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (StoreUnavailableError("No answer."), "store_unavailable"),
        (InvalidInputError("Not so.", code="policy_invalid"), "policy_invalid"),
        (KeyError("nobody foresaw it"), "internal"),
    ],
)
def test_every_error_has_a_code_that_is_told_without_details(error: Exception, code: str) -> None:
    assert code_of(error) == code
