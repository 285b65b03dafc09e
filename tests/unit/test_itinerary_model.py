"""Any graph of activities, whatever becomes of each, in any order, does what a plain model of it says."""

from __future__ import annotations

import types
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as some

from sagalog import Call, Compensate, ItinerarySaga, activity, on
from sagalog.testing import Scenario


@dataclass
class Begun:
    id: str


@dataclass
class Aborted:
    id: str


@dataclass
class Plan:
    begun: Begun | None = None
    told: list[str] = field(default_factory=list)


EVENTS: dict[str, type] = {
    f"{what}{number}": dataclass(type(f"{what}{number}", (), {"__annotations__": {"id": str}, "__module__": __name__}))
    for what in ("Until", "Unless")
    for number in range(6)
}


@dataclass
class Node:
    name: str
    after: tuple[str, ...]
    optional: bool
    undo: bool
    needs: str | None  # it is skipped unless this one was done; itself: it is always skipped
    waits: bool  # for an event
    unless: bool  # it fails by an event, too
    within: timedelta | None
    pivot: bool = False

    @property
    def event(self) -> type:
        return EVENTS[f"Until{self.name[1:]}"]

    @property
    def refusal(self) -> type:
        return EVENTS[f"Unless{self.name[1:]}"]


@dataclass
class Model:
    """What should become of a graph: dicts and lists, nothing else. The nodes are in the order of their definition."""

    nodes: list[Node]
    now: timedelta = timedelta()
    stage: dict[str, str] = field(default_factory=dict)
    undo: list[str] = field(default_factory=list)  # what is done or under way, newest last
    deadlines: dict[str, timedelta] = field(default_factory=dict)
    told: list[str] = field(default_factory=list)
    committed: bool = False
    ended: str = ""

    def which(self, *stages: str) -> list[str]:
        return [name for name, stage in self.stage.items() if stage in stages]

    def node(self, name: str) -> Node:
        return next(node for node in self.nodes if node.name == name)

    def go_on(self) -> None:
        changed = True
        while changed and not self.which("failed"):
            changed = False
            for node in self.nodes:
                before = self.which("done", "skipped", "left")
                if self.stage.get(node.name) not in (None, "early", "refused early") or not {*node.after} <= {*before}:
                    continue
                changed = True
                if self.stage.get(node.name) == "early":
                    self.done(node)
                elif self.stage.get(node.name) == "refused early":
                    self.failed(node, known=True)
                    if self.which("failed"):
                        break
                elif node.needs is not None and node.needs not in self.told:
                    self.stage[node.name] = "skipped"
                else:
                    self.stage[node.name] = "waiting" if node.waits else "running"
                    if node.undo and not self.committed:
                        self.undo.append(node.name)
                    if node.within is not None:
                        self.deadlines[node.name] = self.now + node.within
        if self.which("failed"):
            self.stop_waiting()
            if not self.which("running"):
                self.ended = "compensated"
        elif len(self.which("done", "skipped", "left")) == len(self.nodes):
            self.ended = "completed"

    def stop_waiting(self) -> None:
        for name in self.which("waiting"):
            self.over(name, "stopped")
            self.to_top(name)

    def over(self, name: str, stage: str) -> None:
        self.stage[name] = stage
        self.deadlines.pop(name, None)

    def to_top(self, name: str) -> None:
        if name in self.undo:
            self.undo.remove(name)
            self.undo.append(name)

    def done(self, node: Node) -> None:
        self.over(node.name, "done")
        self.to_top(node.name)
        if node.pivot:
            self.committed, self.undo = True, []
        self.told.append(node.name)

    def failed(self, node: Node, *, known: bool) -> None:
        self.over(node.name, "left" if node.optional else "failed")
        self.to_top(node.name)
        if known and node.name in self.undo:
            self.undo.remove(node.name)
        self.told.append(f"no {node.name}")

    def came(self, node: Node, *, refuses: bool) -> None:
        if self.stage.get(node.name) == "waiting":
            if refuses:
                self.failed(node, known=False)
            else:
                self.done(node)
        elif node.name not in self.stage:
            self.stage[node.name] = "refused early" if refuses else "early"

    def abort(self) -> None:
        self.stop_waiting()
        self.ended = "compensating" if self.which("running") and self.undo else "compensated"


@some.composite
def graphs(draw: some.DrawFn) -> list[Node]:
    names = [f"a{number}" for number in range(draw(some.integers(1, 6)))]
    nodes: list[Node] = []
    before: dict[str, set[str]] = {}
    for number, name in enumerate(names):
        after = tuple(sorted(draw(some.sets(some.sampled_from(names[:number]), max_size=3)))) if number else ()
        before[name] = {*after}.union(*(before[one] for one in after))
        waits = draw(some.integers(0, 3)) == 0
        nodes.append(
            Node(
                name,
                after,
                optional=draw(some.booleans()),
                undo=draw(some.integers(0, 2)) > 0,
                needs=draw(some.sampled_from([None, None, None, name, *sorted(before[name])])),
                waits=waits,
                unless=waits and draw(some.booleans()),
                within=timedelta(hours=1, microseconds=37**number) if draw(some.booleans()) else None,
            )
        )
    if draw(some.booleans()):
        pivot = draw(some.sampled_from(nodes))
        pivot.pivot, pivot.optional = True, False
        for node in nodes:
            behind = pivot.name in before[node.name]
            if behind:
                node.undo = False
                if not node.optional:
                    node.unless, node.within = False, None
            elif node is not pivot and node.name not in before[pivot.name]:
                node.optional = True
    return draw(some.permutations(nodes))  # their order means nothing where each says what it comes after


def saga_of(nodes: list[Node]) -> type[ItinerarySaga[Plan]]:
    def body(namespace: dict[str, Any]) -> None:
        namespace.update(name="graph", starts_with=Begun, key="id")

        @on(Aborted, key="id")
        def aborted(self: Any, state: Plan, event: Aborted) -> Any:
            return Compensate()

        namespace["aborted"] = aborted
        for node in nodes:
            namespace.update(methods_of(node))

    return types.new_class("Graph", (ItinerarySaga[Plan],), exec_body=body)


def methods_of(node: Node) -> dict[str, Any]:
    async def call(self: Any, state: Plan, call: Call) -> None: ...

    async def back(self: Any, state: Plan, call: Call) -> None: ...

    def then(self: Any, state: Plan) -> None:
        state.told.append(node.name)

    def failed(self: Any, state: Plan, reason: str) -> None:
        state.told.append(f"no {node.name}")

    options: dict[str, Any] = {"until": node.event} if node.waits else {}
    if node.unless:
        options["unless"] = node.refusal
    if node.needs is not None:
        options["when"] = lambda state: node.needs in state.told
    made = activity(after=node.after, optional=node.optional, pivot=node.pivot, within=node.within, **options)(call)
    made.name = node.name
    found = {node.name: made, f"then_{node.name}": made.then(then), f"failed_{node.name}": made.failed(failed)}
    return {**found, f"un{node.name}": made.undo(back)} if node.undo else found


def happen(model: Model, scenario: Scenario[Plan], chance: Any) -> None:
    """Let one thing happen to both: a call ends, an event comes, in time or early, or a deadline passes."""
    may: list[tuple[str, str]] = [("ends", name) for name in model.which("running")] * 3
    for node in model.nodes:
        if node.waits and chance.random() < (0.6 if model.stage.get(node.name) == "waiting" else 0.15):
            may += [("until", node.name)] + [("unless", node.name)] * node.unless
    if model.deadlines and (chance.random() < 0.3 or not may):
        may = [("deadline", min(model.deadlines, key=lambda name: model.deadlines[name]))]
    if not may or chance.random() < 0.08:
        model.abort()
        scenario.when(Aborted("1"))
        return
    what, name = chance.choice(may)
    node = model.node(name)
    if what == "ends":
        how = "done" if never_fails(model, node) else chance.choice(["done", "done", "refused", "unknown"])
        if how == "done":
            model.done(node)
            scenario.when_done(name)
        else:
            model.failed(node, known=how == "refused")
            scenario.when_failed(name, refused=how == "refused")
    elif what == "deadline":
        passed = model.deadlines[name] - model.now
        model.now += passed
        model.failed(node, known=False)
        scenario.after(passed)
    else:
        model.came(node, refuses=what == "unless")
        scenario.when(node.event("1") if what == "until" else node.refusal("1"))
    model.go_on()


def never_fails(model: Model, node: Node) -> bool:
    """Say whether an operator would have to decide about its failure."""
    return not node.optional and (model.committed or behind_pivot(model, node))


def behind_pivot(model: Model, node: Node) -> bool:
    return any(model.node(name).pivot or behind_pivot(model, model.node(name)) for name in node.after)


@settings(max_examples=150, deadline=None)
@given(graphs(), some.randoms(use_true_random=False))
def test_a_graph_of_activities_does_what_the_model_says(nodes: list[Node], chance: Any) -> None:
    model, scenario = Model(nodes), Scenario(saga_of(nodes))
    model.go_on()
    scenario.given(Begun("1"))
    undone: list[str] = list(scenario.undone)
    while not model.ended:
        scenario.then(running=model.which("running"), status="running")
        assert scenario.state.told == model.told
        happen(model, scenario, chance)
        undone += scenario.undone
    for name in sorted(scenario.running):  # what a handler compensated meanwhile: it ends first
        how = "done" if never_fails(model, model.node(name)) else chance.choice(["done", "refused", "unknown"])
        if how == "refused" and name in model.undo:
            model.undo.remove(name)
        undone += (
            scenario.when_done(name) if how == "done" else scenario.when_failed(name, refused=how == "refused")
        ).undone
    assert scenario.status == ("completed" if model.ended == "completed" else "compensated")
    assert undone == (model.undo[::-1] if model.ended != "completed" else [])
    assert scenario.state.told == model.told
