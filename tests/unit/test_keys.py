"""Keys as they are declared, and what a step makes of them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import new_class
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sagalog import (
    AddKey,
    Compensate,
    Complete,
    DefinitionError,
    InvalidEventError,
    Key,
    Outcome,
    RemoveKey,
    Saga,
    Send,
    on,
    starts,
)
from sagalog.decision.advance import advance
from sagalog.decision.draft import Draft
from sagalog.decision.ids import persistence_id
from sagalog.decision.keys import KeyTexts, checked_key, claimed, held_after, pairs
from sagalog.decision.message import Message
from sagalog.decision.record import SagaRecord, decode_record, encode_record
from sagalog.definition.keys import key_text

NOW = datetime(2030, 1, 1, tzinfo=UTC)


@dataclass
class Begun:
    id: str


@dataclass
class Done:
    id: str


@dataclass
class Act:
    """Handled by asking for `actions`, which the test has put there."""

    id: str


@dataclass
class Told:
    customer: Any


@dataclass
class State:
    told: int = 0


class TableSaga(Saga[State]):
    name = "table"
    keys = (Key("customer"), Key("seat"))
    actions: Any = ()

    @starts(Begun, key="id")
    def begun(self, state: State, event: Begun) -> Any:
        return list(type(self).actions)

    @on(Act, key="id")
    def act(self, state: State, event: Act) -> Any:
        return list(type(self).actions)

    @on(Told, key="customer", by="customer")
    def told(self, state: State, event: Told) -> None:
        state.told += 1


def step(record: SagaRecord | None, event: Any, *actions: Any, by: Any = None, id: str = "") -> SagaRecord:
    draft, outcome = run(record, event, *actions, by=by, id=id)
    assert outcome is Outcome.HANDLED
    assert draft.record is not None
    made = decode_record(encode_record(draft.frozen() or draft.record))
    draft.record = made
    return made


def run(record: SagaRecord | None, event: Any, *actions: Any, by: Any = None, id: str = "") -> tuple[Draft, Any]:
    TableSaga.actions = actions
    saga = TableSaga()
    draft = Draft(
        saga, TableSaga.registry(saga), persistence_id("table", "T"), record, 1 if record else 0, NOW, timedelta(days=7)
    )
    message = Message(id or f"m-{len(record.inbox) if record else 0}", event, by=by)
    return draft, advance(draft, message)


def held(record: SagaRecord) -> list[tuple[str, str]]:
    return list(pairs(record.keys))


def test_keys_are_added_and_removed_by_value_and_stand_in_the_record() -> None:
    number = UUID(int=7)
    record = step(None, Begun("T"), AddKey("customer", "c"), AddKey("seat", 7), AddKey("seat", number))
    assert held(record) == [("customer", "c"), ("seat", "7"), ("seat", str(number))]
    record = step(record, Act("T"), AddKey("customer", "c"), AddKey("customer", "d"), RemoveKey("seat", 7))
    assert held(record) == [("customer", "c"), ("customer", "d"), ("seat", str(number))]
    record = step(record, Act("T"), RemoveKey("customer"), RemoveKey("seat", "unknown"))
    assert held(record) == [("seat", str(number))]
    assert step(record, Act("T")).keys == record.keys


def test_the_last_action_about_a_key_counts() -> None:
    record = step(None, Begun("T"), AddKey("seat", 1), RemoveKey("seat", 1), RemoveKey("seat", 2), AddKey("seat", 2))
    assert held(record) == [("seat", "2")]


def test_a_record_without_keys_says_nothing_of_them() -> None:
    assert b"keys" not in encode_record(step(None, Begun("T")))


def test_a_long_value_is_stood_for_by_its_hash() -> None:
    ((_, text),) = held(step(None, Begun("T"), AddKey("customer", "x" * 300)))
    assert text.startswith("sha256:")


@pytest.mark.parametrize("end", [Complete(), Compensate(), Compensate((Begun("undo"),))])
def test_keys_end_with_the_life_and_the_next_one_does_not_inherit_them(end: Any) -> None:
    record = step(None, Begun("T"), AddKey("customer", "c"))
    record = step(record, Act("T"), end)
    if record.status == "compensating":
        assert held(record) == [("customer", "c")]  # it still takes events that are welcome then
        return
    assert held(record) == []
    assert held(step(record, Begun("T"))) == []


def test_one_step_may_end_a_life_and_begin_the_next_without_its_keys() -> None:
    record = step(None, Begun("T"), AddKey("customer", "c"), AddKey("seat", 1))
    draft, _ = run(record, Act("T"), Complete())
    TableSaga.actions = (AddKey("customer", "d"),)
    assert advance(draft, Message("again", Begun("T"))) is Outcome.HANDLED
    assert draft.record is not None
    assert held(draft.record) == [("customer", "d")]


def test_an_event_by_a_key_is_handled_by_who_holds_it_when_it_comes() -> None:
    record = step(None, Begun("T"), AddKey("customer", "c"))
    assert run(record, Told("c"), by=("customer", "c"))[1] is Outcome.HANDLED
    assert run(record, Told("d"), by=("customer", "d"))[1] is Outcome.NO_INSTANCE
    assert run(record, Told("c"), by=("seat", "c"))[1] is Outcome.NO_INSTANCE
    assert run(None, Told("c"), by=("customer", "c"))[1] is Outcome.NO_INSTANCE
    ended = step(record, Act("T"), Complete())
    assert run(ended, Told("c"), by=("customer", "c"))[1] is Outcome.NO_INSTANCE


def test_a_duplicate_is_known_also_by_who_has_given_the_key_up() -> None:
    record = step(None, Begun("T"), AddKey("customer", "c"))
    record = step(record, Told("c"), by=("customer", "c"), id="told")
    record = step(record, Act("T"), RemoveKey("customer"))
    assert run(record, Told("c"), by=("customer", "c"), id="told")[1] is Outcome.DUPLICATE


@pytest.mark.parametrize(
    ("action", "said"),
    [
        (AddKey("custmer", "c"), r"AddKey names the key 'custmer', declared are customer, seat: write keys = \(Key"),
        (RemoveKey("x"), "RemoveKey names the key 'x'"),
        (AddKey("customer", ""), "str that is not empty, an int or a UUID, not an empty string"),
        (AddKey("customer", None), "not NoneType"),  # type: ignore[arg-type]
        (AddKey("customer", True), "not bool"),
        (AddKey("customer", 1.5), "not float"),  # type: ignore[arg-type]
        (RemoveKey("customer", b"c"), "not bytes"),  # type: ignore[arg-type]
    ],
)
def test_a_bad_action_is_an_error_that_changes_nothing(action: Any, said: str) -> None:
    record = step(None, Begun("T"), AddKey("customer", "c"))
    before = encode_record(record)
    with pytest.raises(DefinitionError, match=said):
        run(record, Act("T"), Send(Begun("sent")), action)
    assert encode_record(record) == before


def test_an_instance_holds_sixteen_values_at_most() -> None:
    record = step(None, Begun("T"), *(AddKey("seat", n) for n in range(16)))
    with pytest.raises(DefinitionError, match="holds 16 key values at most"):
        run(record, Act("T"), AddKey("customer", "c"))
    assert len(held(step(record, Act("T"), RemoveKey("seat", 3), AddKey("customer", "c")))) == 16


def test_a_key_after_the_end_is_an_error() -> None:
    with pytest.raises(DefinitionError, match="an AddKey comes after the saga's end,"):
        run(None, Begun("T"), Complete(), AddKey("seat", 1))


def test_the_key_of_an_event_is_read_as_a_correlation_id_is() -> None:
    saga = TableSaga()
    assert saga.key_of(Told("c")) == (Key("customer"), "c")
    assert saga.correlation_id(Told("c")) is None
    assert saga.key_of(Begun("T")) is None
    for wrong, said in (("", "an empty key"), (None, "its customer is None"), (1.5, "a key of type float")):
        with pytest.raises(InvalidEventError, match=said):
            saga.key_of(Told(wrong))


def defined(**attributes: Any) -> Any:
    return new_class(
        "BadSaga", (Saga[State],), exec_body=lambda body: body.update(name="bad", begun=TableSaga.begun, **attributes)
    )


def test_a_wrong_declaration_is_an_error_when_the_class_is_made() -> None:
    for keys, said in (
        (Key("a"), r"BadSaga.keys must be a tuple of keys, such as keys = \(Key\(\"customer\"\),\)"),
        (("a",), "must be a tuple of keys,"),
        ((Key("a"), Key("a")), "declares 'a' twice"),
        ((Key("a b"),), "a key's name must be 1 to 64 letters,"),
        ((Key(""),), "a key's name must be 1 to 64 letters,"),
        ((Key(7),), "a key's name must be 1 to 64 letters,"),  # type: ignore[arg-type]
    ):
        with pytest.raises(DefinitionError, match=said):
            defined(keys=keys)


def test_a_handler_names_a_declared_key() -> None:
    with pytest.raises(
        DefinitionError, match=r"told\(\) is reached by the key 'customer', which BadSaga does not decl"
    ):
        defined(told=TableSaga.told)
    with pytest.raises(DefinitionError, match="it declares seat"):
        defined(told=TableSaga.told, keys=(Key("seat"),))
    for by in ("", 7):
        with pytest.raises(DefinitionError, match="by= of Told must be the name of a key"):
            on(Told, key="customer", by=by)  # type: ignore[arg-type]
    with pytest.raises(DefinitionError, match="many: keep one"):
        on(Told, key="customer", by="customer", sequence="customer")
    with pytest.raises(DefinitionError, match="has no attribute 'custmer'"):
        on(Told, key="custmer", by="customer")


def test_an_event_reaches_instances_in_one_way() -> None:
    from enum import Enum

    class Phase(Enum):
        A = 1
        B = 2

    @on(Told, key="customer", by="customer", during=Phase.A)
    def first(self: Any, state: State, event: Told) -> None: ...

    @on(Told, key="customer", by="seat", during=Phase.B)
    def second(self: Any, state: State, event: Told) -> None: ...

    with pytest.raises(DefinitionError, match="finds the instances for Told in two ways"):
        defined(first=first, second=second, keys=TableSaga.keys, phases=Phase)


def test_a_held_key_that_is_declared_no_more_stays_until_the_life_ends() -> None:
    record = step(None, Begun("T"), AddKey("customer", "c"))
    record.keys = {**record.keys, "gone": ("g",)}
    assert held(step(record, Act("T"), AddKey("seat", 1))) == [("customer", "c"), ("gone", "g"), ("seat", "1")]


class Mixed(TableSaga):
    """One key that many may hold, and one that is unique."""

    name = "mixed"
    keys = (Key("many"), Key("one", unique=True), *TableSaga.keys)


actions = st.lists(
    st.tuples(st.booleans(), st.sampled_from(["many", "one"]), st.sampled_from(["a", "b", "c", None])), max_size=12
)


@given(st.lists(actions, max_size=6))
def test_what_is_held_is_what_a_set_of_values_says(steps: list[list[tuple[bool, str, str | None]]]) -> None:
    held: tuple[KeyTexts, KeyTexts] = ({}, {})
    reference: set[tuple[str, str]] = set()
    for step in steps:
        plan: list[tuple[Any, Any, Any]] = []
        before = set(reference)
        for adds, key, value in step:
            if adds and value is not None:
                action: Any = AddKey(key, value)
                reference.add((key, value))
            else:
                action = RemoveKey(key, value)
                reference = {one for one in reference if one[0] != key or value not in (None, one[1])}
            plan.append((action, checked_key(action, "mixed", Mixed.key_table), None))
        after = held_after("mixed", Mixed.key_table, held, plan)
        assert {*pairs(after[0]), *pairs(after[1])} == reference
        assert all(name == "many" for name, _ in pairs(after[0]))
        wanted = claimed(held[1], after[1])
        assert set(wanted) == {one for one in reference - before if one[0] == "one"}
        assert wanted == sorted(wanted)
        held = after


def test_a_key_that_becomes_unique_is_claimed_when_it_is_added_again() -> None:
    held: tuple[KeyTexts, KeyTexts] = ({"one": ("a", "b")}, {})
    plan = [(AddKey("one", "a"), ("one", "a"), None)]
    after = held_after("mixed", Mixed.key_table, held, plan)
    assert after == ({"one": ("b",)}, {"one": ("a",)})
    assert claimed(held[1], after[1]) == [("one", "a")]


def test_unique_is_true_or_false() -> None:
    with pytest.raises(DefinitionError, match="unique= of 'a' must be True or False"):
        defined(keys=(Key("a", unique="yes"),))  # type: ignore[arg-type]


@pytest.mark.parametrize("digits", [150, 151, 199, 200, 201, 1100, 4299, 4300, 4301, 20_000])
def test_a_number_of_any_length_is_a_key_and_the_same_as_its_digits(digits: int) -> None:
    number = 10 ** (digits - 1)
    for value, text in ((number, "1" + "0" * (digits - 1)), (-number, "-1" + "0" * (digits - 1))):
        found = key_text(value)
        assert found == key_text(text)
        assert found is not None
        assert len(found) <= 200


@pytest.mark.parametrize("value", ["\udc80", "\udc80" * 300])
@pytest.mark.parametrize("action", [AddKey, RemoveKey])
@pytest.mark.parametrize("unique", [False, True])
def test_a_value_that_is_not_valid_unicode_is_refused(value: str, action: Any, unique: bool) -> None:
    with pytest.raises(DefinitionError, match=r"the value of 'customer' must be .*that contains a lone surrogate,"):
        checked_key(action("customer", value), "table", {"customer": Key("customer", unique)})
    with pytest.raises(InvalidEventError, match=r"its key holds a lone surrogate.*; nothing was stored"):
        TableSaga().key_of(Told(value))
