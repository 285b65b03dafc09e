"""Any graph of activities, with any results in any order, does what a plain model of it says."""

from __future__ import annotations

import types
from dataclasses import dataclass, field
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as some

from sagalog import Call, ItinerarySaga, activity
from sagalog.testing import Scenario


@dataclass
class Begun:
    id: str


@dataclass
class Plan:
    begun: Begun | None = None


@dataclass
class Node:
    name: str
    after: tuple[str, ...]
    optional: bool
    needed: bool
    undo: bool


@dataclass
class Model:
    """What should become of a graph: sets and lists, nothing else."""

    nodes: list[Node]
    running: set[str] = field(default_factory=set)
    ended: set[str] = field(default_factory=set)
    failed: bool = False
    to_undo: list[str] = field(default_factory=list)

    def begin(self) -> None:
        changed = True
        while changed and not self.failed:
            changed = False
            for node in self.nodes:
                if node.name not in self.running | self.ended and set(node.after) <= self.ended:
                    (self.running if node.needed else self.ended).add(node.name)
                    changed = True

    def end(self, name: str, how: str) -> None:
        node = next(node for node in self.nodes if node.name == name)
        self.running.remove(name)
        self.ended.add(name)
        if how != "refused" and node.undo:
            self.to_undo.append(name)
        if how != "done" and not node.optional:
            self.failed = True
        self.begin()

    @property
    def status(self) -> str:
        if self.running:
            return "running"
        return "compensated" if self.failed else "completed"


@some.composite
def graphs(draw: some.DrawFn) -> list[Node]:
    names = [f"a{number}" for number in range(draw(some.integers(1, 6)))]
    return [
        Node(
            name,
            tuple(draw(some.sets(some.sampled_from(names[:number])))) if number else (),
            draw(some.booleans()),
            draw(some.integers(0, 4)) > 0,
            draw(some.booleans()),
        )
        for number, name in enumerate(names)
    ]


def saga_of(nodes: list[Node], order: list[int]) -> type[ItinerarySaga[Plan]]:
    """Make the class; `order`: of its definitions, which means nothing where each says what it comes after."""

    def body(namespace: dict[str, Any]) -> None:
        namespace.update(name="graph", starts_with=Begun, key="id")
        for number in order:
            node = nodes[number]

            async def call(self: Any, state: Plan, call: Call) -> None: ...

            async def back(self: Any, state: Plan, call: Call) -> None: ...

            needed = node.needed
            made = activity(after=node.after, optional=node.optional, when=lambda state, needed=needed: needed)(call)
            made.name = namespace_name = node.name
            namespace[namespace_name] = made
            if node.undo:
                namespace[f"un{node.name}"] = made.undo(back)

    return types.new_class("Graph", (ItinerarySaga[Plan],), exec_body=body)


@settings(max_examples=200, deadline=None)
@given(graphs(), some.randoms(use_true_random=False))
def test_a_graph_of_activities_does_what_the_model_says(nodes: list[Node], chance: Any) -> None:
    order = list(range(len(nodes)))
    chance.shuffle(order)
    model, scenario = Model(nodes), Scenario(saga_of(nodes, order))
    model.begin()
    scenario.given(Begun("1")).then(running=model.running)
    undone: list[str] = []
    while model.running:
        name, how = chance.choice(sorted(model.running)), chance.choice(["done", "done", "refused", "unknown"])
        model.end(name, how)
        if how == "done":
            scenario.when_done(name)
        else:
            scenario.when_failed(name, refused=how == "refused")
        undone += scenario.undone
        scenario.then(running=model.running, status=model.status)
    assert scenario.status == model.status
    assert undone == (model.to_undo[::-1] if model.failed else [])
