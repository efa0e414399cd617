"""The use cases of matching: load, decide, save, emit."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import get_args

from services.matching import access
from services.matching.domain.pair import Pair, pause_reasons, stands
from services.matching.domain.pool import Free, PoolMember
from services.matching.domain.preview import Preview
from services.matching.domain.program import Program
from services.matching.domain.round import Round, RoundKind, RoundProgress
from services.matching.engine.model import Policy
from services.matching.repository import members_of, open_pairs_of, require_program
from shared.errors import InvalidInputError, raise_not_found
from shared.events.pairs import (
    EndReason,
    PairDeclined,
    PairEnded,
    PairExpired,
    PairPaused,
    PairResumed,
    PairRotated,
    PauseReason,
)
from shared.events.participants import ParticipantEvent, ParticipantState, Role
from shared.events.programs import ProgramClosed, ProgramPublished
from shared.http.auth import Principal
from shared.store.port import Transaction

_PROVED_FOR = timedelta(days=7)
"""For so long a rolling round is not run again on those whom it left: a release may have changed
the rules that it went by.
"""

# -- what others tell -----------------------------------------------------------------------------


async def follow_program(
    tx: Transaction, event: ProgramPublished | ProgramClosed, now: datetime
) -> Program:
    """Take over a program's configuration, or its end.

    Raises InvalidInputError for a configuration under which no round can run; the version before
    it stays.
    """
    known = await tx.get(Program, event.program_id) or Program(id=event.program_id)
    if isinstance(event, ProgramClosed):
        program = known.close(event)
    else:
        program = known.publish(event)
        try:
            program.policy(now)
        except ValueError as error:
            raise InvalidInputError(
                "The matching policy contradicts itself.", code="policy_invalid", field="weights"
            ) from error
    return program if program is known else tx.put(program)


async def follow_participant(
    tx: Transaction, event: ParticipantState | ParticipantEvent, version: int, now: datetime
) -> None:
    """Take over what happened to a participant, and see what it means for their pairs."""
    known = await tx.get(PoolMember, event.participant_id) or PoolMember.placeholder(event)
    member = known.apply(event, version)
    if member is known:
        return
    tx.put(member)
    for pair in await open_pairs_of(tx, member.id):
        await review_pair(tx, pair, now)


async def review_pair(tx: Transaction, pair: Pair, now: datetime) -> None:
    """Let a pair go on, rest or end, as its members stand now."""
    members = await members_of(tx, pair)
    program = await require_program(tx, pair.program_id)
    statuses = {member.status for member in members.values()}
    if pair.status == "proposed":
        if not stands(pair, members, program):
            await _call_off(tx, pair, members, now)
            return
    elif "departed" in statuses:
        await _end(tx, pair, members, "departed", now)
        return
    elif "withdrawn" in statuses:
        await _end(tx, pair, members, "withdrawn", now)
        return
    else:
        pair = _rest_or_go_on(tx, pair, pause_reasons(pair, members, program), now)
    # Written also when nothing changed: of two members who move at the same moment, each review
    # would see the other where they were.
    tx.put(pair)


def _rest_or_go_on(
    tx: Transaction, pair: Pair, reasons: tuple[PauseReason, ...], now: datetime
) -> Pair:
    known = pair.pause_reason
    if reasons and known not in reasons:
        reason = reasons[0]
        tx.emit(PairPaused(pair_id=pair.id, program_id=pair.program_id, reason=reason, at=now))
        return pair.pause(reason)
    if not reasons and known is not None:
        tx.emit(PairResumed(pair_id=pair.id, program_id=pair.program_id, reason=known, at=now))
        return pair.resume()
    return pair


# -- answers --------------------------------------------------------------------------------------


async def accept_pair(tx: Transaction, caller: Principal, now: datetime, pair_id: str) -> Pair:
    """Record the caller's yes; the last one makes the pair.

    A proposal that a newer configuration of the program forbids is called off instead.
    """
    known = await _visible(tx, pair_id)
    pair = known.accept(access.must_be_member(caller, known), now)
    if pair is known:
        return pair
    if pair.status != "active":
        return tx.put(pair)
    members = await members_of(tx, pair)
    if not stands(pair, members, await require_program(tx, pair.program_id)):
        return await _call_off(tx, known, members, now)
    for member in members.values():
        tx.put(member.paired_with(pair.partners_of(member.id)))
    tx.emit(pair.as_paired())
    return tx.put(pair)


async def decline_pair(tx: Transaction, caller: Principal, now: datetime, pair_id: str) -> Pair:
    """Record the caller's no: all return to the pool, and nobody is told who it was."""
    known = await _visible(tx, pair_id)
    by = access.must_be_member(caller, known)
    pair = known.decline(by, now)
    if pair is known:
        return pair
    pair = tx.put(pair)
    for member in (await members_of(tx, pair)).values():
        freed = member.leave_seat(pair.role_of(member.id), pair.id)
        tx.put(freed.not_again(pair.partners_of(member.id), declined_by_other=member.id != by))
    # Unlinked: the correlation would tell whose request it was.
    tx.emit(PairDeclined(pair_id=pair.id, program_id=pair.program_id, at=now), unlinked=True)
    return pair


async def _visible(tx: Transaction, pair_id: str) -> Pair:
    pair = await tx.get(Pair, pair_id)
    if pair is None:
        raise_not_found("pair", pair_id)
    return pair


# -- what time brings -----------------------------------------------------------------------------


async def expire_proposal(tx: Transaction, pair_id: str, now: datetime) -> None:
    """End a proposal that not all have answered in time."""
    known = await tx.require(Pair, pair_id)
    if known.status != "proposed":
        return
    pair = tx.put(known.expire(now))
    await _free(tx, pair, await members_of(tx, pair))
    tx.emit(PairExpired(pair_id=pair.id, program_id=pair.program_id, at=now))


async def end_term(tx: Transaction, pair_id: str, now: datetime) -> None:
    """End a pair whose term is over: its members go into a rotation, or the program is over too.

    While the program's open round can't take them in, the pair stays as it is.
    """
    known = await tx.require(Pair, pair_id)
    if known.status not in {"active", "paused"}:
        return
    program = await require_program(tx, known.program_id)
    if program.is_over(now):
        await finish_pair(tx, pair_id, now)
        return
    rotation = await _rotation(tx, program, now)
    if rotation is None:
        return
    pair = tx.put(known.rotate("term", rotation.id, now))
    await _free(tx, pair, await members_of(tx, pair), ended_at=now)
    tx.emit(
        PairRotated(
            pair_id=pair.id,
            program_id=pair.program_id,
            reason="term",
            ended_at=now,
            next_round_id=rotation.id,
        )
    )


async def _rotation(tx: Transaction, program: Program, now: datetime) -> Round | None:
    """Return the rotation that gathers members now, opening one if need be; None: not yet."""
    if program.open_round_id is None:
        return _open_round(tx, program, "rotation", now)
    opened = await tx.require(Round, program.open_round_id)
    if opened.kind != "rotation" or opened.status != "requested":
        return None
    # Written, so that it can't start at the same moment without this pair's members.
    return tx.put(opened)


async def finish_pair(tx: Transaction, pair_id: str, now: datetime) -> None:
    """End a pair because its program is over: completed if it ran as long as was planned."""
    known = await tx.require(Pair, pair_id)
    members = await members_of(tx, known)
    if known.status == "proposed":
        await _call_off(tx, known, members, now)
    elif known.status in {"active", "paused"}:
        program = await require_program(tx, known.program_id)
        planned = now.date() >= program.config.ends_on
        await _end(tx, known, members, "completed" if planned else "program_closed", now)


async def _call_off(
    tx: Transaction, known: Pair, members: dict[str, PoolMember], now: datetime
) -> Pair:
    pair = tx.put(known.call_off(now))
    await _free(tx, pair, members)
    tx.emit(PairDeclined(pair_id=pair.id, program_id=pair.program_id, at=now), unlinked=True)
    return pair


async def _end(
    tx: Transaction,
    known: Pair,
    members: dict[str, PoolMember],
    reason: EndReason,
    now: datetime,
) -> None:
    pair = tx.put(known.end(reason, now))
    await _free(tx, pair, members, ended_at=now)
    tx.emit(PairEnded(pair_id=pair.id, program_id=pair.program_id, reason=reason, ended_at=now))


async def _free(
    tx: Transaction,
    pair: Pair,
    members: dict[str, PoolMember],
    ended_at: datetime | None = None,
) -> None:
    for member in members.values():
        tx.put(member.leave_seat(pair.role_of(member.id), pair.id, ended_at))


# -- rounds ---------------------------------------------------------------------------------------


async def request_round(
    tx: Transaction, caller: Principal, now: datetime, program_id: str, seed: int | None
) -> Round:
    """Ask for a round over the program's pool.

    Raises RuleViolationError while the program has another one, or is over.
    """
    access.must_coordinate(caller, program_id)
    program = await require_program(tx, program_id)
    program.require_open(now)
    return _open_round(tx, program, "round", now, seed)


async def cancel_round(tx: Transaction, caller: Principal, now: datetime, round_id: str) -> Round:
    """Call a round off. Raises RuleViolationError once it has a result."""
    opened = await tx.get(Round, round_id)
    if opened is None or not caller.coordinates(opened.program_id):
        raise_not_found("round", round_id)
    canceled = opened.cancel(now)
    if canceled is opened:
        return opened
    return await end_round(tx, canceled)


async def end_round(tx: Transaction, ended: Round) -> Round:
    """Keep a round as it ended, free its program for another one, and forget how far it was.

    Parts may be left of it, too many for one transaction: `RoundRunner` forgets them one by one.
    """
    program = await tx.require(Program, ended.program_id)
    tx.put(program.finish_round(ended.id))
    progress = await tx.get(RoundProgress, ended.id)
    if progress is not None:
        tx.delete(progress)
    return tx.put(ended)


async def request_preview(
    tx: Transaction,
    caller: Principal,
    now: datetime,
    program_id: str,
    seed: int,
    changes: Mapping[str, object],
    *,
    with_what_if: bool,
) -> Preview:
    """Ask what a round would find now, under the program's policy with these fields changed.

    Raises InvalidInputError for a policy that contradicts itself, RuleViolationError while another
    preview is being made, or once the program is over.
    """
    access.must_coordinate(caller, program_id)
    program = await require_program(tx, program_id)
    program.require_open(now)
    try:
        policy = Policy.model_validate(program.policy(now).model_dump() | dict(changes))
    except ValueError as error:
        raise InvalidInputError(
            "The matching policy contradicts itself.", code="policy_invalid", field="weights"
        ) from error
    preview_id = Preview.id_of(program_id)
    known = await tx.get(Preview, preview_id)
    if known is not None:
        known.require_done()
    asked = Preview(
        id=preview_id,
        version=known.version if known else 0,
        program_id=program_id,
        seed=seed,
        policy=policy,
        with_what_if=with_what_if,
        requested_at=now,
    )
    return tx.put(asked)


async def request_rolling_round(
    tx: Transaction, program_id: str, free: Free, now: datetime
) -> None:
    """Once a day, ask for a round of a rolling program, if it could find anybody a partner.

    There is nothing to find where a side has nobody, nor where exactly those are free whom the last
    round left, as they stood then.
    """
    program = await tx.require(Program, program_id)
    if not program.rolls(now):
        return
    program = program.changed(last_rolling_on=now.date())
    if free.roles.issuperset(get_args(Role)) and not await _left(tx, program, free, now):
        _open_round(tx, program, "round", now)
    else:
        tx.put(program)


async def _left(tx: Transaction, program: Program, free: Free, now: datetime) -> bool:
    """Return whether exactly these are those whom a round of the last days left."""
    last = await tx.find(
        Round, {"program_id": program.id}, order_by="requested_at", descending=True, limit=1
    )
    return any(
        one.status == "completed"
        and (program.config.version, one.left) == (free.version, free.digest)
        and now - one.requested_at < _PROVED_FOR
        for one in last
    )


def _open_round(
    tx: Transaction, program: Program, kind: RoundKind, now: datetime, seed: int | None = None
) -> Round:
    # The program is written with every round, so its version names each once, whatever the clock.
    opened = Round.request(program.id, kind, str(program.version), now, seed)
    tx.put(program.open_round(opened.id))
    return tx.put(opened)
