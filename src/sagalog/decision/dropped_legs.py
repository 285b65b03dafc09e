"""What an operator's repair means for gathers: a leg that is dropped counts as refused, and its gather is led on.

    repair ─► [dropped_legs] ─► a held message ─► replay ─► advance ─► passing

The repair has not the code of the saga, and maybe nothing else ever comes for the instance. So it leaves a message behind
that lets whoever has the code send the legs behind that one, or handle the end.
"""

from __future__ import annotations

from collections.abc import Iterable

from .children import child_entry
from .entries import Held
from .ids import DROPPED, GATHER
from .record import SagaRecord


def refuse_answer(record: SagaRecord, answer: Held) -> str:
    """Let the leg that a dropped message answers count as refused, as nobody brings that answer again; and say so."""
    command, replied, _ = answer.id.rpartition("/reply/")
    is_answer = bool(replied) and answer.kind == "event" and answer.life == record.incarnation
    if not (record.gathers and (is_answer or answer.kind == "child")):
        return ""
    entry = child_entry(answer.id) if answer.kind == "child" else "/".join(command.split("/")[-2:])
    name = refuse_leg(record, entry)
    return f", and its leg of the gather {name} as refused" if name else ""


def refuse_leg(record: SagaRecord, entry: str) -> str:
    """Let the leg count as refused whose command has that entry; return the name of its gather, if there is one."""
    for name, gathering in record.gathers.items():
        leg = gathering.leg_of(entry)
        if leg is None:
            continue
        record.gathers = {**record.gathers, name: gathering.with_leg(leg, refused=True)}
        if not any(one.id.startswith(DROPPED) and one.name == GATHER + name for one in record.held):
            one = Held(f"{DROPPED}{name}/{entry}", gathering.then, "timer", name=GATHER + name, life=record.incarnation)
            record.held = (*record.held, one)
        return name
    return ""


def let_gathers_go(record: SagaRecord, dropped: Iterable[Held]) -> list[str]:
    """Forget the gathers that an operator does not want to go on, and say so."""
    names = [one.name.removeprefix(GATHER) for one in dropped if one.id.startswith(DROPPED)]
    names = [name for name in names if name in record.gathers]
    record.gathers = {name: one for name, one in record.gathers.items() if name not in names}
    return [f"forgets the gather {name}, whose end could not be handled" for name in names]
