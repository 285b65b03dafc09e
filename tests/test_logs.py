"""What is logged stands on one line, whatever an id holds."""

from __future__ import annotations

import logging

import pytest

from sagalog import CodecError
from sagalog.logs import about, log, trace_of

EVIL = "a\nERROR sagalog forged\x1b[2J\u2028b"


def test_an_id_cannot_forge_a_line(caplog: pytest.LogCaptureFixture) -> None:
    log.warning("id %s: %s after %d", EVIL, ValueError(EVIL), 3, extra=about(correlation_id=EVIL, saga=EVIL))
    (record,) = caplog.records
    fields = logging.Formatter("%(message)s %(saga)s %(correlation_id)s").format(record)
    assert len(fields.splitlines()) == 1
    assert fields.isprintable()
    assert record.args is not None
    assert record.args[2] == 3  # type: ignore[index]


def test_nor_can_an_error_that_quotes_one() -> None:
    shown = trace_of(CodecError(EVIL))[1]
    assert str(shown).isprintable()
