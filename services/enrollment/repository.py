"""What enrollment keeps beside its aggregates, and the queries that need a name."""

from collections.abc import AsyncIterator
from typing import ClassVar

from services.enrollment.domain import Participant, Person, Program, manager_chain
from services.enrollment.roster import RowNote
from shared.clock import Instant
from shared.events.participants import OrgFacts, Role
from shared.ids import derived_id
from shared.store.port import Document, Reader

_PAGE = 1000


class RosterImport(Document):
    """The report of one import, row by row."""

    collection: ClassVar[str] = "roster_imports"

    imported_at: Instant
    rows: int
    added: int
    updated: int
    unchanged: int
    refused: int
    moved_participants: int
    roots: int
    notes: tuple[RowNote, ...]


class RosterCount(Document):
    """What was told last of how many people could take a role in a program; null is withheld."""

    collection: ClassVar[str] = "roster_counts"

    employed: int | None
    left: int | None

    @staticmethod
    def id_of(program_id: str, role: Role) -> str:
        """Return the id of the count of one role in one program."""
        return derived_id("rc", program_id, role)

    def same(self, other: "RosterCount") -> bool:
        """Return whether both say the same."""
        return (self.employed, self.left) == (other.employed, other.left)


DOCUMENTS: tuple[type[Document], ...] = (Person, Program, Participant, RosterImport, RosterCount)


async def everybody(reader: Reader) -> AsyncIterator[list[Person]]:
    """Yield the whole roster in pages, by id."""
    after: tuple[str, str] | None = None
    while people := await reader.find(Person, after=after, limit=_PAGE):
        yield people
        after = (people[-1].id, people[-1].id)


async def org_facts(reader: Reader, person: Person) -> OrgFacts:
    """Return where a person stands, walking up their reporting line."""
    manager_of = {person.id: person.manager_person_id}
    above = person.manager_person_id
    while above is not None and above not in manager_of:
        manager = await reader.get(Person, above)
        manager_of[above] = None if manager is None else manager.manager_person_id
        above = manager_of[above]
    return OrgFacts(
        level=person.level,
        department=person.department,
        manager_chain=manager_chain(person.id, manager_of),
    )
