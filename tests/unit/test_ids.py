"""Ids are made and taken apart in one module."""

from __future__ import annotations

from pathlib import Path

import pytest

import sagalog
from sagalog.decision import ids

SOURCES = Path(sagalog.__file__).parent


def test_only_the_module_of_ids_spells_what_they_begin_with() -> None:
    spelled = {str(path.relative_to(SOURCES)) for path in SOURCES.rglob("*.py") if ids.FAMILY in path.read_text()}
    assert spelled == {"decision/ids.py"}


@pytest.mark.parametrize(
    "correlation_id", ["4711", "", "a::b", "::", "saga::order::1", "x/1/0/refused", "\n\x1b[2J", "ü"]
)
def test_a_persistence_id_is_taken_apart_as_it_was_made(correlation_id: str) -> None:
    assert ids.parts_of(ids.persistence_id("order", correlation_id)) == ("order", correlation_id)


@pytest.mark.parametrize("text", ["", "order", "saga::", "saga::order", "saga:order::1", "x-saga::order::1"])
def test_what_is_no_id_of_a_saga_names_none(text: str) -> None:
    assert ids.instance_of(text) is None
    assert ids.parts_of(text) == ("", text)


def test_a_text_lies_behind_all_ids_of_a_saga_and_before_the_next_saga() -> None:
    for other in ("order.", "order-", "order0", "orderA", "order_", "a", "z"):
        before = ids.prefix_of(other) < ids.prefix_of("order")
        assert (ids.persistence_id(other, "\U0010ffff") < ids.behind_saga("order")) is before
    assert ids.persistence_id("order", "\U0010ffff") < ids.behind_saga("order")


def test_the_refusal_of_a_command_names_its_entry_and_a_senders_id_does_not() -> None:
    own = ids.persistence_id("order", "7/refused")
    refusal = ids.refusal_id(ids.command_id(own, "3/0"))
    assert ids.refused_entry(own, refusal) == "3/0"
    assert ids.refused_entry(own, "x/refused") is None
    assert ids.refused_entry(own, ids.command_id(own, "3/0")) is None


@pytest.mark.parametrize("correlation_id", ["a", "x/reply/Done@9/0", "@7", "a/1/0/reply/Done"])
@pytest.mark.parametrize("origin", [0, 1_893_456_000_000_000, -5])
def test_a_reply_says_which_command_it_answers_and_of_which_lives(correlation_id: str, origin: int) -> None:
    own = ids.persistence_id("order", correlation_id)
    reply = ids.reply_id(ids.command_id(own, "3/1"), "Done", 12, origin)
    assert ids.answered_entry(own, reply) == "3/1"
    assert ids.reply_origin(reply) == origin
    assert ids.id_within(own, reply) == "3/1/reply/Done/12"
    assert ids.id_within("saga::order::other", reply) == reply
    parts = ids.reply_parts(reply)
    assert parts is not None
    assert ids.replies_id(*parts) == reply


def test_a_senders_message_id_is_never_one_of_ours() -> None:
    command = ids.command_id(ids.persistence_id("order", "a"), "1/0")
    ours = (command, ids.reply_id(command, "Done", 0), ids.refusal_id(command), f"{ids.FAMILY}x", ids.FAMILY)
    given = [*ours, *map(ids.sender_id, ours), "m1", "", "saga:order", "x-saga::order::a", "sender::", "sender::m1"]
    known = [ids.sender_id(one) for one in given]
    assert not set(known) & set(ours)
    assert len(set(known)) == len(set(given)), "two ids became one"
    assert ids.sender_id("m1") == "m1"
    assert [ids.given_id(one) for one in known] == given


@pytest.mark.parametrize(
    ("entry", "step"), [("3/1", (3, 1)), ("x", (0, 0)), ("3", (0, 0)), ("3/x", (0, 0)), ("/", (0, 0))]
)
def test_an_entry_names_its_step(entry: str, step: tuple[int, int]) -> None:
    assert ids.sent_in(entry) == step
