"""HTTP routes of matching: parse, authorize, call a handler, answer."""

from typing import Annotated

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from services.matching import access, handlers
from services.matching.domain.pair import Pair, PairStatus
from services.matching.domain.pool import PoolMember, WaitingCode
from services.matching.domain.preview import Preview, PreviewStatus
from services.matching.domain.round import (
    Round,
    RoundFigures,
    RoundKind,
    RoundProgress,
    RoundStatus,
)
from services.matching.engine.fairness import GroupRow
from services.matching.engine.model import Nearest, Policy, RuleCode
from services.matching.engine.reasons import in_words
from services.matching.engine.watch import Progress
from services.matching.repository import own_member, require_program
from shared.clock import Instant
from shared.errors import raise_not_found
from shared.events.pairs import Origin, PairSide, PauseReason, RationaleTerm, RoleCounts
from shared.events.participants import Role
from shared.events.programs import ScoreTerm
from shared.http.auth import Principal
from shared.http.call import Call, allow
from shared.http.pagination import Cursor, Limit, Page, page, read_cursor
from shared.store.port import Condition, Contains, In

Coordinator = Annotated[Call, allow("coordinator")]
Participating = Annotated[Call, allow("participant")]
ParticipantOrCoordinator = Annotated[Call, allow("participant", "coordinator")]
ProgramId = Annotated[str, Query(max_length=63, description="The program")]


class RoundRequest(BaseModel):
    """A round to run; without a seed one is drawn."""

    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)

    seed: int | None = Field(default=None, ge=0, le=2**31 - 1)


class PolicyChanges(BaseModel):
    """Fields of the program's policy to try another value of; the others stay."""

    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)

    min_level_gap: int | None = Field(default=None, ge=0, le=50)
    cross_department: bool | None = None
    different_boss: bool | None = None
    cross_region: bool | None = None
    min_overlap_minutes: int | None = Field(default=None, ge=0, le=1440)
    weights: dict[ScoreTerm, int] | None = None


class PreviewRequest(BaseModel):
    """A round to try: under which changes, and whether to relax each rule in turn, too."""

    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)

    seed: int = Field(default=1, ge=0, le=2**31 - 1)
    changes: PolicyChanges = PolicyChanges()
    what_if: bool = False


class WhatIfView(BaseModel):
    """A rule relaxed by a step, alone: what the policy would say, and whom a round would match."""

    rule: RuleCode
    changes: dict[str, int | bool]
    matched: RoleCounts
    more_mentees: int
    objective: int
    gap: float


class PreviewView(BaseModel):
    """What a round would find; nobody is proposed to anybody."""

    program_id: str
    status: PreviewStatus
    seed: int
    policy: Policy
    requested_at: Instant
    finished_at: Instant | None
    figures: RoundFigures | None
    what_if: list[WhatIfView]
    failure: str | None

    @classmethod
    def of(cls, found: Preview) -> "PreviewView":
        """Return what coordinators see."""
        matched = found.figures.matched.mentees if found.figures else 0
        return cls(
            **found.model_dump(include=set(cls.model_fields) - {"what_if", "figures", "policy"}),
            policy=found.policy,
            figures=found.figures,
            what_if=[
                WhatIfView(
                    rule=one.rule,
                    changes=one.changes,
                    matched=one.matched,
                    more_mentees=one.matched.mentees - matched,
                    objective=one.objective,
                    gap=one.gap,
                )
                for one in found.what_if
            ],
        )


class RoundView(BaseModel):
    """A round, how far it is while it runs, and then how good its result is."""

    round_id: str
    program_id: str
    kind: RoundKind
    status: RoundStatus
    seed: int
    requested_at: Instant
    finished_at: Instant | None
    snapshot: str | None
    figures: RoundFigures | None
    failure: str | None
    progress: Progress | None

    @classmethod
    def of(cls, found: Round, progress: RoundProgress | None = None) -> "RoundView":
        """Return what coordinators see."""
        told = None
        if found.status == "running" and progress is not None:
            told = progress.progress
        elif found.status == "committing" and found.figures is not None:
            done = found.committed.proposed / max(found.figures.proposed, 1)
            told = Progress("proposing", done, found.figures.gap)
        return cls(
            round_id=found.id,
            **found.model_dump(include=set(cls.model_fields) - {"round_id", "progress"}),
            progress=told,
        )


class FairnessView(BaseModel):
    """Whom a round matched, and how well, group by group.

    `scores` counts pairs by their points per mentee, in steps of a hundred named by their lower
    end; null where there are fewer pairs than the threshold.
    """

    round_id: str
    threshold: int
    groups: list[GroupRow]
    scores: dict[str, int] | None


class PairView(BaseModel):
    """A proposal or a pair; both sides and the coordinator read the same rationale."""

    pair_id: str
    program_id: str
    round_id: str | None
    origin: Origin
    status: PairStatus
    mentor: PairSide
    mentees: list[PairSide]
    score: int
    rationale: list[RationaleTerm]
    rules: list[str]
    topics: list[str]
    proposed_at: Instant
    expires_at: Instant
    started_at: Instant | None
    ends_at: Instant
    pause_reason: PauseReason | None
    closed_at: Instant | None
    you_accepted: bool | None
    """The caller's own answer; null for a coordinator. Nobody is told another's."""

    @classmethod
    def of(cls, pair: Pair, caller: Principal) -> "PairView":
        """Return what the caller may see."""
        own = access.own_participant_id(caller, pair)
        return cls(
            pair_id=pair.id,
            you_accepted=None if own is None else own in pair.accepted,
            **pair.model_dump(include=set(cls.model_fields) - {"pair_id", "you_accepted"}),
        )


class NearestView(BaseModel):
    """The partner whom the fewest rules keep away: which, and what lacks, also in words."""

    rules: list[RuleCode]
    levels: int
    minutes: int
    text: str

    @classmethod
    def of(cls, nearest: Nearest) -> "NearestView":
        """Return what everybody may read who may read of the one who waits."""
        return cls(
            rules=list(nearest.rules),
            levels=nearest.levels,
            minutes=nearest.minutes,
            text=in_words(nearest),
        )


class WaitingEntry(BaseModel):
    """Somebody without a partner: why, and since when they are ready.

    `nearest` is what the last round found, where nobody suited. `excluded` and `eligible` count the
    other side, for coordinators alone: how many each rule keeps away, and how many others took.
    """

    participant_id: str
    person_id: str
    role: Role
    reason: WaitingCode
    ready: bool
    waiting_days: float | None
    nearest: NearestView | None
    excluded: dict[RuleCode, int] | None
    eligible: int | None


def routes() -> APIRouter:
    """Return the routes."""
    router = APIRouter(tags=["matching"])

    @router.post("/programs/{program_id}/rounds", status_code=202, response_model=RoundView)
    async def request_round(call: Coordinator, program_id: str, request: RoundRequest) -> Response:
        """Ask for a round over everybody who is free; it runs in the background."""
        return await call.answer(
            202,
            RoundView.of,
            handlers.request_round,
            call.caller,
            call.now,
            program_id,
            request.seed,
        )

    @router.get("/programs/{program_id}/rounds")
    async def list_rounds(
        call: Coordinator, program_id: str, limit: Limit = 50, cursor: Cursor = None
    ) -> Page[RoundView]:
        """List a program's rounds, newest first."""
        access.must_coordinate(call.caller, program_id)
        found = await call.store.find(
            Round,
            {"program_id": program_id},
            order_by="requested_at",
            descending=True,
            after=read_cursor(cursor),
            limit=limit + 1,
        )
        return page(found, limit, RoundView.of, order_by="requested_at")

    @router.post("/programs/{program_id}/preview", status_code=202, response_model=PreviewView)
    async def request_preview(
        call: Coordinator, program_id: str, request: PreviewRequest
    ) -> Response:
        """Ask what a round would find now; it is made in the background and proposes nothing."""
        return await call.answer(
            202,
            PreviewView.of,
            handlers.request_preview,
            call.caller,
            call.now,
            program_id,
            request.seed,
            request.changes.model_dump(exclude_none=True),
            with_what_if=request.what_if,
        )

    @router.get("/programs/{program_id}/preview")
    async def get_preview(call: Coordinator, program_id: str) -> PreviewView:
        """Return a program's newest preview."""
        access.must_coordinate(call.caller, program_id)
        return PreviewView.of(await call.store.require(Preview, Preview.id_of(program_id)))

    @router.get("/rounds/{round_id}")
    async def get_round(call: Coordinator, round_id: str) -> RoundView:
        """Return a round."""
        found = await call.store.get(Round, round_id)
        if found is None or not call.caller.coordinates(found.program_id):
            raise_not_found("round", round_id)
        return RoundView.of(found, await call.store.get(RoundProgress, round_id))

    @router.get("/rounds/{round_id}/fairness")
    async def get_fairness(call: Coordinator, round_id: str) -> FairnessView:
        """Return how a completed round treated groups of people."""
        found = await call.store.get(Round, round_id)
        if found is None or not call.caller.coordinates(found.program_id):
            raise_not_found("round", round_id)
        program = await require_program(call.store, found.program_id)
        if program.threshold is None:
            raise_not_found("threshold of program", found.program_id)
        scores = {
            step: found.committed.scores[step] for step in sorted(found.committed.scores, key=int)
        }
        shown = found.committed.proposed >= program.threshold
        return FairnessView(
            round_id=round_id,
            threshold=program.threshold,
            groups=found.fairness(program.threshold),
            scores=scores if shown else None,
        )

    @router.post("/rounds/{round_id}/cancel", response_model=RoundView)
    async def cancel_round(call: Coordinator, round_id: str) -> Response:
        """Call a round off that has no result yet."""
        return await call.answer(
            200, RoundView.of, handlers.cancel_round, call.caller, call.now, round_id
        )

    @router.get("/pairs")
    async def list_pairs(
        call: ParticipantOrCoordinator,
        program: ProgramId,
        status: Annotated[PairStatus | None, Query()] = None,
        limit: Limit = 50,
        cursor: Cursor = None,
    ) -> Page[PairView]:
        """List a program's pairs and proposals; a participant sees only their own."""
        where: dict[str, Condition] = {"program_id": program}
        if status is not None:
            where["status"] = status
        if not access.sees_all(call.caller, program):
            member = await own_member(call.store, program, call.caller.subject)
            if member is None:
                return Page(items=[])
            where["participant_ids"] = Contains(member.id)
        found = await call.store.find(Pair, where, after=read_cursor(cursor), limit=limit + 1)
        return page(found, limit, lambda pair: PairView.of(pair, call.caller))

    @router.get("/pairs/{pair_id}")
    async def get_pair(call: ParticipantOrCoordinator, pair_id: str) -> PairView:
        """Return a pair."""
        pair = await call.store.get(Pair, pair_id)
        if pair is None:
            raise_not_found("pair", pair_id)
        access.must_see(call.caller, pair)
        return PairView.of(pair, call.caller)

    @router.post("/pairs/{pair_id}/accept", response_model=PairView)
    async def accept(call: Participating, pair_id: str) -> Response:
        """Say yes; the pair exists once all have."""
        return await call.answer(
            200,
            lambda pair: PairView.of(pair, call.caller),
            handlers.accept_pair,
            call.caller,
            call.now,
            pair_id,
        )

    @router.post("/pairs/{pair_id}/decline", response_model=PairView)
    async def decline(call: Participating, pair_id: str) -> Response:
        """Say no, without a reason; nobody is told who it was."""
        return await call.answer(
            200,
            lambda pair: PairView.of(pair, call.caller),
            handlers.decline_pair,
            call.caller,
            call.now,
            pair_id,
        )

    @router.get("/programs/{program_id}/waiting-list")
    async def waiting_list(
        call: ParticipantOrCoordinator, program_id: str, limit: Limit = 50, cursor: Cursor = None
    ) -> Page[WaitingEntry]:
        """List who waits for a partner and why; a participant sees only themself.

        A page may hold fewer entries than asked for although there is a next one.
        """
        where: dict[str, Condition] = {
            "program_id": program_id,
            "status": In(("enrolled", "paused")),
        }
        if not access.sees_all(call.caller, program_id):
            where["person_id"] = call.caller.subject
        found = await call.store.find(PoolMember, where, after=read_cursor(cursor), limit=limit + 1)
        members = page(found, limit, lambda member: member)
        return Page(
            items=[entry for member in members.items for entry in _waiting(member, call)],
            next_cursor=members.next_cursor,
        )

    return router


def _waiting(member: PoolMember, call: Call) -> list[WaitingEntry]:
    entries = []
    roles: tuple[Role, ...] = ("mentor", "mentee")
    for role in roles:
        code = member.waiting_code(role)
        if code is None:
            continue
        days = None
        if member.ready:
            days = (call.now - member.ready_since(role)).total_seconds() / 86400
        why = member.explained if code == member.unmatched else None
        counted = why if call.caller.coordinates(member.program_id) else None
        entries.append(
            WaitingEntry(
                participant_id=member.id,
                person_id=member.person_id,
                role=role,
                reason=code,
                ready=member.ready,
                waiting_days=days,
                nearest=NearestView.of(why.nearest) if why and why.nearest else None,
                excluded=counted.excluded if counted else None,
                eligible=counted.eligible if counted else None,
            )
        )
    return entries
