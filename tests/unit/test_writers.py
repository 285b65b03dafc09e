"""Each piece of what the phases share has one writer: the class it is in, or one file beside it."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

RUNNER = Path(__file__).parents[2] / "src" / "sagalog" / "runner"
SHARED = {
    "Instance": ("instance.py", {"instance", "private", "candidate", "child", "to"}),
    "CachedRecord": ("cached_record.py", {"cached"}),
    "Deliveries": ("deliveries.py", {"deliveries", "ours"}),
}
CHANGES = {"append", "extend", "insert", "pop", "popleft", "remove", "clear", "add", "discard", "update", "setdefault"}


def slots(name: str) -> set[str]:
    """Return what an object of this class holds."""
    for node in ast.walk(ast.parse((RUNNER / SHARED[name][0]).read_text())):
        if isinstance(node, ast.ClassDef) and node.name == name:
            for line in node.body:
                if isinstance(line, ast.Assign) and ast.unparse(line.targets[0]) == "__slots__":
                    return set(ast.literal_eval(line.value))
    raise AssertionError(name)


def changed(tree: ast.AST) -> Iterator[ast.expr]:
    """Yield what code assigns to, deletes, or calls a changing method of."""
    for node in ast.walk(tree):
        targets: list[ast.expr] = []
        if isinstance(node, (ast.Assign, ast.Delete)):
            targets = list(node.targets)
        elif isinstance(node, (ast.AugAssign, ast.AnnAssign, ast.For, ast.NamedExpr)):
            targets = [node.target]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in CHANGES:
            targets = [node.func.value]
        while targets:
            target = targets.pop()
            if isinstance(target, (ast.Tuple, ast.List)):
                targets += target.elts
            elif isinstance(target, (ast.Subscript, ast.Starred)):
                targets.append(target.value)
            else:
                yield target


def writers(name: str) -> dict[str, set[str]]:
    """Return by field which files write it, other than the class itself when it is made."""
    fields, (own, called), found = slots(name), SHARED[name], defaultdict(set)
    for path in RUNNER.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) or node.name == "__init__":
                continue
            for target in changed(node):
                if isinstance(target, ast.Attribute) and target.attr in fields:
                    holder = ast.unparse(target.value).rpartition(".")[2]
                    if holder in called or (holder == "self" and path.name == own):
                        found[target.attr].add(path.name)
    return found


@pytest.mark.parametrize("name", SHARED)
def test_each_piece_of_shared_state_has_one_writer(name: str) -> None:
    found = writers(name)
    assert found  # the search finds something
    assert {field: files for field, files in found.items() if len(files) > 1} == {}


def test_the_search_sees_every_way_to_change_something() -> None:
    code = "a.x = 1\na.x += 1\na.x: int = 1\ndel a.x\na.x[0] = 1\na.x.pop()\na.x, b.y = 1, 2\n(a.x[:]) = []"
    assert [ast.unparse(one) for one in changed(ast.parse(code)) if ast.unparse(one) == "a.x"] == ["a.x"] * 8
