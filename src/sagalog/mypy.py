"""A mypy plugin: a handler whose state is not its saga's state type is an error. Enable: `plugins = ["sagalog.mypy"]`.

Why a plugin: inside the class body a decorator is called before the class exists, and Python's type system has no way
to say "the type argument of the class that this method is defined in". mypy knows the class there; a plugin may ask.
"""

from __future__ import annotations

from collections.abc import Callable

import mypy.types  # noqa: F401  first: its modules import each other, and some cannot begin
from mypy.maptype import map_instance_to_supertype
from mypy.plugin import MethodContext, Plugin
from mypy.subtypes import is_subtype
from mypy.types import AnyType, CallableType, Instance, Type, get_proper_type

_DECORATORS = {
    "sagalog.definition.routes.Handles.__call__",
    "sagalog.definition.joins.WhenAll.__call__",
    "sagalog.definition.children.OnChild.__call__",
}


class SagaPlugin(Plugin):
    """Checks the state of decorated handlers."""

    def get_method_hook(self, fullname: str) -> Callable[[MethodContext], Type] | None:
        """Follow the calls that decorate a handler."""
        return _check_state if fullname in _DECORATORS else None


def _check_state(context: MethodContext) -> Type:
    function = get_proper_type(context.arg_types[0][0])
    if not isinstance(function, CallableType) or len(function.arg_types) < 2:
        return context.default_return_type
    owner, state = (get_proper_type(kind) for kind in function.arg_types[:2])
    if not isinstance(owner, Instance) or isinstance(state, AnyType):
        return context.default_return_type
    base = next((info for info in owner.type.mro if info.fullname == "sagalog.definition.saga.Saga"), None)
    if base is not None:
        (declared,) = map_instance_to_supertype(owner, base).args
        if not is_subtype(declared, state):
            context.api.fail(
                f'Handler takes state "{state}", but the state of {owner.type.name} is "{declared}"', context.context
            )
    return context.default_return_type


def plugin(_version: str) -> type[Plugin]:
    """Return the plugin (what mypy asks a plugin module for)."""
    return SagaPlugin
