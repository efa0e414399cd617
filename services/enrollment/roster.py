"""Reading a roster file: what can be used is used, the rest is reported row by row. Pure."""

import csv
import io
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from functools import cache
from typing import Literal, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict

from services.enrollment.domain import ZONES, Person
from shared.errors import InvalidInputError

V = TypeVar("V")

_MAX_CELL = 500
_TEXT_RULE = f"At most {_MAX_CELL} characters, none of them a control character."
_TEXTS = ("name", "job_title", "department", "manager_id", "location", "country", "region")
_COLUMNS = {"employee_id", *_TEXTS, "level", "timezone", "hire_date", "leave_date"}
_NO_HEADER = "The first line must name the columns, employee_id among them."
_MAX_LEVEL = 50
_NO_MANAGER = {"", "-", "none", "null", "n/a", "xx"}
_VACANT = {"vacant", "n/d", "tbc"}
# All of Unicode's category Cc, and that alone: joiners (Cf) belong to the spelling of many names.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")


class RowNote(BaseModel):
    """What was noticed in a row: `refused` rows are not imported, `noticed` ones are, in part.

    `row` is the line of the file where the row begins, the header being line 1.
    """

    model_config = ConfigDict(frozen=True)

    row: int
    employee_id: str | None
    outcome: Literal["refused", "noticed"]
    field: str
    rule: str
    message: str


@dataclass
class Parsed:
    """A read file: people in the file's order, each one's line, and the notes on its rows."""

    people: list[Person] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    notes: list[RowNote] = field(default_factory=list)
    rows: int = 0


def parse(content: bytes, person_id_of: Callable[[str], str]) -> Parsed:
    """Read a CSV roster.

    `person_id_of` gives the pseudonym of an employee id. Only `employee_id` is a required column;
    unknown columns are ignored. Raises InvalidInputError if the file is not UTF-8, or has no
    header with that column: then nothing in it can be used.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        detail = f"The file is not UTF-8: byte {error.start} starts no character."
        raise InvalidInputError(detail, code="not_utf8", field="body") from error
    reader = csv.reader(io.StringIO(text, newline=""))
    try:
        columns = [column.strip().casefold() for column in next(reader, [])]
    except csv.Error as error:
        raise InvalidInputError(_NO_HEADER, code="missing_column", field="employee_id") from error
    if "employee_id" not in columns:
        raise InvalidInputError(_NO_HEADER, code="missing_column", field="employee_id")
    parsed, seen = Parsed(), set[str]()
    # Most people are named by others, too, as their manager.
    person_id_of = cache(person_id_of)
    for row in _rows(reader, columns, parsed):
        parsed.rows += 1
        person = _person(row, seen, person_id_of)
        if person is not None:
            seen.add(person.employee_id)
            parsed.people.append(person)
            parsed.lines.append(row.line)
    _check_lines(parsed)
    return parsed


@dataclass(slots=True)
class _Row:
    line: int
    cells: dict[str, str]
    notes: list[RowNote]

    def cell(self, name: str) -> str | None:
        return self.cells.get(name) or None

    def refuse(self, name: str, rule: str, message: str) -> None:
        self._tell("refused", name, rule, message)

    def notice(self, name: str, rule: str, message: str) -> None:
        self._tell("noticed", name, rule, message)

    def _tell(
        self, outcome: Literal["refused", "noticed"], name: str, rule: str, message: str
    ) -> None:
        self.notes.append(_note(self.line, self.cell("employee_id"), outcome, name, rule, message))

    def read(self, name: str, convert: Callable[[str], V], rule: str, message: str) -> V | None:
        value = self.cell(name)
        if value is None:
            return None
        try:
            return convert(value)
        except ValueError:
            self.notice(name, rule, message)
            return None


class _CsvReader(Protocol):
    """What `csv.reader` returns."""

    line_num: int

    def __iter__(self) -> Iterator[list[str]]: ...
    def __next__(self) -> list[str]: ...


def _rows(reader: _CsvReader, columns: list[str], parsed: Parsed) -> Iterator[_Row]:
    wanted = [(place, name) for place, name in enumerate(columns) if name in _COLUMNS]
    while True:
        # A cell may hold line breaks: the row is where it begins.
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            parsed.rows += 1
            parsed.notes.append(_note(line, None, "refused", "row", "csv", str(error)))
            continue
        if any(cell.strip() for cell in cells):
            found = {name: _clean(cells[place]) for place, name in wanted if place < len(cells)}
            yield _Row(line, found, parsed.notes)


def _clean(cell: str) -> str:
    # Files come with no-break spaces, line breaks in titles and decomposed accents.
    composed = cell if cell.isascii() else unicodedata.normalize("NFC", cell)
    return " ".join(composed.split())


def _is_text(value: str) -> bool:
    return len(value) <= _MAX_CELL and _CONTROL.search(value) is None


def _person(row: _Row, seen: set[str], person_id_of: Callable[[str], str]) -> Person | None:
    employee_id = row.cell("employee_id")
    if employee_id is None:
        row.refuse(
            "employee_id", "required", "A row without employee_id can't be told from others."
        )
        return None
    if not _is_text(employee_id):
        row.refuse("employee_id", "text", _TEXT_RULE)
        return None
    if employee_id in seen:
        row.refuse(
            "employee_id", "unique", "An earlier row has this employee_id; that one is used."
        )
        return None
    for column in _TEXTS:
        if not _is_text(row.cell(column) or ""):
            row.notice(column, "text", f"{_TEXT_RULE} The row is used without it.")
            del row.cells[column]
    name = row.cell("name")
    vacant = name is None or name.casefold() in _VACANT
    if vacant:
        row.notice("name", "vacant", "A vacant post: kept in reporting lines, nobody can enroll.")
    for unknown in ("level", "department", "timezone"):
        if row.cell(unknown) is None and not vacant:
            row.notice(unknown, "missing", f"Without {unknown} this person would wait for a match.")
    manager = row.cell("manager_id")
    if manager is not None and manager.casefold() in _NO_MANAGER:
        manager = None
    if manager == employee_id:
        row.notice("manager_id", "self_report", "Reports to themself: imported without a manager.")
        manager = None
    return Person(
        id=person_id_of(employee_id),
        employee_id=employee_id,
        name=None if vacant else name,
        job_title=row.cell("job_title"),
        level=row.read(
            "level", _level, "integer", f"A level is a whole number, 0 to {_MAX_LEVEL}."
        ),
        department=row.cell("department"),
        manager_person_id=None if manager is None else person_id_of(manager),
        location=row.cell("location"),
        country=row.cell("country"),
        region=row.cell("region"),
        timezone=row.read("timezone", _zone, "iana_zone", "Not a zone of the IANA database."),
        hired_on=row.read("hire_date", date.fromisoformat, "date", "A date is YYYY-MM-DD."),
        left_on=row.read("leave_date", date.fromisoformat, "date", "A date is YYYY-MM-DD."),
    )


def _level(value: str) -> int:
    level = int(value)
    # int() also takes 1_0 and other scripts' digits.
    if not value.isascii() or not value.isdigit() or not 0 <= level <= _MAX_LEVEL:
        raise ValueError
    return level


def _zone(value: str) -> str:
    if value not in ZONES:
        raise ValueError
    return value


def _check_lines(parsed: Parsed) -> None:
    """Note managers without a row, and cycles; both block only whom they touch."""
    manager_of = {person.id: person.manager_person_id for person in parsed.people}
    cycles = _cycles(manager_of)
    for line, person in zip(parsed.lines, parsed.people, strict=True):
        manager = person.manager_person_id
        if manager is None:
            continue
        if manager not in manager_of:
            message = "The manager has no row: the reporting line ends there."
            rule = "manager_missing"
        elif person.id in cycles:
            message = "The reporting line comes back to this person; everybody on it counts as one."
            rule = "cycle"
        else:
            continue
        parsed.notes.append(_note(line, person.employee_id, "noticed", "manager_id", rule, message))


def _cycles(manager_of: Mapping[str, str | None]) -> set[str]:
    """Return everybody whose reporting line comes back to them; each line is walked once."""
    found: set[str] = set()
    walked: set[str] = set()
    for start in manager_of:
        path: dict[str, int] = {}
        person: str | None = start
        while person is not None and person not in walked:
            walked.add(person)
            path[person] = len(path)
            person = manager_of.get(person)
        if person in path:
            found |= set(list(path)[path[person] :])
    return found


def roots(people: list[Person]) -> int:
    """Return how many people have no manager."""
    return sum(person.manager_person_id is None for person in people)


def count_by_rule(notes: list[RowNote]) -> dict[str, int]:
    """Return how often each rule was broken, most often first."""
    return dict(Counter(f"{note.field}: {note.rule}" for note in notes).most_common())


def _note(
    line: int,
    employee_id: str | None,
    outcome: Literal["refused", "noticed"],
    name: str,
    rule: str,
    message: str,
) -> RowNote:
    return RowNote(
        row=line,
        employee_id=None if employee_id is None else employee_id[:_MAX_CELL],
        outcome=outcome,
        field=name,
        rule=rule,
        message=message,
    )
