"""What one step saves: state, inbox, outbox, timers, undo stack and status of an instance, as one JSON document.

A field that this code does not know is refused, wherever it stands: a newer version wrote it, and our next save would
drop it.
"""

import base64
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from ..definition.codec import NOT_JSON, Typed
from ..definition.indexing import Index
from ..errors import CodecError
from .entries import (
    FINAL,
    Audit,
    Child,
    Command,
    Ended,
    Handled,
    Held,
    HeldPage,
    Joined,
    Request,
    Stage,
    Status,
    Timer,
    Undo,
)
from .gathering import Gathering
from .ids import ACTIVITY, ANSWER, GAP, GATHER, terms_of
from .keys import KeyValue, pairs

FORMAT = 1


_UNSUSPECTED = 3  # takeovers: whatever a worker has in hand when it dies is taken over, not only what it died of


class SagaRecord(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True, gc=False):
    """The whole truth about one instance after one step.

    Its sequences are never changed in place, so that records may share them.
    """

    format: int
    status: Status
    state: msgspec.Raw
    started_at: datetime
    updated_at: datetime
    handled: tuple[Handled, ...] = ()
    state_version: int = 1
    state_is_base64: bool = False
    incarnation: int = 1
    inbox: tuple[str, ...] = ()
    inbox_ages: tuple[tuple[datetime, int], ...] = ()  # of its oldest ids; see inbox.py
    outbox: tuple[Command, ...] = ()
    timers: dict[str, Timer] = {}
    undo: tuple[Undo, ...] = ()
    parked: str = ""  # why an operator is needed
    goes_on: bool = False  # none is: what it holds is replayed further once its commands are accepted, and leave room
    stuck: str = ""  # the outbox entry because of which it is parked; delivery waits there
    held: tuple[Held, ...] = ()
    held_in: tuple[HeldPage, ...] = ()  # as stored: where those are that come before `held`, oldest first; see pages.py
    audit: tuple[Audit, ...] = ()
    inherited: tuple[str, ...] = ()  # ids consumed by earlier incarnations ...
    inherited_ages: tuple[tuple[datetime, int], ...] = ()
    inherited_until: datetime | None = None  # ... remembered until then
    started_by: str = ""  # the type of the event that began this incarnation
    recent: tuple[str, ...] = ()  # the last ids that no sender gave, so that a save without an answer can be looked up
    taken: str = ""  # the outbox entry that other workers had begun when they died, as far as anybody knows ...
    takeovers: int = 0  # ... and how often it was taken over
    requests: tuple[Request, ...] = ()  # commands whose answer has a deadline
    begun: bool = False  # the command `taken` was begun by itself since: if its worker dies now, it may be the reason
    joins: dict[str, Joined] = {}  # by name
    gathers: dict[str, Gathering] = {}  # that are under way, by name
    leased_until: datetime | None = None  # a worker is at the first command of the outbox for longer than a lease
    result: Typed | None = None  # of the incarnation that has completed
    ended_at: datetime | None = None  # when it came to stand as it does, where that is an end
    last_end: Ended | None = None  # of the incarnation before
    index: dict[str, str | None] = {}  # what it is found by: the texts of these fields; never changed in place
    keys: dict[str, tuple[str, ...]] = {}  # by which it is reached, none once it has ended; never changed in place
    unique_keys: dict[str, tuple[str, ...]] = {}  # those that no other live instance holds; see reservation.py
    phase: str = ""  # the name of its member; none where the saga has no phases, or has not handled its first event
    kept: tuple[Held, ...] = ()  # accepted messages that wait for their moment; see kept.py
    kept_in: tuple[HeldPage, ...] = ()  # as stored: where those are that come before `kept`, as with `held_in`
    activities: dict[str, Stage] = {}  # by name, in the order in which they came there
    sequences: dict[str, int] = {}  # the number that comes next in each sequence, by its name (or `<name>/<sender>`)
    holes: tuple[str, ...] = ()  # numbers that are not waited for, as `<sequence>/<number>`
    skipped: tuple[str, ...] = ()  # numbers that did not come in time, newest last, as `<sequence>/<first>-<last>`
    gap: str = ""  # the sequence because of which it is parked: a number did not come in time
    waking: bool = False  # the moment of one of those may have come: they come before anything else of this instance
    parent: str = ""  # the message id that started this life as a child; see ids.parent_in
    told: bool = False  # that parent is told of the end, or was
    children: dict[str, Child] = {}  # whose end this life has not heard of, by the entry that starts them
    child_ends: dict[str, int] = {}  # how many others ended, by their outcome
    origin: int = 0  # what `first_start` was in the incarnation before

    def state_bytes(self) -> bytes:
        """Return the state as the saga encoded it. Raises CodecError if it is damaged."""
        raw = bytes(self.state)
        if not self.state_is_base64:
            return raw
        try:
            return base64.b64decode(msgspec.json.decode(raw), validate=True)
        except (TypeError, ValueError):  # not a text, or not base64
            raise CodecError("the stored state is damaged: it is not base64") from None

    @property
    def first_start(self) -> int:
        """When the first life began of all since the instance was unknown, in microseconds since 1970.

        Numbers of steps, so the ids of commands too, begin anew where an instance was forgotten; by this, what belongs to
        the lives before is told from what belongs to those since. 0: not known.
        """
        return self.origin or (microseconds(self.started_at) if self.incarnation == 1 else 0)

    def terms(self, saga: str) -> tuple[str, ...]:
        """Return what a journal finds the instance by: the fields of its index, and the keys that it holds."""
        return terms_of(saga, self.index, pairs(self.keys))

    def all_keys(self) -> list[KeyValue]:
        """Return the values that it is reached by, the unique ones last."""
        return [*pairs(self.keys), *pairs(self.unique_keys)]

    def holds(self, by: KeyValue) -> bool:
        """Say whether it is reached by that value of a key."""
        return by[1] in self.keys.get(by[0], ()) or by[1] in self.unique_keys.get(by[0], ())

    def found_by(self, wanted: Index) -> bool:
        """Say whether all that is wanted is so: of a field of its index the text, of another name a key that it holds."""
        index = self.index
        return all(
            index[name] == text if name in index else text is not None and self.holds((name, text))
            for name, text in wanted.items()
        )

    def timer_title(self, name: str) -> str:
        """Return what to call a timer: the name that the saga gave it, or what its deadline is for."""
        if name.startswith(GAP):
            return f"a missing {name.removeprefix(GAP)}"
        if name.startswith(ANSWER):
            entry = name.removeprefix(ANSWER)
            for request in self.requests:
                if request.id == entry:
                    return f"no answer to {request.command} ({entry})"
        if name.startswith(GATHER):
            return f"the end of the gather {name.removeprefix(GATHER)}"
        if name.startswith(ACTIVITY):
            activity, _, reminder = name.removeprefix(ACTIVITY).partition("/")
            return f"{'reminder' if reminder else 'deadline'} of activity {activity}"
        return name

    def suspects(self, entry: str, most: int) -> bool:
        """Say whether a command was taken over so often that it is carried out by itself, and its beginning recorded."""
        return bool(self.taken) and self.taken == entry and self.takeovers >= min(_UNSUSPECTED, most)

    @property
    def drained(self) -> bool:
        """Nothing is left to deliver, also not later."""
        return not self.outbox and not self.timers

    @property
    def committed(self) -> bool:
        """Whether a pivot is done: nothing that activities have done is undone any more."""
        return any(stage.pivot for stage in self.activities.values())

    @property
    def finished(self) -> bool:
        """It has ended, owes nothing, and waits for no operator: only its memory of message ids is kept."""
        waits = self.held or self.kept or self.in_pages
        return self.status in FINAL and self.drained and not waits and not self.parked

    @property
    def in_pages(self) -> bool:
        """It is not whole: some of what it holds or keeps is in earlier records; see pages.py."""
        return bool(self.held_in or self.kept_in)

    @property
    def held_count(self) -> int:
        """How many messages it holds, those in earlier records included."""
        return len(self.held) + (sum(page.count for page in self.held_in) if self.held_in else 0)

    @property
    def kept_count(self) -> int:
        """How many messages it keeps, those in earlier records included."""
        return len(self.kept) + (sum(page.count for page in self.kept_in) if self.kept_in else 0)

    @property
    def owes_delivery(self) -> bool:
        """Commands wait in the outbox, and not for a repair."""
        return bool(self.outbox) and not self.stuck

    @property
    def owes_replay(self) -> bool:
        """It is repaired and still holds messages: they come before anything else of this instance.

        A starting event that was held for the next incarnation waits until this one has ended. Of a record that is not
        whole, as stored, the first is not seen: it can only be such an event, because repairs store all in one record.
        """
        if self.parked:
            return self.goes_on and not (self.outbox or self.stuck)
        if self.held_in:
            return self.status in FINAL
        return bool(self.held) and (not self.held[0].waits or self.status in FINAL)

    @property
    def owes_waking(self) -> bool:
        """The moment of a kept message may have come, and no repair has to come first."""
        return self.waking and not self.parked

    @property
    def owes(self) -> bool:
        """There is something to do now: a delivery, the replay of what it holds, or a look at what it keeps."""
        return self.owes_delivery or self.owes_replay or self.owes_waking

    @property
    def owes_turn(self) -> bool:
        """Its next turn is not asked for by anybody: a kept message may have its moment, or a replay has found room."""
        return self.owes_waking or (self.goes_on and self.owes_replay)

    @property
    def next_timer_at(self) -> datetime | None:
        """When the first timer that may fire is due.

        Those of a parked instance wait for its repair: an event that is held may cancel them. Scheduled commands leave.
        """
        first = None
        for timer in self.timers.values():
            if (first is None or timer.due_at < first) and (timer.send or not self.parked):
                first = timer.due_at
        return first


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(SagaRecord)


def microseconds(moment: datetime) -> int:
    """Return a moment as microseconds since 1970."""
    return (moment - _EPOCH) // _MICROSECOND


def embed_state(payload: bytes) -> tuple[msgspec.Raw, bool]:
    """Return `payload` as JSON to embed, and whether it had to be wrapped as base64 because it is not JSON itself."""
    try:
        msgspec.json.decode(payload)
        payload.decode()
        plain = payload.strip() == payload
    except NOT_JSON:
        plain = False
    if not plain:
        return msgspec.Raw(b'"' + base64.b64encode(payload) + b'"'), True
    return msgspec.Raw(payload), False


def encode_record(record: SagaRecord) -> bytes:
    """Return the JSON of `record`. Raises CodecError for a text that is not valid Unicode: a lone surrogate."""
    try:
        return _encoder.encode(record)
    except UnicodeEncodeError:
        raise CodecError(_not_unicode(record)) from None


def well_formed(text: str) -> str:
    r"""Return `text` as it can be stored: lone surrogates, which JSON cannot hold, are written as \ud800 and so on."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def _not_unicode(record: SagaRecord) -> str:
    wrong = []
    for name in record.__struct_fields__:
        try:
            _encoder.encode(getattr(record, name))
        except UnicodeEncodeError:
            wrong.append(name)
    return (
        f"the record cannot be stored: in {' and '.join(wrong)}, a string contains a lone surrogate, which is not "
        "valid Unicode"
    )


def decode_record(payload: bytes) -> SagaRecord:
    """Return the record. Raises CodecError for damaged data or a format newer than this code."""
    try:
        if not payload.isascii():
            payload.decode()  # the embedded JSON is passed over by the decoder, its texts are not looked at
        record = _decoder.decode(payload)
    except NOT_JSON as error:
        raise CodecError(_why_not(payload, error)) from None
    if record.format != FORMAT:
        raise CodecError(_other_format(record.format))
    return record


def _why_not(payload: bytes, error: Exception) -> str:
    try:
        document: Any = msgspec.json.decode(payload)
    except NOT_JSON:
        return "the stored record is damaged: it is not JSON"
    stored = document.get("format") if isinstance(document, dict) else None
    if isinstance(stored, int) and stored > FORMAT:
        return _other_format(stored)
    if isinstance(error, msgspec.ValidationError) and "unknown field" in str(error):
        return (
            "the record has a field that this code does not know: either a newer version wrote it, so upgrade, or "
            "it is damaged"
        )
    return "the stored record is damaged: it does not have the fields of a saga record"


def _other_format(stored: int) -> str:
    return f"the record has format {stored}; this code knows up to {FORMAT}: upgrade sagalog"
