"""What `upward doctor` looks at on a cluster: settings, Kafka, MongoDB, and the platform."""

import asyncio
import os
from collections.abc import Coroutine
from typing import Any

from aiokafka.errors import KafkaError, TopicAuthorizationFailedError
from pydantic_settings import BaseSettings

from deploy.client import Client, UnreachableError
from deploy.cluster.migration import Unstarted
from deploy.cluster.platform import key_mark
from deploy.cluster.settings import (
    GROUPS,
    KafkaSettings,
    MongoSettings,
    ServiceSettings,
    faults,
    misspelled,
)
from deploy.cluster.topics import TopicsAdmin, TopicsError
from deploy.findings import Finding, flows
from shared.errors import UpwardError
from shared.events.topics import SERVICES, TOPICS
from shared.store.mongo_driver import Database

# The longest of what a part waits for is a service's flow, or a MongoDB that does not answer.
_PART_SECONDS = 10.0


async def examine(url: str, token: str | None) -> list[Finding]:
    """Return the findings, within some seconds; never raises for what it finds."""
    settings = {group: _settings(group) for group in GROUPS}
    well = {group for group, finding in settings.items() if finding.state == "ok"}
    parts = []
    if KafkaSettings in well:
        advice = "See that the brokers run, and what UPWARD_KAFKA_SERVERS and its login say."
        parts.append(_part("Kafka", _kafka(KafkaSettings()), advice))
    if MongoSettings in well:
        advice = "See that the replica set runs, and what UPWARD_MONGODB_URI says."
        key = ServiceSettings().secret_bytes if ServiceSettings in well else None
        parts.append(_part("MongoDB", _mongodb(MongoSettings(), key), advice))
    parts.append(_part("platform", _platform(url, token), "Read the services' log for the reason."))
    found = await asyncio.gather(*parts)
    return [*_names(), *settings.values(), *(finding for part in found for finding in part)]


async def _part(
    what: str, looking: Coroutine[Any, Any, list[Finding]], advice: str
) -> list[Finding]:
    # A task of its own: clients may leak a cancellation, and not end when they are asked to.
    task = asyncio.create_task(looking)
    await asyncio.wait({task}, timeout=_PART_SECONDS)
    if not task.done():
        task.cancel()
        found = f"no answer within {_PART_SECONDS:g} s"
    elif task.cancelled():
        found = "the connection broke"
    elif error := task.exception():
        found = str(error) or type(error).__name__
    else:
        return task.result()
    return [Finding(state="wrong", what=what, found=found, advice=advice)]


_SETTINGS_ADVICE = "`upward settings` tells what each variable means."


def _names() -> list[Finding]:
    return [
        Finding(state="wrong", what="variables", found=found, advice=_SETTINGS_ADVICE)
        for found in misspelled(os.environ)
    ]


def _settings(group: type[BaseSettings]) -> Finding:
    what = f"{group.model_config['env_prefix']}…"
    if found := faults(group):
        return Finding(state="wrong", what=what, found="; ".join(found), advice=_SETTINGS_ADVICE)
    try:
        if group is KafkaSettings:
            KafkaSettings().security()
    except OSError as error:
        advice = "Look at the files that UPWARD_KAFKA_SSL_… name."
        return Finding(state="wrong", what=what, found=str(error), advice=advice)
    return Finding(state="ok", what=what, found="as it must be")


async def _kafka(settings: KafkaSettings) -> list[Finding]:
    async with TopicsAdmin(settings) as admin:
        answers = Finding(state="ok", what="Kafka", found=f"{', '.join(settings.servers)} answers")
        try:
            return [answers, *await _topics(admin)]
        except TopicAuthorizationFailedError:
            found = "this Kafka user may not see how they are configured"
            advice = "Ask as the user of `upward topics apply`."
            return [answers, Finding(state="note", what="topics", found=found, advice=advice)]
        except (KafkaError, TopicsError) as error:
            advice = "upward topics apply"
            return [
                answers,
                Finding(state="wrong", what="topics", found=str(error), advice=advice),
            ]


async def _topics(admin: TopicsAdmin) -> list[Finding]:
    changes = await admin.plan(list(TOPICS.values()), None)
    findings = [
        Finding(
            state="wrong",
            what=change.topic,
            found="not there, or not for this Kafka user to see"
            if change.create is not None
            else f"it differs; to do: {change.said}",
            advice="upward topics apply",
        )
        for change in changes
    ]
    found = f"all {len(TOPICS)} as they are declared"
    return findings or [Finding(state="ok", what="topics", found=found)]


async def _mongodb(settings: MongoSettings, key: bytes | None) -> list[Finding]:
    uri = settings.uri.get_secret_value()
    database = Database(uri, settings.database_prefix, service="doctor")
    try:
        await database.ping()
    finally:
        await database.close()
    answers = Finding(state="ok", what="MongoDB", found="the primary answers")
    platform = Unstarted(settings)
    looks = (_database(platform, service, key) for service in SERVICES)
    return [answers, *await asyncio.gather(*looks)]


async def _database(platform: Unstarted, service: str, key: bytes | None) -> Finding:
    what = f"MongoDB, {service}"
    store, documents = platform.store(service), platform.documents(service)
    advice = "upward migrate"
    try:
        # As the service looks at its start; what is left to say then is no longer needed.
        await store.open(documents)
        obsolete = await store.migrate(documents, dry_run=True)
        advice = "Set UPWARD_SECRET_KEY to the key it was begun with."
        if key is not None:
            await store.compare_key(key_mark(key, service))
    except UpwardError as error:
        return Finding(state="wrong", what=what, found=error.detail, advice=advice)
    finally:
        await store.close()
    if obsolete:
        return Finding(state="note", what=what, found="; ".join(obsolete))
    return Finding(state="ok", what=what, found="every collection and index is there")


async def _platform(url: str, token: str | None) -> list[Finding]:
    try:
        # Without repetitions: they are for commands.
        async with Client(url, pauses=()) as client:
            await client.text("/readyz")  # a load balancer's own 404 is an answer, too
            if token is not None:
                return await flows(client, token)
    except UnreachableError as error:
        advice = "Name where it answers with --url or UPWARD_URL; `upward serve SERVICE` starts it."
        return [Finding(state="note", what="platform", found=str(error), advice=advice)]
    found = f"{url} answers; how far its services are, only the role operator may see"
    advice = "Give an operator's token with --token or UPWARD_TOKEN."
    return [Finding(state="note", what="platform", found=found, advice=advice)]
