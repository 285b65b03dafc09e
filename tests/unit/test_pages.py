"""What a record holds is stored in pages, and read again as it was: against a plain list, whatever happens in between."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sagalog import CodecError, SagaRecord, Status
from sagalog.decision.entries import Held
from sagalog.decision.lookup import MessageLookups
from sagalog.decision.pages import NO_MESSAGES, StoredMessages, as_stored, encode_in_pages, left_of, whole
from sagalog.decision.record import FORMAT, decode_record, encode_record
from sagalog.definition.codec import Typed
from sagalog.journal.pages import named_by

NOW = datetime(2030, 1, 1, tzinfo=UTC)
TEXT = "a text of some length, as events have it"


def held(name: str, size: int = 1) -> Held:
    return Held(name, Typed("Noted", msgspec.Raw(msgspec.json.encode({"text": TEXT * size}))))


def record(*messages: Held, kept: Sequence[Held] = ()) -> SagaRecord:
    state = msgspec.Raw(b'{"n":1}')
    return SagaRecord(FORMAT, Status.RUNNING, state, NOW, NOW, parked="it failed", held=messages, kept=tuple(kept))


class Shelf:
    """The records of one instance, as a journal keeps them."""

    def __init__(self, page_bytes: int, history: int = 0) -> None:
        self.page_bytes = page_bytes
        self.history = history  # how many before the newest are kept; 0: all
        self.rows: list[bytes] = []
        self.stored = NO_MESSAGES

    @property
    def written(self) -> int:
        return sum(map(len, self.rows))

    def save(self, given: SagaRecord) -> None:
        encoded = encode_in_pages(given, self.stored, self.page_bytes, self.history)
        assert encoded.size == len(encode_record(given)), "its size is not that of the whole record"
        self.rows.append(encoded.payload)
        self.stored = StoredMessages(len(self.rows), 0, encoded.held, encoded.kept)

    def load(self) -> SagaRecord:
        found = decode_record(self.rows[-1])
        named = named_by(found)
        oldest = len(self.rows) - self.history if self.history else 0
        assert all(oldest <= number < len(self.rows) for number in named)
        made = whole(found, {number: decode_record(self.rows[number - 1]) for number in named})
        self.stored = as_stored(found, made, len(self.rows), 0)
        return made


def test_what_is_written_for_messages_held_one_by_one_grows_with_their_number() -> None:
    def written(count: int) -> int:
        shelf, messages = Shelf(4096), list[Held]()
        for number in range(count):
            messages.append(held(f"m{number}"))
            shelf.save(record(*messages))
        return shelf.written

    few = written(500)
    assert written(2000) < 6 * few  # in each record: 16 times


def test_where_only_some_records_are_kept_all_of_it_is_stored_again_once_for_so_many() -> None:
    def written(count: int, history: int) -> int:
        shelf, messages = Shelf(4096, history), list[Held]()
        for number in range(count):
            messages.append(held(f"m{number}"))
            shelf.save(record(*messages))
        assert shelf.load().held == tuple(messages)
        return shelf.written

    assert written(2000, 10) < written(2000, 1) / 4
    assert written(2000, 100) < written(2000, 10) / 2


def test_a_record_names_few_pages_each_at_least_twice_as_large_as_the_next() -> None:
    shelf, messages = Shelf(500), list[Held]()
    for number in range(3000):
        messages.append(held(f"m{number}", 1 + number % 5))
        shelf.save(record(*messages))
        sizes = [page.size for page in shelf.stored.held.pages]
        assert all(one >= 2 * other for one, other in pairwise(sizes)), sizes
        assert len(sizes) <= 12


def test_a_record_that_holds_nothing_or_little_is_stored_as_before() -> None:
    for messages in ([], [held("a")], [held("a"), held("b")]):
        given = record(*messages)
        assert encode_in_pages(given, NO_MESSAGES, 4096).payload == encode_record(given)
    assert b"held_in" not in encode_record(record(held("a")))


def test_a_record_whose_messages_were_not_only_added_to_holds_all_of_them_itself() -> None:
    shelf = Shelf(1)
    messages = [held(f"m{number}") for number in range(20)]
    for count in range(1, 21):
        shelf.save(record(*messages[:count]))
    assert shelf.stored.held.pages
    shelf.save(record(*messages[1:]))
    assert not shelf.stored.held.pages
    assert decode_record(shelf.rows[-1]).held == tuple(messages[1:])


@pytest.mark.parametrize("of", ["the version before", "a record that is not there"])
def test_a_page_that_is_not_the_one_that_is_meant_is_an_error(of: str) -> None:
    shelf = Shelf(1)
    for count in range(1, 12):
        shelf.save(record(*(held(f"m{number}") for number in range(count))))
    found = decode_record(shelf.rows[-1])
    named = {number: decode_record(shelf.rows[number - 1]) for number in named_by(found)}
    first = found.held_in[0]
    if of == "the version before":
        named[first.version] = decode_record(shelf.rows[first.version - 2])
    else:
        del named[first.version]
    with pytest.raises(CodecError, match=f"step {first.version}, which has {first.count}"):
        whole(found, named)
    assert left_of(found, named).held_count == found.held_count - first.count


def test_a_page_with_a_field_that_this_code_does_not_know_is_refused() -> None:
    with pytest.raises(CodecError):
        decode_record(encode_record(record(held("a"))).replace(b'"held":', b'"held_in":[[1,1,20,7]],"held":'))


STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["hold", "keep"]), st.integers(1, 30), st.integers(1, 4)),
        st.tuples(st.sampled_from(["drop", "wake"]), st.integers(0, 5), st.just(0)),
        st.tuples(
            st.sampled_from(["replay", "reload", "again", "put in front", "park", "lose"]), st.just(0), st.just(0)
        ),
    ),
    max_size=40,
)


@settings(max_examples=200, deadline=None)
@given(STEPS, st.sampled_from([1, 100, 1000, 4096]), st.sampled_from([0, 1, 2, 7, 40]))
def test_whatever_happens_what_is_read_is_what_plain_lists_hold(
    steps: list[tuple[str, int, int]], page_bytes: int, history: int
) -> None:
    shelf, held_now, kept_now, lookups = Shelf(page_bytes, history), list[Held](), list[Held](), MessageLookups()
    serial = 0
    shelf.save(record())
    current = shelf.load()
    for step, count, size in steps:
        match step:
            case "hold" | "keep":  # one step each, as they come
                for _ in range(count):
                    serial += 1
                    name, new = f"m{serial}", held(f"m{serial}", size)
                    if step == "hold":
                        held_now.append(new)
                        assert not lookups.held.has(current.held, name, "event")
                        current = record(*current.held, new, kept=current.kept)
                        assert lookups.held.has(current.held, name, "event")
                    else:
                        kept_now.append(new)
                        current = record(*current.held, kept=current.kept)
                        kept = lookups.kept_by(current)
                        assert not kept.has(name, "event")
                        kept.add(new)
                        assert kept.has(name, "event")
                        lookups.freeze(current)
                    shelf.save(current)
            case "drop":
                del held_now[:count]
                current = record(*current.held[count:], kept=current.kept)
                shelf.save(current)
            case "wake":  # whose moment has come, wherever it stands
                woken = kept_now[count : 2 * count]
                del kept_now[count : 2 * count]
                current = record(*current.held, kept=current.kept)
                for one in woken:
                    lookups.kept_by(current).take(one.id, one.kind)
                lookups.freeze(current)
                shelf.save(current)
            case "replay":
                held_now.clear()
                current = record(kept=current.kept)
                shelf.save(current)
            case "put in front":  # one that waits for the next incarnation
                held_now[:1] = [msgspec.structs.replace(one, waits=True) for one in held_now[:1]]
                current = record(*held_now, kept=current.kept)
                shelf.save(current)
            case "park":  # with a kept message: all of them are held, in front
                held_now[:0], kept_now = kept_now, []
                current = record(*held_now)
                shelf.save(current)
            case "again":  # a step that leaves them as they are
                shelf.save(current)
            case "lose":  # a draft that is not stored: the next one begins on the record before it
                lost = record(*current.held, held("lost"), kept=current.kept)
                lookups.held.has(lost.held, "lost", "event")
                lookups.kept_by(lost).add(held("lost"))
                lookups.freeze(lost)
                encode_in_pages(lost, shelf.stored, page_bytes, history)
            case "reload":
                current = shelf.load()
        assert (list(current.held), list(current.kept)) == (held_now, kept_now)
    found = shelf.load()
    assert (list(found.held), list(found.kept)) == (held_now, kept_now)
    assert all(lookups.held.has(current.held, one.id, "event") for one in current.held)
    assert not lookups.held.has(current.held, "lost", "event")
    kept = lookups.kept_by(current)
    assert list(kept) == kept_now
    assert all(kept.has(one.id, "event") for one in kept_now)
    assert not kept.has("lost", "event")
