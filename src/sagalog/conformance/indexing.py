"""Finding live ids by their terms (FindsByTerms): the index is written with the record, or not at all."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from ..errors import ConflictError, InvalidEventError, SequenceOutOfOrder
from ..journal.protocol import MAX_TERM_BYTES, MAX_TERMS, FindsByTerms, Journal, PersistentRepr
from .capability import Capability, may
from .records import NOW, record


async def found(journal: Journal, *terms: str, limit: int = 1000) -> list[tuple[str, int]]:
    """Return the ids that are found, with the numbers of their records, page by page, sorted."""
    assert isinstance(journal, FindsByTerms), f"{type(journal).__name__} has no latest_by_terms"
    names: list[tuple[str, int]] = []
    after = ""
    while True:
        page, after = await journal.latest_by_terms(terms, after=after, limit=limit)
        assert len(page) <= limit
        names += [(one.persistence_id, one.sequence_nr) for one in page]
        if not after:
            return sorted(names)


def named(key: str, number: int, *terms: str, **more: Any) -> PersistentRepr:
    return record(key, number, f"{key}-{number}".encode(), terms=terms, **more)


class Indexing:
    """What a journal promises that finds ids by terms."""

    @may(Capability.TERMS)
    async def test_an_id_is_found_by_each_of_its_terms_and_by_all_of_them(self, journal: Journal) -> None:
        await journal.write_batch([named("a", 1, "x=1", "y=1"), named("b", 1, "x=1", "y=2"), record("c", 1)])
        assert await found(journal, "x=1") == [("a", 1), ("b", 1)]
        assert await found(journal, "y=2", "x=1") == await found(journal, "x=1", "y=2", "x=1") == [("b", 1)]
        assert await found(journal, "x=1", "y=3") == await found(journal, "x") == await found(journal, "x=11") == []
        assert isinstance(journal, FindsByTerms)
        (only,), _ = await journal.latest_by_terms(["y=2"])
        assert (only.payload, only.terms) == (b"b-1", None)

    @may(Capability.TERMS)
    async def test_new_terms_take_the_place_of_the_old_ones_and_without_any_they_stay(self, journal: Journal) -> None:
        await journal.write_messages([named("a", 1, "x=1", "y=1")])
        await journal.write_messages([record("a", 2)])
        assert await found(journal, "x=1", "y=1") == [("a", 2)]
        await journal.write_batch([named("a", 3, "x=2", "y=1")])
        assert await found(journal, "x=1") == []
        assert await found(journal, "x=2") == await found(journal, "y=1") == [("a", 3)]
        await journal.write_batch([named("a", 4)])
        assert await found(journal, "x=2") == await found(journal, "y=1") == []

    @may(Capability.TERMS)
    async def test_what_is_not_stored_changes_no_terms(self, journal: Journal) -> None:
        await journal.write_messages([named("a", 1, "x=1")])
        with pytest.raises(SequenceOutOfOrder):
            await journal.write_messages([named("a", 1, "x=2"), named("a", 3, "x=3")])
        answers = await journal.write_batch([named("a", 3, "x=2"), named("b", 2, "x=2"), named("c", 1, "x=2")])
        assert [isinstance(answer, ConflictError) for answer in answers] == [True, True, False]
        assert await found(journal, "x=1") == [("a", 1)]
        assert await found(journal, "x=2") == [("c", 1)]

    @may(Capability.TERMS)
    async def test_records_of_one_call_leave_the_newest_terms(self, journal: Journal) -> None:
        await journal.write_messages([named("a", 1, "x=1"), named("a", 2, "x=2"), record("a", 3), named("b", 1, "x=2")])
        assert await found(journal, "x=1") == []
        assert await found(journal, "x=2") == [("a", 3), ("b", 1)]

    @may(Capability.TERMS)
    async def test_an_id_that_is_not_live_is_not_found_and_its_next_life_only_by_new_terms(
        self, journal: Journal
    ) -> None:
        await journal.write_batch([named(key, 1, "x=1") for key in "abcd"])
        await journal.write_batch([record("a", 2, deleted=True), named("b", 2, "x=1", deleted=True, due_at=NOW)])
        await journal.delete_messages_to("c", 1)
        assert await found(journal, "x=1") == [("d", 1)]
        await journal.write_batch([record("a", 3), named("b", 3, "x=2")])
        assert await found(journal, "x=1") == [("d", 1)]
        assert await found(journal, "x=2") == [("b", 3)]
        await journal.write_batch([record("d", 2, deleted=True)])
        await journal.purge([("d", 2)])
        await journal.write_batch([named("d", 1, "x=3")])
        assert await found(journal, "x=1") == []
        assert await found(journal, "x=3") == [("d", 1)]

    @may(Capability.TERMS)
    async def test_terms_may_hold_any_text_and_are_told_apart(self, journal: Journal) -> None:
        texts = [
            "a",
            "A",
            "a ",
            " a",
            "\u00e9",
            "e\u0301",
            '"',
            "\\",
            "\\\\",
            "{}",
            "a,b",
            "NULL",
            "%",
            "_",
            "\n",
            "😀",
        ]
        texts += ["x" * MAX_TERM_BYTES, "'; DROP TABLE term; --"]
        await journal.write_batch([named(f"id{n}", 1, text) for n, text in enumerate(texts)])
        await journal.write_messages([named("alone", 1, *texts[:10])])
        for n, text in enumerate(texts):
            assert await found(journal, text) == sorted([(f"id{n}", 1), *([("alone", 1)] if n < 10 else [])]), text

    @may(Capability.TERMS)
    @pytest.mark.parametrize(
        "terms",
        [
            ("",),
            ("a\0b",),
            ("\ud800",),
            ("x" * (MAX_TERM_BYTES + 1),),
            ("a", "a"),
            ["a"],
            (1,),
            tuple(map(str, range(MAX_TERMS + 1))),
        ],
        ids=["empty", "NUL", "surrogate", "long", "twice", "list", "number", "many"],
    )
    async def test_a_term_that_some_journal_cannot_keep_is_refused_by_all(self, journal: Journal, terms: Any) -> None:
        with pytest.raises(InvalidEventError):
            await journal.write_messages([record("a", 1, terms=terms)])
        (answer,) = await journal.write_batch([record("a", 1, terms=terms)])
        assert isinstance(answer, InvalidEventError)
        assert await journal.highest_sequence_nr("a") == 0
        assert isinstance(journal, FindsByTerms)
        with pytest.raises(InvalidEventError):
            await journal.latest_by_terms([])

    @may(Capability.TERMS)
    async def test_pages_hold_each_id_once_while_others_come_and_go(self, journal: Journal) -> None:
        keys = [f"id{n:03}" for n in range(40)]
        await journal.write_batch([named(key, 1, "x=1", f"n={int(key[2:]) % 2}") for key in keys])
        assert await found(journal, "x=1", limit=7) == [(key, 1) for key in keys]
        assert await found(journal, "n=1", "x=1", limit=3) == [(key, 1) for key in keys[1::2]]
        assert isinstance(journal, FindsByTerms)
        page, after = await journal.latest_by_terms(["x=1"], limit=10)
        seen = [one.persistence_id for one in page]
        left = [key for key in keys if key not in seen]
        await journal.write_batch([named(left[0], 2, "x=2"), record(left[1], 2, deleted=True), record(left[2], 2)])
        await journal.write_batch([named("id999", 1, "x=1"), record(seen[-1], 2, deleted=True)])
        while after:
            page, after = await journal.latest_by_terms(["x=1"], after=after, limit=10)
            seen += [one.persistence_id for one in page]
        assert len(seen) == len(set(seen))
        assert set(keys) - {left[0], left[1]} <= set(seen) <= {*keys, "id999"} - {left[0], left[1]}

    @may(Capability.TERMS)
    async def test_writers_that_race_leave_the_terms_of_the_newest_record(self, journal: Journal) -> None:
        await journal.write_messages([named("a", 1, "n=1")])

        async def write(writer: int) -> None:
            while (number := await journal.highest_sequence_nr("a") + 1) <= 20:
                await journal.write_batch([named("a", number, f"n={number}", f"w={writer}")])

        await asyncio.gather(write(1), write(2))
        assert [await found(journal, f"n={n}") for n in range(1, 21)] == [*[[]] * 19, [("a", 20)]]
        assert len([*await found(journal, "w=1"), *await found(journal, "w=2")]) == 1

    @may(Capability.TERMS)
    async def test_a_term_that_thousands_have_is_paged_through(self, journal: Journal) -> None:
        """As many as make a database search another way."""
        keys = [f"id{n:04}" for n in range(2_400)]
        for start in range(0, len(keys), 600):
            await journal.write_batch([named(key, 1, "x=1", f"n={key}") for key in keys[start : start + 600]])
        assert await found(journal, "x=1", limit=500) == [(key, 1) for key in keys]
        assert await found(journal, "x=1", "n=id2000") == [("id2000", 1)]
