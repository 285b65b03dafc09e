"""MODULE:NAME on the command line: finding what is meant, in an importable module or a file."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import click

from ..definition.saga import Saga
from ..operating.inspect import SagaView
from ..operating.readable import Code
from ..runner import SagaRunner
from ..runner.inside import has_handler


def load_runner(target: str) -> SagaRunner:
    """Return the runner that `target` names. Raises click.BadParameter saying what is wrong and what to do."""
    found = _named(target, "MODULE:RUNNER", "shop.sagas:runner", "SagaRunner", _is_runner)
    assert isinstance(found, SagaRunner)
    return found


def load_saga(target: str) -> type[Saga[Any]]:
    """Return the saga class that `target` names; of a runner, its only one. Raises click.BadParameter as `load_runner`."""
    found = _named(
        target,
        "MODULE:SAGA",
        "shop.sagas:OrderSaga",
        "Saga",
        lambda one: _is_saga(one) or (_is_runner(one) and len(one.sagas) == 1),
    )
    return type(found.sagas[0]) if isinstance(found, SagaRunner) else found


def seen_by(target: str | None) -> Callable[[SagaView], SagaView]:
    """Return what makes of a view what the code of that runner sees in it; without a target, the view itself."""
    if target is None:
        return lambda view: view
    runner = load_runner(target)
    return Code(runner.sagas, partial(has_handler, runner)).view


code_option: Callable[[Any], Any] = click.option(
    "--code",
    metavar="MODULE:RUNNER",
    envvar="SAGALOG_CODE",
    help="Read states and messages with this code, and show what it cannot read as unreadable. Also from SAGALOG_CODE.",
)


def _is_runner(found: Any) -> bool:
    return isinstance(found, SagaRunner)


def _is_saga(found: Any) -> bool:
    return isinstance(found, type) and issubclass(found, Saga) and found is not Saga


def _named(target: str, form: str, example: str, kind: str, wanted: Callable[[Any], bool]) -> Any:
    module, attribute = load_module(target, form, example)
    found = getattr(module, attribute, None)
    if found is None:
        known = [name for name, value in vars(module).items() if wanted(value)]
        hint = f"it has {', '.join(known)}" if known else f"it has no {kind}"
        raise click.BadParameter(f"{target.rpartition(':')[0]} has no {attribute!r}; {hint}")
    if not wanted(found):
        raise click.BadParameter(f"{target} is of type {type(found).__name__}, not {kind}")
    return found


def load_module(target: str, form: str, example: str) -> tuple[ModuleType, str]:
    """Return the module that `target` names, and the name behind the colon."""
    if "://" in target:
        raise click.BadParameter(f"a URL is not {form}, e.g. {example}; a journal's goes behind --journal")
    module_name, separator, attribute = target.rpartition(":")
    if not separator or not module_name or not attribute:
        module, _, name = example.partition(":")
        file = f"{module.replace('.', '/')}.py:{name}"
        raise click.BadParameter(f"{target!r} is not {form}, e.g. {example} or {file}")
    return _load_file(Path(module_name)) if module_name.endswith(".py") else _load_module(module_name), attribute


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise click.BadParameter(f"there is no file {path}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise click.BadParameter(f"{path} is not a Python file")
    sys.path.insert(0, str(path.parent.resolve()))
    module = importlib.util.module_from_spec(spec)
    known = sys.modules.setdefault(path.stem, module)
    with _importing(str(path)):
        try:
            spec.loader.exec_module(module)
        except BaseException:
            if known is module:
                sys.modules.pop(path.stem, None)  # half of it is no module, as after any failed import
            raise
    return module


def _load_module(name: str) -> ModuleType:
    sys.path.insert(0, str(Path.cwd()))
    with _importing(name):
        return importlib.import_module(name)


@contextmanager
def _importing(name: str) -> Iterator[None]:
    """Raise click.BadParameter for whatever an import raises, SystemExit included.

    A script that ends with `sys.exit(0)` would otherwise let `check` pass with nothing checked.
    """
    try:
        yield
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        hint = (
            ': what a script runs belongs under `if __name__ == "__main__":`' if isinstance(error, SystemExit) else ""
        )
        raise click.BadParameter(f"importing {name} failed: {type(error).__name__}: {error}{hint}") from error
