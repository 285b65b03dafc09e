"""A record is one JSON document that comes back as it was; anything else is refused, never guessed at."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sagalog import CodecError, SagaRecord, Status
from sagalog.decision.entries import Audit, Command, Handled, Held, Timer, Undo
from sagalog.decision.message import refusal
from sagalog.decision.record import decode_record, embed_state, encode_record, well_formed
from sagalog.definition.codec import Typed

NOW = datetime(2030, 1, 1, tzinfo=UTC)
text = st.text(st.characters(exclude_categories=("Cs",)), max_size=8)
moments = st.datetimes(timezones=st.just(UTC), min_value=datetime(1970, 1, 1), max_value=datetime(9000, 1, 1))  # noqa: DTZ001
raws = st.builds(
    lambda value: msgspec.Raw(json.dumps(value).encode()), st.dictionaries(text, st.integers() | text, max_size=3)
)
typed = st.builds(Typed, text, raws, st.integers(1, 9))
records = st.builds(
    SagaRecord,
    format=st.just(1),
    status=st.sampled_from(Status),
    state=raws,
    started_at=moments,
    updated_at=moments,
    handled=st.lists(st.builds(Handled, text, text), max_size=2).map(tuple),
    incarnation=st.integers(1, 5),
    inbox=st.lists(text, max_size=3).map(tuple),
    outbox=st.lists(st.builds(Command, text, typed, st.booleans()), max_size=3).map(tuple),
    timers=st.dictionaries(text, st.builds(Timer, text, moments, typed, st.booleans()), max_size=2),
    undo=st.lists(st.builds(Undo, text, typed), max_size=2).map(tuple),
    parked=text,
    stuck=text,
    held=st.lists(
        st.builds(Held, text, typed, st.sampled_from(["event", "timer", "refused"]), text, text), max_size=2
    ).map(tuple),
    audit=st.lists(st.builds(Audit, moments, text, text), max_size=2).map(tuple),
    inbox_ages=st.lists(st.tuples(moments, st.integers(0, 9)), max_size=2).map(tuple),
    inherited=st.lists(text, max_size=2).map(tuple),
    inherited_ages=st.lists(st.tuples(moments, st.integers(0, 9)), max_size=2).map(tuple),
    inherited_until=st.none() | moments,
)


@given(records)
def test_any_record_comes_back_as_it_was(record: SagaRecord) -> None:
    payload = encode_record(record)
    assert encode_record(decode_record(payload)) == payload
    back = decode_record(payload)
    assert back.outbox == record.outbox
    assert back.timers == record.timers
    assert json.loads(payload)["status"] == record.status.value


def test_a_field_that_this_code_does_not_know_is_refused_wherever_it_stands() -> None:
    stored = Typed("Ship", msgspec.Raw(b"{}"))
    now = datetime(2030, 1, 1, tzinfo=UTC)
    full = SagaRecord(1, Status.RUNNING, msgspec.Raw(b"{}"), now, now, handled=(Handled("m", "Placed"),))
    full.outbox, full.undo, full.timers = (
        (Command("1/0", stored),),
        (Undo("1/0", stored),),
        {"t": Timer("1/1", now, stored)},
    )
    full.held, full.audit = (Held("h", stored),), (Audit(now, "retry"),)
    document = json.loads(encode_record(full))
    places = [
        document,
        document["outbox"][0],
        document["outbox"][0]["command"],
        document["undo"][0],
        document["timers"]["t"],
        document["timers"]["t"]["event"],
        document["held"][0],
        document["audit"][0],
        document["handled"][0],
    ]
    for place in places:
        place["priority"] = 3
        with pytest.raises(
            CodecError, match="a field that this code does not know: either a newer version wrote it, so"
        ):
            decode_record(json.dumps(document).encode())
        del place["priority"]
    assert encode_record(decode_record(json.dumps(document).encode())) == encode_record(full)


@given(st.binary(max_size=300))
def test_bytes_that_are_no_record_raise_codec_error_and_nothing_else(data: bytes) -> None:
    with pytest.raises(CodecError):
        decode_record(data)


@given(records, st.data())
def test_a_record_with_a_changed_byte_is_decoded_or_refused(record: SagaRecord, data: st.DataObject) -> None:
    payload = bytearray(encode_record(record))
    payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    try:
        decode_record(bytes(payload))
    except CodecError:
        pass


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (b"[" * 100_000, "not JSON"),
        (b'{"format": 2}', "format 2; this code knows up to 1"),
        (b'{"format": 99, "status": "later"}', "format 99"),
        (b'{"format": 1, "status": "running"}', "does not have the fields"),
        (b"null", "does not have the fields"),
        (
            b'{"format":1,"status":"running","state":"\xff","started_at":"2030-01-01T00:00:00Z",'
            b'"updated_at":"2030-01-01T00:00:00Z"}',
            "not JSON",
        ),
        (b'{"format": 1, "status": "running", "priority": 3}', "a newer version wrote it"),
    ],
)
def test_a_record_that_cannot_be_read_says_why(payload: bytes, message: str) -> None:
    with pytest.raises(CodecError, match=message):
        decode_record(payload)


DEEP = b"[" * 100_000 + b"]" * 100_000


@given(
    st.binary(max_size=50) | st.sampled_from([b"{}", b" {}", b"1", b'"x"', b"\xff", b"", b"nul", b'{"a":1}\n', DEEP])
)
def test_any_state_bytes_survive_being_embedded(payload: bytes) -> None:
    now = datetime(2030, 1, 1, tzinfo=UTC)
    raw, wrapped = embed_state(payload)
    record = SagaRecord(1, Status.RUNNING, raw, now, now, state_is_base64=wrapped)
    assert decode_record(encode_record(record)).state_bytes() == payload


def test_json_state_is_readable_inside_the_record() -> None:
    now = datetime(2030, 1, 1, tzinfo=UTC)
    raw, wrapped = embed_state(b'{"total":5}')
    assert not wrapped
    assert json.loads(encode_record(SagaRecord(1, Status.RUNNING, raw, now, now)))["state"] == {"total": 5}


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"audit": (Audit(NOW, "retry", "a\ud800"),)}, "audit"),
        ({"audit": (Audit(NOW, "retry", by="\udfff"),)}, "audit"),
        ({"parked": "because \ud800"}, "parked"),
        ({"inbox": ("m\ud800",)}, "inbox"),
        ({"handled": (Handled("m", "T\ud800"),), "parked": "\ud800"}, "handled and parked"),
    ],
)
def test_a_text_that_is_no_unicode_is_refused_and_the_error_names_the_field(change: dict[str, Any], where: str) -> None:
    record = msgspec.structs.replace(SagaRecord(1, Status.RUNNING, msgspec.Raw(b"{}"), NOW, NOW), **change)
    with pytest.raises(CodecError, match=rf"in {where}, a string contains a lone surrogate,"):
        encode_record(record)


def test_a_reason_that_is_no_unicode_is_stored_in_a_form_that_can_be_read() -> None:
    assert well_formed("größer \ud800\udc00, 字") == "größer \\ud800\\udc00, 字"
    assert well_formed("plain") == "plain"
    assert refusal("command", "id", "no\ud800").reason == "no\\ud800"
