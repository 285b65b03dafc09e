"""What a URL and an answer name: a stream, a schema, kinds of errors."""

from __future__ import annotations

from typing import Any


def stream_of(url: str) -> str:
    return url.partition("stream=")[2].partition("&")[0]


def schema_of(url: str) -> str:
    return url.partition("schema=")[2].partition("&")[0]


def kinds(answers: Any) -> list[Any]:
    return [None if one is None else type(one).__name__ for one in answers]
