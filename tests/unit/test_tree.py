"""The tree of imports has no circle of any kind. The order of layers and phases: see import-linter in pyproject.toml."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src"
Graph = dict[str, set[str]]


def name_of(path: Path) -> str:
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {name_of(path): path for path in (SOURCE / "sagalog").rglob("*.py")}


def imported(module: str, tree: ast.AST, known: set[str]) -> Iterator[str]:
    """Yield what a module imports of the package: anywhere in it, for types only or when it is called."""
    package = module.split(".") if FILES[module].name == "__init__.py" else module.split(".")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                if inner in known:
                    yield inner
                elif base in known:
                    yield base


def imports_of(module: str, text: str) -> set[str]:
    return {*imported(module, ast.parse(text), set(FILES))} - {module}


TREE: Graph = {module: imports_of(module, path.read_text()) for module, path in FILES.items()}


def circles(found: Graph) -> list[list[str]]:
    """Return the groups of modules that import each other, by Tarjan's algorithm."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    groups: list[list[str]] = []

    def visit(module: str) -> None:
        index[module] = low[module] = len(index)
        stack.append(module)
        for other in sorted(found[module]):
            if other not in index:
                visit(other)
                low[module] = min(low[module], low[other])
            elif other in stack:
                low[module] = min(low[module], index[other])
        if low[module] == index[module]:
            at = stack.index(module)
            if len(stack) - at > 1:
                groups.append(sorted(stack[at:]))
            del stack[at:]

    for module in sorted(found):
        if module not in index:
            visit(module)
    return groups


def test_no_modules_import_each_other_types_included() -> None:
    assert circles(TREE) == []


def test_a_commit_that_imports_the_runner_closes_a_circle_also_for_types_only() -> None:
    text = FILES["sagalog.runner.commit"].read_text()
    text += "\nif TYPE_CHECKING:\n    from .runner import SagaRunner\n"
    changed = TREE | {"sagalog.runner.commit": imports_of("sagalog.runner.commit", text)}
    (circle,) = circles(changed)
    assert {"sagalog.runner.commit", "sagalog.runner.runner", "sagalog.runner.settle"} <= set(circle)
