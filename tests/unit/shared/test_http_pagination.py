"""Cursors: ours are read, all others are refused by name."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import InvalidInputError
from shared.http.pagination import page, read_cursor, write_cursor
from tests.contract.stores import START, Card


@given(
    value=st.none() | st.integers(-(2**62), 2**62) | st.text("aé𝄞\0", max_size=9), last=st.text()
)
def test_a_cursor_comes_back_as_it_was(value: str | int | None, last: str) -> None:
    assert read_cursor(write_cursor(value, last)) == (value, last)


def encoded(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    "cursor",
    [
        "",
        "!",
        "é",
        "YQ",
        encoded("{}"),
        encoded('{"a":1,"b":2}'),
        encoded('"ab"'),
        encoded("[1]"),
        encoded('["a","b","c"]'),
        encoded("[1,2]"),
        encoded('[[],"a"]'),
        encoded('[NaN,"a"]'),
        encoded('[Infinity,"a"]'),
        encoded('["\\ud800","a"]'),
        encoded('["a","\\ud800"]'),
        encoded(f'[{2**64 - 1},"a"]'),
        encoded("[" * 200),
        base64.urlsafe_b64encode(b"\xff\xfe").decode(),
    ],
)
def test_a_cursor_that_we_never_gave_is_refused(cursor: str) -> None:
    with pytest.raises(InvalidInputError) as refusal:
        read_cursor(cursor)
    assert (refusal.value.field, refusal.value.code) == ("cursor", "bad_cursor")


@given(st.text(max_size=60) | st.binary(max_size=40).map(lambda b: base64.b64encode(b).decode()))
def test_any_cursor_is_read_or_refused(cursor: str) -> None:
    try:
        read_cursor(cursor)
    except InvalidInputError:
        return


def test_only_a_page_that_has_a_next_one_has_a_cursor() -> None:
    cards = [Card(id=str(number), due=START) for number in range(3)]
    full = page(cards, 2, lambda card: card, order_by="due")
    assert [card.id for card in full.items] == ["0", "1"]
    assert read_cursor(full.next_cursor) == ("2026-01-05T08:00:00.000000Z", "1")
    assert page(cards, 3, lambda card: card).next_cursor is None
    assert read_cursor(None) is None
