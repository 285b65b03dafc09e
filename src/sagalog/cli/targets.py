"""MODULE:NAME on the command line: finding what is meant, in an importable module or a file."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import click

from ..runner import SagaRunner


def load_runner(target: str) -> SagaRunner:
    """Return the runner that `target` names. Raises click.BadParameter saying what is wrong and what to do."""
    module, attribute = load_module(target, "MODULE:RUNNER", "shop.sagas:runner")
    runner = getattr(module, attribute, None)
    if runner is None:
        known = [name for name, value in vars(module).items() if isinstance(value, SagaRunner)]
        hint = f"it has {', '.join(known)}" if known else "it has no SagaRunner"
        raise click.BadParameter(f"{target.rpartition(':')[0]} has no {attribute!r}; {hint}")
    if not isinstance(runner, SagaRunner):
        raise click.BadParameter(f"{target} is a {type(runner).__name__}, not a SagaRunner")
    return runner


def load_module(target: str, form: str, example: str) -> tuple[ModuleType, str]:
    """Return the module that `target` names, and the name behind the colon."""
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
    sys.modules.setdefault(path.stem, module)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise click.BadParameter(f"importing {path} failed: {type(error).__name__}: {error}") from error
    return module


def _load_module(name: str) -> ModuleType:
    sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(name)
    except Exception as error:
        raise click.BadParameter(f"importing {name} failed: {type(error).__name__}: {error}") from error
