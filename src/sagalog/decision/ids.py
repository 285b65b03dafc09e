"""All ids that are stored: made here, and taken apart here.

persistence id   saga::<saga name>::<correlation id>
tag              saga::<saga name>
message id       of a sender, as it is given (see sender_id)
refused event    sender::refused::<its time, in microseconds since 1970>::<message id>    in event time
reply            <command id>/reply/<event type>@<SagaRecord.first_start>/<number among those of that type>
refusal          <command id>/refused
entry            <sequence nr>/<index>                       a command or a timer, within its instance
command id       <persistence id>/<entry>
reservation      key::<saga name>::<key>=<text>                 of a unique key, beside the instances
start of a child <command id>/<life of its parent>@<when that life began, in microseconds since 1970>/child
end of a child   <that of its start, with ended for child>
controls         sagalog::controls                           of a journal: no instance, as the next two
open circuits    sagalog::circuits
shared rate      sagalog::rate::<command type>
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

GAP = "gap/"  # before the key of a sequence: the name of the timer until which a missing number is waited for
ANSWER = "answer/"  # before the entry of a command: the name of the timer that is the deadline of its answer
GATHER = "gather/"  # before the name of a gather: the name of the message that is its end, where that waits
ACTIVITY = "activity/"  # before the name of an activity: the name of its deadline's timer, or its reminder's
BY_KEY = "key::"  # before the ids of the reservations of unique keys
FAMILY = "saga::"  # before the persistence ids of all sagas
OWN = "sagalog::"  # before the persistence ids of what is no instance, but of the whole journal
CONTROLS = f"{OWN}controls"  # the persistence id of what operators have said about the commands of a journal
CIRCUITS = f"{OWN}circuits"  # the persistence id of what workers say about their open circuits
DROPPED = f"{FAMILY}dropped/"  # in the id of the held message that leads a gather on from a leg that was dropped


_SENDER = "sender::"  # before a sender's message id that looks like one of ours
_REFUSED = f"{_SENDER}refused::"


def sender_id(message_id: str) -> str:
    """Return the id under which a sender's message is known, which is never one that we make.

    That is the sender's own, unless it begins as ours do. Different ids stay different.
    """
    return _SENDER + message_id if message_id.startswith((FAMILY, _SENDER)) else message_id


def given_id(message_id: str) -> str:
    """Return the id that the sender gave a message which is known under `message_id`."""
    return message_id.removeprefix(_SENDER)


def refused_id(message_id: str, microseconds: int) -> str:
    """Return what notes that an event of that time, since 1970, was refused: it may come again with another time.

    No sender's id is known under it: behind `sender::` comes what begins as an id of ours does.
    """
    return f"{_REFUSED}{microseconds}::{message_id}"


def is_refused_id(noted: str) -> bool:
    """Say whether an id notes an event that was refused; see `refused_id`."""
    return noted.startswith(_REFUSED)


def rate_id(command: str) -> str:
    """Return the persistence id of the rate that workers share for a command type."""
    return f"{OWN}rate::{command}"


def tag_of(saga: str) -> str:
    """Return the tag of a saga's records."""
    return FAMILY + saga


def prefix_of(saga: str) -> str:
    """Return what the persistence ids of a saga begin with."""
    return f"{FAMILY}{saga}::"


def persistence_id(saga: str, correlation_id: str) -> str:
    """Return the persistence id of an instance."""
    return f"{FAMILY}{saga}::{correlation_id}"


def entry_id(sequence_nr: int, index: int) -> str:
    """Return the id of a command or a timer within its instance: the step that made it, and its place in there."""
    return f"{sequence_nr}/{index}"


def command_id(persistence_id: str, entry: str) -> str:
    """Return the id under which a command leaves: the same at every delivery."""
    return f"{persistence_id}/{entry}"


def entry_of(persistence_id: str, command_id: str) -> str:
    """Return the entry in a command id of that instance."""
    return command_id[len(persistence_id) + 1 :]


def reply_id(command_id: str, event: str, index: int, origin: int = 0) -> str:
    """Return the message id of an event that a command handler answered: by its type, and its number among those.

    By its place alone, the answer of a second attempt could be taken for another one of the first attempt. And by the
    command's id alone, that of a life whose instance was forgotten could be taken for one of a new life: the numbers of
    steps begin anew then. `origin` tells them apart; see SagaRecord.first_start.
    """
    return f"{command_id}/reply/{event}{f'@{origin}' if origin else ''}/{index}"


def reply_origin(message_id: str) -> int:
    """Return the `origin` in a reply's id; 0 where it has none."""
    number = message_id.rpartition("/reply/")[2].partition("/")[0].partition("@")[2]
    return int(number) if number.removeprefix("-").isdecimal() else 0


def id_within(persistence_id: str, message_id: str) -> str:
    """Return a message id as it is shown where its instance is known; of one's own replies without the `origin`."""
    if not message_id.startswith(f"{persistence_id}/"):
        return message_id
    within = entry_of(persistence_id, message_id)
    command, replies, reply = within.partition("/reply/")
    if not replies:
        return within
    event, _, number = reply.partition("/")
    return f"{command}{replies}{event.partition('@')[0]}/{number}"


def reply_parts(message_id: str) -> tuple[str, int, int] | None:
    """Return what a stored reply id is about: all but its number, and the first and the last number that it stands for.

    `<command id>/reply/<event type>/0-7` stands for eight of them. None for the id of anything else.
    """
    if not message_id.startswith(FAMILY):
        return None
    of, _, numbers = message_id.rpartition("/")
    first, _, last = numbers.partition("-")
    if not first.isdecimal() or not (last.isdecimal() or last == "" == numbers[len(first) :]):
        return None
    return of, int(first), int(last or first)


def replies_id(of: str, first: int, last: int) -> str:
    """Return the id that stands for the replies `first` to `last`; see `reply_parts`."""
    return f"{of}/{first}-{last}" if last > first else f"{of}/{first}"


def instance_of(persistence_id: str) -> tuple[str, str] | None:
    """Return the saga name and the correlation id in a persistence id; None for one that is not of a saga.

    A saga name holds no `::`, a correlation id may.
    """
    if not persistence_id.startswith(FAMILY):
        return None
    saga, separator, correlation_id = persistence_id[len(FAMILY) :].partition("::")
    return (saga, correlation_id) if separator else None


def parts_of(persistence_id: str) -> tuple[str, str]:
    """Return the saga name and the correlation id; no name, and all of it as the id, for one that is not of a saga."""
    return instance_of(persistence_id) or ("", persistence_id)


def answered_entry(persistence_id: str, message_id: str) -> str:
    """Return the entry of the command of that instance whose handler gave this answer; nothing for any other message."""
    if not message_id.startswith(f"{persistence_id}/"):
        return ""
    entry, answer, _ = entry_of(persistence_id, message_id).partition("/reply/")
    return entry if answer else ""


def behind_saga(saga: str) -> str:
    """Return a text that comes behind all persistence ids of a saga, and before those of the sagas that follow it."""
    return f"{FAMILY}{saga}:;"  # ";" is the character after ":"


def refusal_id(command_id: str) -> str:
    """Return the message id under which a saga is told that a command was refused."""
    return f"{command_id}/refused"


def refused_command(message_id: str) -> str:
    """Return the command id in the message id of a refusal."""
    return message_id.removesuffix("/refused")


def term_of(saga: str, field: str, text: str | None) -> str:
    """Return the term under which a journal finds the instances whose field has that text; None: whose field is None."""
    return f"{saga} {field}" if text is None else f"{saga} {field}={text}"  # a saga's name has no space


def reservation_id(saga: str, name: str, text: str) -> str:
    """Return the id under which a value of a unique key is reserved. It is no instance, and no prefix of one lists it."""
    return f"{BY_KEY}{saga}::{name}={text}"


def reservations_of(saga: str) -> str:
    """Return what the ids of all reservations of a saga begin with."""
    return f"{BY_KEY}{saga}::"


def key_term(saga: str, name: str, text: str) -> str:
    """Return the term under which a journal finds the instances that hold that value of a key."""
    return f"{saga} @{name}={text}"  # no field begins so


def terms_of(saga: str, index: Mapping[str, str | None], keys: Iterable[tuple[str, str]] = ()) -> tuple[str, ...]:
    """Return the terms of one instance: of its index, and of the keys that it holds (name and text)."""
    found = [term_of(saga, field, text) for field, text in index.items()]
    found.extend(key_term(saga, name, text) for name, text in keys)
    return tuple(found)


def is_refusal(message_id: str) -> bool:
    """Say whether a message id is that of a refusal, if no sender gave it."""
    return message_id.endswith("/refused")


def refused_entry(persistence_id: str, message_id: str) -> str | None:
    """Return the entry of the command whose refusal has this message id; None for the id of any other message."""
    if not message_id.startswith(f"{persistence_id}/") or not is_refusal(message_id):
        return None
    return entry_of(persistence_id, refused_command(message_id))


def sent_in(entry: str) -> tuple[int, int]:
    """Return the number of the step that made an entry, and its place in there; (0, 0) for what is no entry."""
    step, _, index = entry.partition("/")
    return (int(step), int(index)) if step.isdecimal() and index.isdecimal() else (0, 0)


class ParentId(msgspec.Struct, frozen=True):
    """Who started a child: an instance, in which life, by which entry of its outbox.

    `began`: when that life began, in microseconds since 1970; 0 in an id that an earlier version has made.
    """

    persistence_id: str
    entry: str
    life: int
    began: int = 0


def start_id(persistence_id: str, entry: str, life: int, began: int = 0) -> str:
    """Return the message id under which a child is started: the same at every delivery, and no sender's.

    The numbers of steps and lives begin anew where an instance was forgotten, so `began` tells such lives apart.
    """
    return f"{command_id(persistence_id, entry)}/{life}{f'@{began}' if began else ''}/child"


def end_id(start_id: str) -> str:
    """Return the message id under which a parent hears of the end of the child that was started under that one."""
    return start_id.removesuffix("child") + "ended"


def parent_in(message_id: str) -> ParentId | None:
    """Return who started the child that this message id starts, or tells the end of; None for any other id."""
    if not message_id.startswith(FAMILY) or not message_id.endswith(("/child", "/ended")):
        return None
    of, *numbers, _ = message_id.rsplit("/", 4)
    if len(numbers) != 3:
        return None
    step, index, lived = numbers
    life, at, began = lived.partition("@")
    if not all(number.isdecimal() for number in (step, index, life, began.removeprefix("-") if at else "0")):
        return None
    return ParentId(of, f"{step}/{index}", int(life), int(began or 0))
