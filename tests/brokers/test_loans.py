"""The loan log through a broker on four workers, one of them killed on the way: the figures are those of one worker."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ..examples.test_loans import FULL, SMALL, expected
from .loan_log import printed


@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", ["kafka", "rabbitmq"])
async def test_four_workers_on_a_broker_print_what_one_prints_from_a_file(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    log = FULL if os.environ.get("SAGALOG_TEST_LOANS") == "all" else SMALL
    server = request.getfixturevalue(f"one_{kind}")
    assert await printed(kind, server, log, f"sqlite:///{tmp_path}/loans.db") == expected(log)
