"""Reading rosters: every dirt that real files have, and any bytes at all."""

import csv
import io
import sys
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy.demo import __file__ as demo
from services.enrollment.roster import Parsed, count_by_rule, parse, roots
from shared.errors import InvalidInputError

REAL = Path(demo).parent / "roster" / "uk_fco_2011.csv"
FULL = "employee_id,name,level,department,timezone,manager_id\n"


def read(text: str | bytes) -> Parsed:
    return parse(text if isinstance(text, bytes) else text.encode(), lambda e: f"p-{e}")


def noted(parsed: Parsed) -> list[tuple[int, str | None, str, str, str]]:
    return [
        (note.row, note.employee_id, note.outcome, note.field, note.rule) for note in parsed.notes
    ]


def row(employee_id: str, manager: str = "", name: str = "N") -> str:
    return f"{employee_id},{name},3,D,Europe/London,{manager}\n"


def test_a_clean_file_is_read_whole() -> None:
    parsed = read(FULL + row("1") + row("2", "1"))
    assert [person.id for person in parsed.people] == ["p-1", "p-2"]
    assert parsed.people[1].manager_person_id == "p-1"
    assert (parsed.rows, parsed.lines, parsed.notes) == (2, [2, 3], [])
    assert roots(parsed.people) == 1


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"name\nx\n", b"x" * 200_000, b'"' + b"x" * 200_000]
)
def test_a_file_without_the_one_needed_column_is_refused(content: bytes) -> None:
    with pytest.raises(InvalidInputError) as refusal:
        read(content)
    assert refusal.value.code == "missing_column"


def test_a_file_that_is_not_utf8_is_refused() -> None:
    with pytest.raises(InvalidInputError) as refusal:
        read(FULL.encode() + "1,Zoë".encode("latin-1"))
    assert refusal.value.code == "not_utf8"


def test_byte_order_marks_line_ends_and_blank_lines_change_nothing() -> None:
    plain = read(FULL + row("1") + row("2", "1"))
    for variant in (
        "\ufeff" + FULL + row("1") + row("2", "1"),
        (FULL + row("1") + row("2", "1")).replace("\n", "\r\n"),
        (FULL + row("1") + row("2", "1")).replace("\n", "\r"),
        FULL.upper() + row("1") + row("2", "1").rstrip("\n"),
        FULL.replace(",", " , ") + row("1") + row("2", " 1 "),
    ):
        assert read(variant) == plain
    spaced = read(FULL + "\n" + row("1") + ",,,,,\n  \n" + row("2", "1"))
    assert spaced.people == plain.people
    assert (spaced.rows, spaced.lines) == (2, [3, 6])


def test_a_row_is_known_by_the_line_where_it_begins() -> None:
    parsed = read(
        FULL
        + '1,"Two\nlines",3,D,Europe/London,\n'
        + '2,"a\n\n\nb",x,D,Europe/London,\n'
        + row("2")
    )
    assert parsed.lines == [2, 4]
    assert [person.name for person in parsed.people] == ["Two lines", "a b"]
    assert noted(parsed) == [
        (4, "2", "noticed", "level", "integer"),
        (8, "2", "refused", "employee_id", "unique"),
    ]


def test_names_of_all_scripts_are_kept() -> None:
    names = ["Zoë", "Łukasz Żółć", "田中 太郎", "محمد", "می‌شود", "O’Brien", "𝒜da"]
    text = FULL + "".join(row(str(n), name=name) for n, name in enumerate(names))
    parsed = read(text)
    assert [person.name for person in parsed.people] == names
    # Decomposed accents and no-break spaces are spelled the one usual way.
    odd = read(FULL + row("é".encode().decode(), "e\u0301x", "Ana\u00a0\u00a0Zoe\u0308"))
    assert odd.people[0].name == "Ana Zoë"
    assert odd.people[0].manager_person_id == "p-éx"


def test_a_control_character_costs_its_cell_and_no_other_character_does() -> None:
    # White space is folded before, whatever its category.
    odd = [char for char in map(chr, range(sys.maxunicode + 1)) if not char.isspace()]
    control = {char for char in odd if unicodedata.category(char) == "Cc"}
    others = [char for char in odd if unicodedata.category(char) not in {"Cc", "Cs"}]
    assert len(control) > 50
    for char in control:
        parsed = read(FULL + row("1", name=f"A{char}B"))
        assert parsed.people[0].name is None
        assert ("name", "text") in {(note.field, note.rule) for note in parsed.notes}
    for start in range(0, len(others), 400):
        name = f"A{''.join(others[start : start + 400])}B".replace('"', "").replace(",", "")
        assert ("name", "text") not in {
            (note.field, note.rule) for note in read(FULL + row("1", name=name)).notes
        }


def test_lines_that_touch_nobody_else_block_nobody_else() -> None:
    parsed = read(
        FULL
        + row("root1")
        + row("root2", "none")
        + row("self", "self")
        + row("a", "b")
        + row("b", "c")
        + row("c", "a")
        + row("below", "a")
        + row("orphan", "nobody-has-this-row")
    )
    assert noted(parsed) == [
        (4, "self", "noticed", "manager_id", "self_report"),
        (5, "a", "noticed", "manager_id", "cycle"),
        (6, "b", "noticed", "manager_id", "cycle"),
        (7, "c", "noticed", "manager_id", "cycle"),
        (9, "orphan", "noticed", "manager_id", "manager_missing"),
    ]
    assert len(parsed.people) == 8
    assert roots(parsed.people) == 3


# Walked anew from each of its people, it would take minutes.
@pytest.mark.timeout(40)
def test_a_long_reporting_line_is_walked_once() -> None:
    many = 12_000
    parsed = read(FULL + "".join(row(str(n), str((n + 1) % many)) for n in range(many)))
    assert count_by_rule(parsed.notes) == {"manager_id: cycle": many}


def test_what_is_missing_is_reported_and_the_row_is_used() -> None:
    parsed = read(FULL + "1,Ada,,,,\n2,Bob\n")
    assert len(parsed.people) == 2
    assert count_by_rule(parsed.notes) == {
        "level: missing": 2,
        "department: missing": 2,
        "timezone: missing": 2,
    }


@pytest.mark.parametrize("level", ["x", "-1", "51", "1.5", "1_0", "٣", "9" * 400, "+3"])
def test_a_level_is_a_small_whole_number(level: str) -> None:
    parsed = read(f"employee_id,name,level,department,timezone\n1,A,{level},D,UTC\n")
    assert parsed.people[0].level is None
    assert noted(parsed) == [(2, "1", "noticed", "level", "integer")]


def test_wrong_values_are_left_out_and_reported() -> None:
    parsed = read(
        "employee_id,name,level,department,timezone,hire_date,leave_date\n"
        "1,A,3,D,Mars/Base,yesterday,2026-02-30\n2,B,3,D,Asia/Kathmandu,2020-02-29,2025-01-01\n"
    )
    assert [note.rule for note in parsed.notes] == ["iana_zone", "date", "date"]
    one, two = parsed.people
    assert (one.timezone, one.hired_on, one.left_on) == (None, None, None)
    assert (two.timezone, str(two.hired_on)) == ("Asia/Kathmandu", "2020-02-29")


def test_a_row_is_refused_only_where_it_can_t_be_told_from_others() -> None:
    parsed = read(
        FULL + ",Nobody,3,D,UTC,\n" + row("1") + row("1") + row("2\0") + row("x" * 501) + row("3")
    )
    assert [person.employee_id for person in parsed.people] == ["1", "3"]
    assert [(note.row, note.outcome, note.rule) for note in parsed.notes] == [
        (2, "refused", "required"),
        (4, "refused", "unique"),
        (5, "refused", "text"),
        (6, "refused", "text"),
    ]
    assert max(len(note.employee_id or "") for note in parsed.notes) <= 500


def test_a_bad_cell_costs_the_cell_and_a_column_we_don_t_read_costs_nothing() -> None:
    parsed = read(
        "employee_id,name,department,level,timezone,remarks\n"
        f"1,Ada\0,D,3,UTC,\n2,Bob,{'x' * 501},3,UTC,{'y' * 9000}\n3,Eve,D,3,UTC,\0\n"
    )
    assert [(p.name, p.department) for p in parsed.people] == [
        (None, "D"),
        ("Bob", None),
        ("Eve", "D"),
    ]
    assert ("name", "text") in {(note.field, note.rule) for note in parsed.notes}
    assert all(note.field != "remarks" for note in parsed.notes)


@pytest.mark.parametrize("name", ["", "Vacant", "N/D", " tbc "])
def test_a_vacant_post_stays_in_the_reporting_lines(name: str) -> None:
    parsed = read(FULL + row("1", name=name) + row("2", "1"))
    assert parsed.people[0].name is None
    assert parsed.people[1].manager_person_id == "p-1"
    assert [note.rule for note in parsed.notes] == ["vacant"]


def test_ragged_rows_are_used_as_far_as_they_go() -> None:
    parsed = read(FULL + "1,Ada,3,D,UTC,,surplus,more\n2\n")
    assert [person.employee_id for person in parsed.people] == ["1", "2"]


def test_an_endless_cell_costs_its_row() -> None:
    parsed = read(FULL + row("1") + f"2,{'x' * 200_000},3,D,UTC,\n" + row("3"))
    assert [person.employee_id for person in parsed.people] == ["1", "3"]
    assert (parsed.rows, parsed.notes[0].rule, parsed.notes[0].row) == (3, "csv", 3)


@settings(max_examples=200)
@given(st.binary(max_size=300) | st.text('é",\n\r\0 ax1', max_size=80).map(str.encode))
def test_any_bytes_are_read_or_refused(noise: bytes) -> None:
    for content in (noise, FULL.encode() + noise, FULL.encode() + row("1").encode() + noise):
        try:
            parsed = read(content)
        except InvalidInputError:
            continue
        assert parsed.rows >= len(parsed.people) == len(parsed.lines)
        refused = [note for note in parsed.notes if note.outcome == "refused"]
        assert parsed.rows == len(parsed.people) + len(refused)


CELLS = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=12)


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(CELLS, CELLS, CELLS, CELLS, CELLS, CELLS), max_size=12, unique_by=lambda r: r[0]
    )
)
def test_every_row_of_any_well_formed_file_is_used_or_reported(
    rows: list[tuple[str, ...]],
) -> None:
    file = io.StringIO(newline="")
    writer = csv.writer(file)
    writer.writerow(FULL.strip().split(","))
    writer.writerows(rows)
    parsed = read(file.getvalue())
    refused = [note for note in parsed.notes if note.outcome == "refused"]
    assert parsed.rows == len(parsed.people) + len(refused)
    ids = [person.employee_id for person in parsed.people]
    assert len(set(ids)) == len(ids)


def test_a_real_government_s_roster_is_read() -> None:
    content = REAL.read_bytes()
    parsed = read(content)
    assert parsed.rows == len(list(csv.reader(io.StringIO(content.decode())))) - 1
    assert len(parsed.people) > 4900
    assert roots(parsed.people) >= 1
