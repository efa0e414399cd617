"""What becomes of a round's result: proposals, part by part, and then the round's end."""

from collections.abc import Mapping
from datetime import datetime

from services.matching.domain.pair import Pair, propose
from services.matching.domain.pool import PoolMember
from services.matching.domain.program import Program
from services.matching.domain.round import Round, RoundPart, Tally
from services.matching.engine.model import FoundPair
from services.matching.handlers import end_round
from services.matching.repository import TURN, require_program
from shared.store.port import Transaction
from shared.turns import in_turns

_PROPOSALS_AT_ONCE = 5


async def commit_part(tx: Transaction, part_id: str, now: datetime) -> None:
    """Make proposals of a part's pairs, and remember why others wait; then forget the part."""
    part = await tx.get(RoundPart, part_id)
    if part is None:
        return
    opened = await tx.require(Round, part.round_id)
    program = await require_program(tx, opened.program_id)
    members = await tx.get_many(PoolMember, part.marks)
    # Who changed meanwhile is not proposed on what they were: they wait for the next round.
    still = set[str]() if program.is_over(now) else await _unchanged(part, members)
    tally = Tally()
    async for pairs in in_turns(part.pairs, _PROPOSALS_AT_ONCE):
        for found in pairs:
            if still.issuperset(found.members) and _free(members, found):
                pair = _propose(tx, opened, program, members, found, now)
                tally.propose(found, pair.mentor, pair.mentees)
            else:
                _drop(tx, tally, members, still, found)
    async for some in in_turns(part.waiting.items(), TURN):
        for who, code in some:
            if who in still:
                missed = members[who].missed(code, part.explained.get(who))
                if missed is not members[who]:
                    tx.put(missed)
    tx.put(opened.counted(tally))
    tx.delete(part)


async def lose_part(tx: Transaction, part_id: str) -> None:
    """Drop all pairs of a part that can't be committed, and forget it."""
    part = await tx.get(RoundPart, part_id)
    if part is None:
        return
    opened = await tx.require(Round, part.round_id)
    members = await tx.get_many(PoolMember, part.marks)
    still = await _unchanged(part, members)
    tally = Tally()
    for found in part.pairs:
        _drop(tx, tally, members, still, found)
    # Nor was anybody told why they wait: another round has something to do.
    tx.put(opened.counted(tally).changed(left=None))
    tx.delete(part)


async def _unchanged(part: RoundPart, members: Mapping[str, PoolMember]) -> set[str]:
    found = set[str]()
    async for some in in_turns(members.items(), TURN):
        found.update(who for who, member in some if member.mark() == part.marks[who])
    return found


def _drop(
    tx: Transaction,
    tally: Tally,
    members: dict[str, PoolMember],
    still: set[str],
    found: FoundPair,
) -> None:
    """Leave a pair out, and remember why those of its members wait who are `still` as they were."""
    for who in found.members:
        if who in still:
            members[who] = tx.put(members[who].missed("no_partner_left"))
    tally.drop(found)


def _free(members: Mapping[str, PoolMember], found: FoundPair) -> bool:
    return members[found.mentor_id].available("mentor") and all(
        members[who].available("mentee") for who in found.mentee_ids
    )


async def complete_round(tx: Transaction, round_id: str, now: datetime) -> None:
    """End a round of which all parts are committed; tell how good its result is."""
    opened = await tx.require(Round, round_id)
    if opened.status != "committing":
        return
    members = (await tx.get_many(PoolMember, opened.committed.lost)).values()
    held = {pair_id for member in members for pair_id in _pairs_of(member)}
    found = {
        pair.id for pair in (await tx.get_many(Pair, held)).values() if pair.round_id == round_id
    }
    waiting_on = sum(found.isdisjoint(_pairs_of(member)) for member in members)
    completed = await end_round(tx, opened.complete(waiting_on, now))
    tx.emit(completed.as_completed())


def _pairs_of(member: PoolMember) -> list[str]:
    seats = (member.mentor_seat, member.mentee_seat)
    return [seat.pair_id for seat in seats if seat.pair_id is not None]


def _propose(
    tx: Transaction,
    opened: Round,
    program: Program,
    members: dict[str, PoolMember],
    found: FoundPair,
    now: datetime,
) -> Pair:
    pair = propose(
        opened.pair_id(found.mentor_id),
        found,
        members[found.mentor_id],
        [members[mentee_id] for mentee_id in found.mentee_ids],
        program,
        round_id=opened.id,
        origin=opened.kind,
        now=now,
    )
    for participant_id in pair.participant_ids:
        member = members[participant_id]
        members[participant_id] = tx.put(member.take_seat(pair.role_of(participant_id), pair.id))
    tx.put(pair)
    tx.emit(pair.as_proposed())
    return pair
