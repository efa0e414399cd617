"""Failpoints kill at the named hit, and cost nothing when none is asked for."""

import asyncio
import os
import signal
from collections.abc import Iterator

import pytest

from shared import failpoints
from shared.failpoints import failpoint


@pytest.fixture
def killed(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    signals: list[int] = []
    monkeypatch.setattr(os, "kill", lambda _, number: signals.append(number))
    failpoints._armed.cache_clear()
    yield signals
    failpoints._armed.cache_clear()


def test_no_failpoint_kills_unless_the_environment_names_it(
    killed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("UPWARD_FAILPOINT", raising=False)
    failpoint("log.before_append")
    assert killed == []


def test_a_failpoint_kills_at_the_hit_that_was_asked_for(
    killed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UPWARD_FAILPOINT", "log.after_append:3")
    for _ in range(2):
        failpoint("log.after_append")
        failpoint("log.before_append")
    assert killed == []
    failpoint("log.after_append")
    assert killed == [signal.SIGKILL]


def test_a_failpoint_may_leak_a_cancellation_once(
    killed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UPWARD_FAILPOINT", "consumer.before_apply:2:cancel")
    failpoint("consumer.before_apply")
    with pytest.raises(asyncio.CancelledError):
        failpoint("consumer.before_apply")
    failpoint("consumer.before_apply")
    assert killed == []


@pytest.mark.parametrize(
    "setting", ["log.before_lunch", "log.after_append:0", "log.after_append:1:sleep"]
)
def test_a_setting_that_names_no_failpoint_is_an_error(
    killed: list[int], monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    monkeypatch.setenv("UPWARD_FAILPOINT", setting)
    with pytest.raises(ValueError, match="UPWARD_FAILPOINT"):
        failpoint("log.before_append")
