"""Definitions of children, the ids between parent and child, and the rule of a step about them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from sagalog import ChildEnded, Complete, DefinitionError, Saga, Send, StartChild, on, on_child, starts
from sagalog.decision.entries import Command
from sagalog.decision.ids import ParentId, end_id, parent_in, sender_id, start_id
from sagalog.decision.record import SagaRecord, decode_record, encode_record
from sagalog.testing import Scenario

from ..families import Closed, Delivered, Ordered, OrderSaga, ParcelSaga, ShipParcel


@dataclass
class State:
    seen: int = 0


@dataclass
class Begun:
    id: str
    what: str = ""


@dataclass
class Unstorable:
    id: str


class Starter(Saga[State]):
    name = "starter"

    @starts(Begun, key="id")
    def begun(self, state: State, event: Begun) -> Any:
        if event.what == "after":
            return [Complete(), StartChild(ParcelSaga, ShipParcel("p"))]
        return {
            "event": StartChild(ParcelSaga, Delivered("p")),
            "name": StartChild("parcel", ShipParcel("p")),
            "class": StartChild(State, ShipParcel("p")),
            "abstract": StartChild(Saga, ShipParcel("p")),
            "empty": StartChild(ParcelSaga, ShipParcel("")),
            "none": StartChild(OwnId, Begun("none")),
            "raises": StartChild(OwnId, Begun("raises")),
            "own": StartChild(OwnId, Begun("fine")),
        }[event.what]


class OwnId(Saga[State]):
    name = "own-id"

    def correlation_id(self, event: Any) -> str | None:
        if event.id == "raises":
            raise ValueError("no")
        return None if event.id == "none" else f"own {event.id}"

    def handle(self, state: State, event: Any) -> Any:
        return None


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ("event", "ParcelSaga is not started by that event: no @starts\\(Delivered\\)"),
        ("name", "takes the class, not its name: import it inside the handler"),
        ("class", "StartChild takes a saga class and its starting event"),
        ("abstract", "that class has no name"),
        ("empty", "finding the id of the child raised InvalidEventError"),
        ("none", "the event has no id for the child"),
        ("raises", "finding the id of the child raised ValueError"),
        ("after", "a StartChild comes after the saga's end, so the child's end could never be handled"),
    ],
)
def test_a_child_that_cannot_be_one_is_named_where_it_is_asked_for(what: str, told: str) -> None:
    with pytest.raises(DefinitionError, match=told):
        Scenario(Starter).when(Begun("a", what))


def test_the_id_of_a_child_may_come_from_a_method_of_its_own() -> None:
    assert Scenario(Starter).when(Begun("a", "own")).children == ["own fine"]


def test_on_child_takes_sagas_only() -> None:
    for wrong in (State, ChildEnded, 7, "", None, "a::b", "parcel\n", "a b"):
        with pytest.raises(DefinitionError, match="@on_child takes a saga class, or the name of a saga"):

            class Wrong(Saga[State]):
                name = "wrong"

                @starts(Begun, key="id")
                def begun(self, state: State, event: Begun) -> None: ...

                @on_child(wrong)  # type: ignore[arg-type]
                def heard(self, state: State, ended: ChildEnded) -> None: ...


def test_two_methods_cannot_hear_of_the_same_children() -> None:
    with pytest.raises(
        DefinitionError, match="handles the end of its children of saga 'parcel' twice: in first\\(\\) and in second"
    ):

        class Twice(Saga[State]):
            name = "twice"

            @starts(Begun, key="id")
            def begun(self, state: State, event: Begun) -> None: ...

            @on_child(ParcelSaga)
            def first(self, state: State, ended: ChildEnded) -> None: ...

            @on_child("parcel")
            def second(self, state: State, ended: ChildEnded) -> None: ...


def test_a_method_that_hears_of_children_takes_a_state_and_an_end() -> None:
    with pytest.raises(DefinitionError, match="must take"):

        class Few(Saga[State]):
            name = "few"

            @starts(Begun, key="id")
            def begun(self, state: State, event: Begun) -> None: ...

            @on_child(ParcelSaga)  # type: ignore[call-overload]
            def heard(self, ended: ChildEnded) -> None: ...

    with pytest.raises(DefinitionError, match="annotated to take a Begun as event, but gets a ChildEnded"):

        class Other(Saga[State]):
            name = "other"

            @starts(Begun, key="id")
            def begun(self, state: State, event: Begun) -> None: ...

            @on_child(ParcelSaga)  # type: ignore[arg-type]
            def heard(self, state: State, ended: Begun) -> None: ...


@pytest.mark.parametrize("correlation_id", ["a", "a/1/0", "x/3/0/1/child", "::", "a/1/0/reply/child/3"])
def test_ids_between_parent_and_child_are_taken_apart_as_they_were_made(correlation_id: str) -> None:
    own = f"saga::order::{correlation_id}"
    for began in (0, 1_790_000_000_000_000, -1):  # 0: as an earlier version has made it
        begun = start_id(own, "12/3", 2, began)
        assert parent_in(begun) == parent_in(end_id(begun)) == ParentId(own, "12/3", 2, began)
        assert end_id(begun) != begun
    assert start_id(own, "12/3", 2, 0) == f"{own}/12/3/2/child"


@pytest.mark.parametrize(
    "message_id",
    [
        "m-1",
        "saga::order::a/1/0",
        "saga::order::a/1/0/reply/child/3",
        "saga::order::a/x/0/1/child",
        "saga::order::a/1/0/1@/child",
        "saga::order::a/1/0/@1/child",
        "",
    ],
)
def test_other_ids_are_of_no_child(message_id: str) -> None:
    assert parent_in(message_id) is None


def test_no_sender_can_make_the_id_of_a_start() -> None:
    assert parent_in(sender_id(start_id("saga::order::a", "1/0", 1))) is None


def test_the_record_of_a_saga_without_children_says_nothing_of_them() -> None:
    scenario = Scenario(ParcelSaga).when(ShipParcel("p"))
    stored = scenario._instance.record
    assert stored is not None
    told = encode_record(stored)
    for name in (b"child", b"parent", b"told", b"family"):
        assert name not in told


def test_a_record_with_children_is_read_back() -> None:
    scenario = Scenario(OrderSaga).when(Ordered("a", 2))
    stored = scenario._instance.record
    assert stored is not None
    assert decode_record(encode_record(stored)) == stored
    assert isinstance(stored, SagaRecord)
    assert Command.__struct_fields__[-3:] == ("family", "to", "began")


def test_a_parent_that_completes_leaves_its_children_alone() -> None:
    scenario = Scenario(OrderSaga).given(Ordered("a", 2)).when(Closed("a"))
    scenario.then(completed=True, stopped=[], children=["a-0", "a-1"])


def test_a_child_cannot_be_started_while_its_parent_compensates() -> None:
    class Late(Saga[State]):
        name = "late"

        @starts(Begun, key="id")
        def begun(self, state: State, event: Begun) -> Any:
            return [Send(Unstorable("c"), undo=Unstorable("u"))]

        @on(Closed, key="id", while_compensating=True)
        def closed(self, state: State, event: Closed) -> Any:
            return StartChild(ParcelSaga, ShipParcel("p"))

        @on(Delivered, key="id")
        def delivered(self, state: State, event: Delivered) -> Any:
            from sagalog import Compensate

            return Compensate()

    scenario = Scenario(Late).given(Begun("a")).refuses(Unstorable).when(Delivered("a"))
    assert scenario.status == "compensation_failed"
    with pytest.raises(DefinitionError, match="StartChild while it is compensation_failed"):
        scenario.when(Closed("a"))
