"""MODULE:WORLD or MODULE:SAGA on the command line: finding the sagas, and the world that they are to live in."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import click

from ..definition.saga import Saga
from ..testing.simulation import World
from .targets import load_module


def load_world(target: str, name: str | None) -> tuple[list[Any], type[World]]:
    """Return the sagas and the world. Raises click.BadParameter saying what is wrong and what to do."""
    module, attribute = load_module(target, "MODULE:SAGA or MODULE:WORLD", "shop.sagas:OrderSaga")
    found = getattr(module, attribute, None)
    if found is None:
        raise click.BadParameter(f"{module.__name__} has no {attribute!r}; {_known(module)}")
    if isinstance(found, type) and issubclass(found, World):
        if not found.sagas:
            raise click.BadParameter(f"{attribute} does not say which sagas it has: write sagas = (OrderSaga,) there")
        return list(found.sagas), found
    if not isinstance(found, Saga) and not (isinstance(found, type) and issubclass(found, Saga)):
        raise click.BadParameter(f"{target} is neither a saga nor a World; {_known(module)}")
    world = _world_of(module, found, name)
    return list(world.sagas) if found in world.sagas else [found], world


def _world_of(module: ModuleType, saga: Any, name: str | None) -> type[World]:
    worlds = _worlds(module)
    if name is not None:
        if name not in worlds:
            raise click.BadParameter(f"{module.__name__} has no World {name!r}; {_known(module)}")
        return worlds[name]
    told = [world for world in worlds.values() if saga in world.sagas] or list(worlds.values())
    if len(told) != 1:
        raise click.BadParameter(
            f"{_known(module)}: write a subclass of sagalog.testing.simulation.World beside the saga, or choose one with "
            "--world"
        )
    return told[0]


def _worlds(module: ModuleType) -> dict[str, type[World]]:
    return {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, World) and value is not World
    }


def _known(module: ModuleType) -> str:
    worlds = ", ".join(sorted(_worlds(module)))
    return f"{module.__name__} has the worlds {worlds}" if worlds else f"{module.__name__} has no World"
