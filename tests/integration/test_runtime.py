"""A service's start and stop, when not all goes well."""

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from shared import metrics, runtime
from shared.errors import StoreUnavailableError, UnavailableError
from shared.messaging import consumer
from shared.messaging.lag import Offsets
from tests.support.platform import running_platform


async def test_what_fails_to_stop_does_not_keep_the_rest_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_platform(tmp_path, ["enrollment"]) as platform:
        service = platform.platform.services[0]
        original = service._relay.stop

        async def fail() -> None:
            await original()
            raise LookupError

        with monkeypatch.context() as patch:
            patch.setattr(service._relay, "stop", fail)
            with pytest.raises(LookupError):
                await service.stop()
        assert not await service.store.ping()
        assert not service._relay.alive()
        assert service.live() == []
        assert await service.ready() == ["enrollment: not running"]


async def test_a_client_that_cancels_itself_does_not_end_the_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_platform(tmp_path, ["feedback"]) as platform:
        (service,) = platform.platform.services
        (subscriber,) = service._broker.subscribers
        original = subscriber.stop

        async def leak() -> None:
            await original()
            raise asyncio.CancelledError

        with monkeypatch.context() as patch:
            patch.setattr(subscriber, "stop", leak)
            await service.stop()
        assert not await service.store.ping()
        assert not service._relay.alive()


async def test_readiness_is_told_in_time_whatever_the_store_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hang() -> bool:
        await asyncio.Event().wait()
        return True

    monkeypatch.setattr(runtime, "_PING_SECONDS", 0.05)
    async with running_platform(tmp_path, ["feedback"]) as platform:
        (service,) = platform.platform.services
        monkeypatch.setattr(service.store, "ping", hang)
        async with asyncio.timeout(10):
            assert await service.ready() == ["feedback: the store does not answer"]


async def test_a_service_that_can_t_start_leaves_nothing_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_platform(tmp_path, ["enrollment"]) as platform:
        service = platform.platform.services[0]
        await service.stop()

        async def fail() -> None:
            raise StoreUnavailableError("no bus")

        monkeypatch.setattr(service._broker, "start", fail)
        with pytest.raises(StoreUnavailableError):
            await service.start()
        assert not await service.store.ping()
        assert await service.ready() == ["enrollment: not running"]


@pytest.mark.parametrize("name", ["scheduler", "background scheduler"])
async def test_a_scheduler_that_ended_is_told_whichever_it_is(tmp_path: Path, name: str) -> None:
    async with running_platform(tmp_path, ["matching"]) as platform:
        service = platform.platform.services[0]
        client = await platform.anonymous()
        assert (await client.get("/livez")).status_code == 200
        scheduler = service._schedulers[name]
        task = scheduler._task
        assert task is not None
        task.cancel()
        await asyncio.wait({task})
        live = await client.get("/livez")
        assert (live.status_code, live.text) == (503, f"matching: the {name} ended\n")
        scheduler.start()
        assert (await client.get("/livez")).status_code == 200


async def test_while_the_bus_does_not_answer_jobs_go_on_and_what_waits_for_it_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hang(_offsets: Offsets, _partitions: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(Offsets, "_look", hang)
    metrics.CONSUMER_LAG_SECONDS.labels("sessions").set(0)
    monkeypatch.setattr(consumer, "_LOOK_SECONDS", 0.1)
    async with running_platform(tmp_path, ["sessions"]) as platform:
        (service,) = platform.platform.services
        service._admission.outbox_pending = 77
        for _ in range(200):
            platform.clock.set(platform.clock.now() + timedelta(minutes=1))
            await asyncio.sleep(0.05)
            behind = platform.clock.now() - await service._scheduler.done_until()
            if not service._admission.outbox_pending and lag_seconds("sessions"):
                break
        assert service._admission.outbox_pending == 0
        assert lag_seconds("sessions") > 0
        assert behind < timedelta(minutes=10)
        with pytest.raises(UnavailableError):
            await service.flow()


def lag_seconds(service: str) -> float:
    return REGISTRY.get_sample_value("upward_consumer_lag_seconds", {"service": service}) or 0.0


async def test_probes_say_what_only_a_restart_would_mend(tmp_path: Path) -> None:
    async with running_platform(tmp_path, ["feedback"]) as platform:
        service = platform.platform.services[0]
        client = await platform.anonymous()
        assert (await client.get("/livez")).status_code == 200
        task = service._relay._task
        assert task is not None
        task.cancel()
        await platform.settle()
        live = await client.get("/livez")
        assert (live.status_code, live.text) == (503, "feedback: the relay ended\n")
        service._relay.start()
        assert (await client.get("/livez")).status_code == 200
        await service.store.close()
        ready = await client.get("/readyz")
        assert (ready.status_code, ready.text) == (503, "feedback: the store does not answer\n")
        assert (await client.get("/livez")).status_code == 200
        await service.store.open(service.documents)
