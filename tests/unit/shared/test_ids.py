"""Identifiers."""

import re

from hypothesis import given
from hypothesis import strategies as st

from shared.ids import derived_id, keyed_id, new_event_id

parts = st.lists(st.text(max_size=8), max_size=4)
# Few characters, with digits, colons and separators, so that lists which might read alike come up.
tricky = st.lists(st.text("a1:\x1f", max_size=4), max_size=4)


def test_event_ids_are_distinct_uuid7() -> None:
    ids = [new_event_id() for _ in range(1000)]

    assert len(set(ids)) == 1000
    pattern = r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
    assert all(re.fullmatch(pattern, each) for each in ids)


def test_a_derived_id_is_the_same_in_every_release() -> None:
    # Stored documents carry these: another value would make every aggregate a second time.
    assert derived_id("p", "program", "person") == "p_w4mv5kov6pljn3v7r2feevmku3"
    assert keyed_id(b"key", "p", "program", "person") == "p_frkz35plxkqvtptqglit73gx5v"


@given(parts)
def test_the_same_parts_give_the_same_id(names: list[str]) -> None:
    assert derived_id("p", *names) == derived_id("p", *names)
    assert keyed_id(b"key", "p", *names) == keyed_id(b"key", "p", *names)


@given(tricky, tricky)
def test_other_parts_give_another_id(one: list[str], other: list[str]) -> None:
    assert (derived_id("p", *one) == derived_id("p", *other)) == (one == other)
    assert (keyed_id(b"key", "p", *one) == keyed_id(b"key", "p", *other)) == (one == other)


def test_a_part_cannot_pose_as_two() -> None:
    assert derived_id("p", "a\x1fb") != derived_id("p", "a", "b")
    assert derived_id("p", "a1:b") != derived_id("p", "a", "b")


@given(parts)
def test_another_prefix_is_another_thing(names: list[str]) -> None:
    person, pair = derived_id("p", *names), derived_id("pr", *names)

    assert person.removeprefix("p_") != pair.removeprefix("pr_")


@given(st.binary(min_size=1), st.binary(min_size=1), parts)
def test_a_keyed_id_differs_by_key(one: bytes, other: bytes, names: list[str]) -> None:
    # HMAC pads a short key with zeros and hashes one that is longer than a block.
    same = one.rstrip(b"\0") == other.rstrip(b"\0")

    assert (keyed_id(one, "r", *names) == keyed_id(other, "r", *names)) == same


@given(parts)
def test_a_keyed_id_is_not_the_one_that_anybody_can_derive(names: list[str]) -> None:
    assert keyed_id(b"key", "r", *names) != derived_id("r", *names)


@given(parts)
def test_an_id_is_plain_text_that_any_system_takes(names: list[str]) -> None:
    pattern = r"p_[a-z2-7]{26}"

    assert re.fullmatch(pattern, derived_id("p", *names))
    assert re.fullmatch(pattern, keyed_id(b"key", "p", *names))
