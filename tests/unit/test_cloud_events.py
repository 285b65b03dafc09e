"""What is read as a CloudEvent, and why something is none."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from sagalog.brokers.cloudevents import STRUCTURED, CloudEvent, NotCloudEventError, read

TRACE = f"00-{'1' * 32}-{'2' * 16}-01"


def structured(**attributes: Any) -> CloudEvent:
    event = {"specversion": "1.0", "id": "17", "source": "/shop", "type": "Added", "data": {"n": 1}, **attributes}
    return read(json.dumps(event).encode(), {"content-type": STRUCTURED})


def binary(**attributes: str) -> CloudEvent:
    event = {"specversion": "1.0", "id": "17", "source": "/shop", "type": "Added", **attributes}
    return read(b"{}", {f"ce-{name}": value for name, value in event.items()})


@pytest.mark.parametrize("attribute", ["id", "source", "type", "time", "dataschema", "datacontenttype", "data_base64"])
def test_an_attribute_of_another_type_is_named_without_its_value(attribute: str) -> None:
    with pytest.raises(NotCloudEventError, match=rf"at `\$.{attribute}`") as raised:
        structured(**{attribute: 4711})
    assert "4711" not in str(raised.value)


@pytest.mark.parametrize(
    ("dataschema", "version"),
    [("", 1), ("https://example.com/added", 1), ("https://example.com/added/2", 2), ("v0007/", 7), ("x2", 1)]
    + [("/" + "9" * 17, 10**17 - 1), ("/" + "9" * 18, 10**18), ("/" + "1" * 5000, 10**18)],
    ids=range(8),
)
def test_the_number_at_the_end_of_the_schema_is_its_version_however_long(dataschema: str, version: int) -> None:
    assert binary(dataschema=dataschema).version == version


@pytest.mark.parametrize("trace", [17, None, ["x"], "garbage", ""])
def test_a_trace_that_is_none_is_passed_over(trace: Any) -> None:
    assert structured(traceparent=trace).traceparent == ""
    assert structured(traceparent=TRACE).traceparent == TRACE


def test_data_that_is_there_twice_is_refused() -> None:
    with pytest.raises(NotCloudEventError, match="data"):
        structured(data_base64="e30=")


def test_a_batch_is_called_one() -> None:
    with pytest.raises(NotCloudEventError, match="it is a batch"):
        read(b"[]", {"Content-Type": "application/cloudevents-batch+json; charset=utf-8"})


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-11-30t07:00:00z", datetime(2026, 11, 30, 7, tzinfo=UTC)),
        ("2016-12-31T23:59:60Z", datetime(2016, 12, 31, 23, 59, 59, 999999, UTC)),
        ("2016-12-31T23:59:60.5Z", datetime(2016, 12, 31, 23, 59, 59, 999999, UTC)),
        ("2026-11-30T07:00:00.123456789Z", datetime(2026, 11, 30, 7, 0, 0, 123456, UTC)),
    ],
)
def test_every_moment_of_rfc_3339_is_read(text: str, moment: datetime) -> None:
    assert binary(time=text).time == moment
    assert structured(time=text).time == moment


@pytest.mark.parametrize("text", ["2026-11-30T07:00:00", "2026-11-30T24:00:00Z", "2026-11-30", "yesterday", "T:60"])
def test_what_is_no_moment_with_a_zone_is_refused(text: str) -> None:
    with pytest.raises(NotCloudEventError, match="not an RFC 3339 timestamp with a time zone"):
        binary(time=text)
