"""CloudEvents 1.0 in JSON: structured mode (all in the body) and binary mode (attributes in headers).

The bindings write the attributes of binary mode differently: `ce-type` (HTTP, NATS), `ce_type` (Kafka), `cloudEvents:type`
and `cloudEvents_type` (AMQP). All are read, whatever broker they come through; header names in any case.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec

from ..definition.codec import NOT_JSON

STRUCTURED = "application/cloudevents+json"
_BATCH = "application/cloudevents-batch"
_PREFIXES = ("ce-", "ce_", "cloudevents:", "cloudevents_")
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_LEAP_SECOND = re.compile(r"(T\d\d:\d\d):60(?:\.\d+)?")
_DIGITS = 18  # of the longest number that is read
_VERSION = re.compile(r"(?:^|[/:#=.\-_v])([0-9]+)/?$")


class NotCloudEventError(ValueError):
    """The message is no CloudEvent, or a damaged one. Its text quotes no values."""


class CloudEvent(msgspec.Struct, frozen=True):
    """A CloudEvent whose data is JSON, not decoded yet."""

    id: str
    source: str
    type: str
    data: msgspec.Raw = msgspec.Raw(b"null")
    subject: str = ""
    dataschema: str = ""
    traceparent: str = ""
    datacontenttype: str = "application/json"
    time: datetime | None = None

    @property
    def version(self) -> int:
        """The schema version: the number at the end of `dataschema`; 1 where none is said."""
        found = _VERSION.search(self.dataschema)
        digits = found.group(1) if found else "1"
        return int(digits) if len(digits) < _DIGITS else 10**_DIGITS  # which no code knows

    @property
    def message_id(self) -> str:
        """`source` and `id`, which together are of this event alone."""
        return f"{self.source.replace(' ', '%20')} {self.id}"


class StructuredEvent(msgspec.Struct, omit_defaults=True):
    """Structured mode; extensions that we do not know are passed over. A trace that is none is no reason to refuse it."""

    specversion: str = ""
    id: str = ""
    source: str = ""
    type: str = ""
    subject: str | None = None
    dataschema: str | None = None
    traceparent: Any = None
    datacontenttype: str | None = None
    time: str | None = None
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    data_base64: str | None = None


_structured = msgspec.json.Decoder(StructuredEvent)


def read(body: bytes, headers: Mapping[str, str]) -> CloudEvent:
    """Return the CloudEvent that a message holds. Raises NotCloudEventError, whose text says why it is none."""
    named = {name.lower(): value for name, value in headers.items()}
    content_type = named.get("content-type") or named.get("content_type") or ""
    trace = named.get("traceparent", "")
    if content_type.partition(";")[0].strip().lower() == STRUCTURED:
        return _from_structured(body, trace)
    for prefix in _PREFIXES:
        if f"{prefix}specversion" in named:
            attributes = {name[len(prefix) :]: value for name, value in named.items() if name.startswith(prefix)}
            attributes.setdefault("datacontenttype", content_type)
            return _from_binary(body, attributes, trace)
    if content_type.lower().startswith(_BATCH):
        raise NotCloudEventError("it is a batch of CloudEvents: send each as a message of its own")
    raise NotCloudEventError(
        f"it is not a CloudEvent: its content type is not {STRUCTURED}, and it has no header ce-specversion"
    )


def _from_structured(body: bytes, trace: str) -> CloudEvent:
    try:
        found = _structured.decode(body)
    except msgspec.ValidationError as error:  # which names the attribute and the types, and quotes no values
        raise NotCloudEventError(f"its body is not a CloudEvent in JSON: {error}") from None
    except NOT_JSON:
        raise NotCloudEventError("its body is not a CloudEvent in JSON") from None
    if found.data_base64 is not None and found.data is not msgspec.UNSET:
        raise NotCloudEventError("it has both data and data_base64; a CloudEvent may have only one")
    data = found.data if isinstance(found.data, msgspec.Raw) else msgspec.Raw(b"null")
    if found.data_base64 is not None:
        try:
            data = msgspec.Raw(base64.b64decode(found.data_base64, validate=True))
        except (binascii.Error, ValueError):
            raise NotCloudEventError("its data_base64 is not base64") from None
    return _checked(
        found.specversion,
        CloudEvent(
            id=found.id,
            source=found.source,
            type=found.type,
            data=data,
            subject=found.subject or "",
            dataschema=found.dataschema or "",
            traceparent=_trace(trace, found.traceparent),
            datacontenttype=found.datacontenttype or "application/json",
            time=_moment(found.time or ""),
        ),
    )


def _from_binary(body: bytes, attributes: Mapping[str, str], trace: str) -> CloudEvent:
    return _checked(
        attributes.get("specversion", ""),
        CloudEvent(
            id=attributes.get("id", ""),
            source=attributes.get("source", ""),
            type=attributes.get("type", ""),
            data=msgspec.Raw(body),
            subject=attributes.get("subject", ""),
            dataschema=attributes.get("dataschema", ""),
            traceparent=_trace(trace, attributes.get("traceparent", "")),
            datacontenttype=attributes["datacontenttype"] or "application/json",
            time=_moment(attributes.get("time", "")),
        ),
    )


def _trace(header: str, extension: Any) -> str:
    """Return the nearest cause: the header is of the last hop, the extension of where the event began."""
    return next((one for one in (header, extension) if isinstance(one, str) and _TRACEPARENT.fullmatch(one)), "")


def _moment(text: str) -> datetime | None:
    if not text:
        return None
    try:
        # RFC 3339 allows lower case, and a second of 60 where a leap second was: datetime has none.
        found = datetime.fromisoformat(_LEAP_SECOND.sub(r"\1:59.999999", text.upper()))
    except ValueError:
        found = None
    if found is None or found.tzinfo is None:
        raise NotCloudEventError("its time is not an RFC 3339 timestamp with a time zone")
    return found


def _checked(specversion: str, event: CloudEvent) -> CloudEvent:
    if specversion != "1.0":
        raise NotCloudEventError("its CloudEvents specversion is not 1.0")
    for name in ("id", "source", "type"):
        if not getattr(event, name):
            raise NotCloudEventError(f"the CloudEvent has no {name}")
    content = event.datacontenttype.partition(";")[0].strip().lower()
    if not (content.endswith(("/json", "+json"))):
        raise NotCloudEventError("its datacontenttype is not JSON: read it with a decoder of your own (decode=)")
    return event


def binary(event: CloudEvent, prefix: str = "ce-") -> tuple[bytes, dict[str, str]]:
    """Return body and headers of an event in binary mode."""
    headers = {
        f"{prefix}specversion": "1.0",
        f"{prefix}id": event.id,
        f"{prefix}source": event.source,
        f"{prefix}type": event.type,
        "content-type": event.datacontenttype,
    }
    if event.subject:
        headers[f"{prefix}subject"] = event.subject
    if event.dataschema:
        headers[f"{prefix}dataschema"] = event.dataschema
    if event.traceparent:
        headers["traceparent"] = event.traceparent
    if event.time is not None:
        headers[f"{prefix}time"] = event.time.isoformat()
    return bytes(event.data), headers


def structured(event: CloudEvent) -> tuple[bytes, dict[str, str]]:
    """Return body and headers of an event in structured mode."""
    envelope = StructuredEvent(
        specversion="1.0",
        id=event.id,
        source=event.source,
        type=event.type,
        subject=event.subject or None,
        dataschema=event.dataschema or None,
        traceparent=event.traceparent or None,
        datacontenttype=event.datacontenttype,
        time=None if event.time is None else event.time.isoformat(),
        data=event.data,
    )
    headers = {"content-type": STRUCTURED}
    if event.traceparent:
        headers["traceparent"] = event.traceparent
    return msgspec.json.encode(envelope), headers
