"""The demo's year, step by step, through public HTTP APIs alone.

Every step can be run again: commands carry an Idempotency-Key made of the step and the actor, and
what is done next is read from the platform. A demo that was killed goes on at the step it was in.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, TypeVar

from deploy.client import ApiError, Client, Json
from deploy.demo.people import Actor, Plan, chance, make_plan, profile
from shared.clock import FileClock, monotonic
from shared.events.topics import SERVICES
from shared.http.auth import LocalIssuer, Role

T = TypeVar("T")
R = TypeVar("R")

START = date(2026, 1, 5)
_DAYS_A_MONTH = 30.4375
_ENROLLMENT_DAYS = 10
_FIRST_ROUND = 12
_WAVE_DAYS = 14
_AT_ONCE = 24
_LAST_BREAK = 10
_SETTLE_SECONDS = 60.0
_OPEN = ("proposed", "active", "paused")


class DemoError(Exception):
    """The demo can't go on; the message says why and what to do."""


@dataclass(frozen=True)
class Step:
    """One step: when it happens, what is said of it, and what is done."""

    name: str
    day: int
    said: str
    run: Callable[[], Awaitable[None]]


@dataclass
class Story:
    """Everything the steps need."""

    client: Client
    issuer: LocalIssuer
    clock: FileClock
    spec: Json
    program_id: str
    roster: bytes
    seed: int
    months: int
    mentors: int
    mentees: int
    refused: dict[str, int] = field(default_factory=dict)
    patience: float = _SETTLE_SECONDS
    _plan: Plan | None = None
    _tokens: dict[str, str] = field(default_factory=dict)

    # -- the calendar --------------------------------------------------------------------------

    @property
    def days(self) -> int:
        """How long the program runs."""
        return round(self.months * _DAYS_A_MONTH)

    @property
    def cadence(self) -> int:
        """Days between a pair's sessions."""
        return int(self.spec["cadence_days"])

    def program(self, plan: Plan) -> Json:
        """Return the program for this roster and this length: one rotation in its middle."""
        expiry = min(int(self.spec["proposal_expiry_days"]), max(2, self.days // 13))
        return self.spec | {
            "starts_on": START.isoformat(),
            "ends_on": (START + timedelta(days=self.days)).isoformat(),
            "proposal_expiry_days": expiry,
            "term_days": max(14, self.days // 2 - expiry),
            "min_level_gap": plan.min_level_gap,
            "eligibility": {
                "mentor_min_level": plan.mentor_min_level,
                "mentee_max_level": plan.mentee_max_level,
            },
        }

    def steps(self) -> list[Step]:
        """Return the whole year in order."""
        expiry = min(int(self.spec["proposal_expiry_days"]), max(2, self.days // 13))
        second = _FIRST_ROUND + expiry + 1
        term = max(14, self.days // 2 - expiry)
        rotation = _FIRST_ROUND + expiry + term + 1
        late_rotation = second + expiry + term + 1
        steps = [
            Step("import", 0, "HR imports the roster", self._import),
            Step("publish", 0, "the program office publishes the program", self._publish),
        ]
        steps += [
            Step(f"enroll-{day}", day, "people enroll themselves and train", self._enroll(day))
            for day in range(_ENROLLMENT_DAYS)
        ]
        steps += [
            Step("refuse", _ENROLLMENT_DAYS, "others try to enroll them", self._try_for_others),
            Step("round-1", _FIRST_ROUND, "the first round proposes pairs", self._round("round-1")),
            Step("answer-1", _FIRST_ROUND + 1, "both sides answer", self._answer("answer-1")),
            Step("round-2", second, "a round for those still waiting", self._round("round-2")),
            Step("answer-2", second + 1, "both sides answer", self._answer("answer-2")),
            Step("rotate-1", rotation, "terms end: everybody rotates", self._rotated),
            Step("answer-3", rotation + 1, "both sides answer", self._answer("answer-3")),
            Step("rotate-2", late_rotation, "later terms end and rotate", self._rotated),
            Step("answer-4", late_rotation + 1, "both sides answer", self._answer("answer-4")),
        ]
        for number, day in enumerate(range(second + 2, self.days - 1, _WAVE_DAYS)):
            said = "pairs meet and answer a pulse"
            steps.append(Step(f"wave-{number}", day, said, self._wave(number, day)))
        steps.append(Step("close", self.days, "the program closes", self._close))
        return sorted(steps, key=lambda step: step.day)

    # -- who calls -----------------------------------------------------------------------------

    def token(self, subject: str, *roles: Role) -> str:
        """Return a token, made once: coordinators and analysts get this program."""
        known = self._tokens.get(f"{subject} {roles}")
        if known is None:
            programs = (self.program_id,) if {"coordinator", "analyst"} & set(roles) else ()
            known = self.issuer.issue(subject, roles, programs)
            self._tokens[f"{subject} {roles}"] = known
        return known

    @property
    def office(self) -> str:
        """The program office's token."""
        return self.token("program-office", "coordinator")

    def person(self, person_id: str) -> str:
        """Return a participant's token."""
        return self.token(person_id, "participant")

    async def plan(self) -> Plan:
        """Return who takes part, from the roster as the platform imported it."""
        if self._plan is None:
            hr = self.token("hr", "hr")
            people = [p async for p in self.client.items(hr, "/enrollment/v1/roster/people")]
            self._plan = make_plan(
                people, mentors=self.mentors, mentees=self.mentees, seed=self.seed
            )
        return self._plan

    # -- time and quiet ------------------------------------------------------------------------

    def move_to(self, day: int, hour: int = 8, minute: int = 0) -> datetime:
        """Move the simulated clock forward to an hour of a day; never back."""
        moment = datetime.combine(START + timedelta(days=day), time(hour, minute), UTC)
        moment = max(moment, self.clock.now())
        self.clock.set(moment)
        return moment

    async def settle(self) -> None:
        """Wait until all services have published, consumed and done what is due."""
        operator = self.token("demo", "operator")
        deadline = monotonic() + self.patience
        # Services found idle in a row. Events go from one to the next in this order, so one pass
        # over all of them is rest.
        quiet = 0
        while quiet < len(SERVICES):
            service = SERVICES[quiet]
            flow = await self.client.get(operator, f"/{service}/v1/operations/flow")
            if flow["stopped_because"]:
                msg = f"{service} stopped: {flow['stopped_because']}"
                raise DemoError(msg)
            if (
                not flow["outbox_pending"]
                and not flow["lag"]
                and datetime.fromisoformat(flow["scheduled_until"]) >= self.clock.now()
            ):
                quiet += 1
                continue
            quiet = 0
            if monotonic() > deadline:
                msg = "The services did not come to rest; see their logs and `upward doctor`."
                raise DemoError(msg)
            await asyncio.sleep(0.03)

    # -- the steps -----------------------------------------------------------------------------

    async def _import(self) -> None:
        hr = self.token("hr", "hr")
        await self.client.upload(hr, "/enrollment/v1/roster/imports", self.roster, "text/csv")

    async def _publish(self) -> None:
        plan = await self.plan()
        await self.client.send(
            "PUT",
            self.office,
            f"/enrollment/v1/programs/{self.program_id}",
            self.program(plan),
            key="publish",
        )
        await self.settle()

    def _enroll(self, day: int) -> Callable[[], Awaitable[None]]:
        async def run() -> None:
            actors = [
                actor
                for actor in (await self.plan()).actors
                if int(chance(self.seed, "day", actor.person_id) * _ENROLLMENT_DAYS) == day
            ]
            await _all(actors, self._enroll_one)

        return run

    async def _enroll_one(self, actor: Actor) -> None:
        token, topics = self.person(actor.person_id), [t["topic_id"] for t in self.spec["topics"]]
        enrolled = await self.client.send(
            "POST",
            token,
            f"/enrollment/v1/programs/{self.program_id}/participants",
            profile(actor, topics, self.seed),
            key="enroll",
        )
        if chance(self.seed, "trains", actor.person_id) < 0.04:
            return  # shows what waiting for training looks like
        for module in self.spec["training"][actor.role]:
            await self.client.send(
                "POST",
                token,
                f"/enrollment/v1/participants/{enrolled['participant_id']}/training",
                {"module": module},
                key=f"train-{module}",
            )

    async def _try_for_others(self) -> None:
        """Try what must be refused, and stop the demo if any of it is not."""
        plan = await self.plan()
        topics = [topic["topic_id"] for topic in self.spec["topics"]]
        path = f"/enrollment/v1/programs/{self.program_id}/participants"
        own = {p["person_id"]: p async for p in self.client.items(self.office, path)}
        for actor in plan.actors[:10]:
            body, participant = profile(actor, topics, self.seed), own[actor.person_id]
            boss = self.person(actor.manager_person_id or "nobody")
            there = f"/enrollment/v1/participants/{participant['participant_id']}"
            silent = {key: text for key, text in body.items() if key not in {"intent", "eagerness"}}
            await self._refused("coordinator enrolls", 403, "POST", self.office, path, body)
            await self._refused(
                "manager names a report", 422, "POST", boss, path,
                body | {"person_id": actor.person_id},
            )  # fmt: skip
            await self._refused(
                "manager changes a profile", 404, "PUT", boss, f"{there}/profile", body
            )
            await self._refused("manager withdraws", 404, "POST", boss, f"{there}/withdraw", {})
            await self._refused(
                "profile without intent", 422, "PUT", self.person(actor.person_id),
                f"{there}/profile", silent,
            )  # fmt: skip

    async def _refused(
        self, what: str, status: int, method: str, token: str, path: str, body: Json
    ) -> None:
        try:
            await self.client.send(method, token, path, body)
        except ApiError as error:
            if error.status == status:
                self.refused[what] = self.refused.get(what, 0) + 1
                return
            raise
        msg = f"{what}: was accepted and must not be"
        raise DemoError(msg)

    def _round(self, name: str) -> Callable[[], Awaitable[None]]:
        async def run() -> None:
            await self.settle()
            started = await self.client.send(
                "POST",
                self.office,
                f"/matching/v1/programs/{self.program_id}/rounds",
                {"seed": self.seed},
                key=name,
            )
            await self._completed(started["round_id"])
            await self.settle()

        return run

    async def _completed(self, round_id: str) -> None:
        for _ in range(3000):
            found = await self.client.get(self.office, f"/matching/v1/rounds/{round_id}")
            if found["status"] == "completed":
                return
            if found["status"] == "failed":
                msg = f"round {round_id} failed; see the log of matching"
                raise DemoError(msg)
            await asyncio.sleep(0.02)
        msg = f"round {round_id} did not end in a minute"
        raise DemoError(msg)

    async def _rotated(self) -> None:
        """Time has ended the terms: wait for the rotation that this brings by itself."""
        await self.settle()
        rounds = f"/matching/v1/programs/{self.program_id}/rounds"
        async for found in self.client.items(self.office, rounds):
            if found["status"] in {"requested", "running"}:
                await self._completed(found["round_id"])
        await self.settle()

    def _answer(self, step: str) -> Callable[[], Awaitable[None]]:
        async def run() -> None:
            await _all([pair async for pair in self._pairs("proposed")], self._answer_pair(step))
            await self.settle()

        return run

    async def _pairs(self, status: str) -> AsyncIterator[Json]:
        async for pair in self.client.items(
            self.office, "/matching/v1/pairs", program=self.program_id, status=status
        ):
            yield pair

    def _answer_pair(self, step: str) -> Callable[[Json], Awaitable[None]]:
        async def run(pair: Json) -> None:
            for member in (pair["mentor"], *pair["mentees"]):
                luck = chance(self.seed, "answer", pair["pair_id"], member["person_id"])
                if luck < 0.03:
                    return  # silence: the proposal expires
                answer = "decline" if luck < 0.08 else "accept"
                await self.client.send(
                    "POST",
                    self.person(member["person_id"]),
                    f"/matching/v1/pairs/{pair['pair_id']}/{answer}",
                    {},
                    key=f"{step}-{pair['pair_id']}",
                )
                if answer == "decline":
                    return

        return run

    def _wave(self, number: int, day: int) -> Callable[[], Awaitable[None]]:
        async def run() -> None:
            await self._come_and_go(number)
            path, waves = "/sessions/v1/pairs", max(1, self.cadence // _WAVE_DAYS)
            pairs = [
                pair
                async for pair in self.client.items(
                    self.office, path, program=self.program_id, status="active"
                )
                # Each pair meets once a cadence: its share of them in this wave.
                if (int(chance(self.seed, "phase", pair["pair_id"]) * waves) + number) % waves == 0
            ]
            start = datetime.combine(START + timedelta(days=day), time(12), UTC)
            planned = await _all(pairs, self._plan_session(number, start))
            self.clock.set(max(self.clock.now(), start + timedelta(minutes=55)))
            sessions = [item for item in planned if item is not None]
            await _all(sessions, self._hold(number, start))
            await self.settle()
            people = {member["person_id"] for pair, _ in sessions for member in _members(pair)}
            await _all(sorted(people), self._pulse(number))
            await self.settle()

        return run

    async def _come_and_go(self, wave: int) -> None:
        """Some take a break for two waves, a few leave; all before the year's middle."""
        if wave >= _LAST_BREAK + 3:
            return
        path = f"/enrollment/v1/programs/{self.program_id}/participants"
        async for participant in self.client.items(self.office, path):
            luck = chance(self.seed, "break", participant["participant_id"])
            when = int(chance(self.seed, "when", participant["participant_id"]) * _LAST_BREAK)
            act = None
            if participant["status"] == "enrolled" and wave == when:
                act = "pause" if luck < 0.02 else "withdraw" if luck < 0.03 else None
            elif participant["status"] == "paused" and wave >= when + 2:
                act = "resume"
            if act is not None:
                await self.client.send(
                    "POST",
                    self.person(participant["person_id"]),
                    f"/enrollment/v1/participants/{participant['participant_id']}/{act}",
                    {},
                    key=f"wave-{wave}-{act}",
                )
        await self.settle()

    def _plan_session(
        self, wave: int, start: datetime
    ) -> Callable[[Json], Awaitable[tuple[Json, Json] | None]]:
        async def run(pair: Json) -> tuple[Json, Json] | None:
            mentor, mentee = pair["mentor"], pair["mentees"][0]
            base, key = f"/sessions/v1/pairs/{pair['pair_id']}", f"wave-{wave}-{pair['pair_id']}"
            if not pair["ground_rules_agreed"]:
                for member in _members(pair):
                    await self.client.send(
                        "PUT",
                        self.person(member["person_id"]),
                        f"{base}/ground-rules",
                        {"scope": "general", "off_limits": []},
                        key=f"rules-{pair['pair_id']}",
                    )
            topics = self.spec["topics"]
            topic = topics[int(chance(self.seed, "topic", key) * len(topics))]["topic_id"]
            session = await self.client.send(
                "POST",
                self.person(mentee["person_id"]),
                f"{base}/sessions",
                {
                    "starts_at": start.isoformat(),
                    "minutes": 45,
                    "mode": "virtual",
                    "topics": [topic],
                    "agenda": {"goal": "See it through their eyes", "items": ["What has changed"]},
                },
                key=key,
            )
            await self.client.send(
                "POST",
                self.person(mentor["person_id"]),
                f"/sessions/v1/sessions/{session['session_id']}/confirm",
                {},
                key=f"{key}-confirm",
            )
            return pair, session

        return run

    def _hold(self, wave: int, start: datetime) -> Callable[[tuple[Json, Json]], Awaitable[None]]:
        async def run(item: tuple[Json, Json]) -> None:
            pair, session = item
            luck = chance(self.seed, "held", session["session_id"])
            path = f"/sessions/v1/sessions/{session['session_id']}"
            mentee = self.person(pair["mentees"][0]["person_id"])
            key = f"wave-{wave}-{session['session_id']}"
            if luck < 0.06:
                await self.client.send("POST", mentee, f"{path}/miss", {}, key=f"{key}-miss")
            elif luck < 0.10:
                await self.client.send("POST", mentee, f"{path}/cancel", {}, key=f"{key}-cancel")
            else:
                if luck < 0.15:
                    later = {"starts_at": (start + timedelta(minutes=25)).isoformat()}
                    await self.client.send("POST", mentee, f"{path}/move", later, key=f"{key}-move")
                held: dict[str, Any] = {
                    "minutes": 45,
                    "attended": [member["participant_id"] for member in _members(pair)],
                    "takeaways": ["Ask first, then explain"],
                    "learned": True,
                    "tags": [],
                }
                await self.client.send("POST", mentee, f"{path}/hold", held, key=f"{key}-hold")

        return run

    def _pulse(self, wave: int) -> Callable[[str], Awaitable[None]]:
        async def run(person_id: str) -> None:
            if chance(self.seed, "answers", person_id, wave) < 0.12:
                return
            token = self.person(person_id)
            async for survey in self.client.items(token, "/feedback/v1/surveys", state="due"):
                luck = chance(self.seed, "satisfied", survey["survey_id"])
                score = 5 if luck < 0.42 else 4 if luck < 0.86 else 3 if luck < 0.95 else 2
                await self.client.send(
                    "POST",
                    token,
                    f"/feedback/v1/surveys/{survey['survey_id']}/responses",
                    {"answers": {"satisfaction": score}},
                    key=f"pulse-{survey['survey_id']}",
                )

        return run

    async def _close(self) -> None:
        await self.client.send(
            "POST",
            self.office,
            f"/enrollment/v1/programs/{self.program_id}/close",
            {},
            key="close",
        )
        await self.settle()
        # The clock stands still now, so what the news brings about is waited for, not the clock.
        deadline = monotonic() + self.patience
        while [pair for status in _OPEN async for pair in self._pairs(status)]:
            if monotonic() > deadline:
                msg = "The program closed and its pairs did not end; see the log of matching."
                raise DemoError(msg)
            await asyncio.sleep(0.1)
        await self.settle()


def _members(pair: Json) -> list[Json]:
    return [pair["mentor"], *pair["mentees"]]


async def _all(items: Sequence[T], run: Callable[[T], Awaitable[R]]) -> list[R]:
    gate = asyncio.Semaphore(_AT_ONCE)

    async def one(item: T) -> R:
        async with gate:
            return await run(item)

    return list(await asyncio.gather(*(one(item) for item in items)))
