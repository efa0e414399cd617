"""Trace context: what is taken up, and what begins a new trace."""

import re

import pytest

from shared.tracing import current_trace, next_traceparent

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.mark.parametrize("flags", ["00", "01"])
@pytest.mark.parametrize("form", ["00-{}-{}-{}", "01-{}-{}-{}", "cc-{}-{}-{}-what-comes-later"])
def test_a_valid_trace_goes_on_in_a_new_span_with_its_flags(form: str, flags: str) -> None:
    version, trace, span, kept = next_traceparent(form.format(TRACE, SPAN, flags)).split("-")
    assert (version, trace, kept) == ("00", TRACE, flags)
    assert span != SPAN


@pytest.mark.parametrize(
    "received",
    [
        None,
        "",
        "garbage",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{TRACE}-{SPAN}-01\n",
        f"00-{TRACE}-{SPAN}",
    ],
)
def test_anything_else_begins_a_new_trace(received: str | None) -> None:
    begun = next_traceparent(received)
    assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-01", begun)
    assert TRACE not in begun


def test_there_are_no_links_outside_of_any_work() -> None:
    trace = current_trace()
    assert (trace.correlation_id, trace.causation_id, trace.traceparent) == (None, None, None)
