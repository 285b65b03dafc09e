"""Journals: where records are kept. Users need only URLs; these names are for authors of journals of their own."""

from .backends import migrate_journal, open_existing, open_journal
from .checks import checked, checked_batch, in_sequence, out_of_order
from .needs import missing_methods
from .protocol import (
    MAX_SEQUENCE_NR,
    CommitCounts,
    CountsCommits,
    ExaminesItself,
    Finding,
    FindsByTerms,
    Followable,
    Journal,
    ListsLatest,
    MovedDue,
    PersistentRepr,
    TellsTime,
    WritesInTransactions,
)

__all__ = [
    "MAX_SEQUENCE_NR",
    "CommitCounts",
    "CountsCommits",
    "ExaminesItself",
    "Finding",
    "FindsByTerms",
    "Followable",
    "Journal",
    "ListsLatest",
    "MovedDue",
    "PersistentRepr",
    "TellsTime",
    "WritesInTransactions",
    "checked",
    "checked_batch",
    "in_sequence",
    "migrate_journal",
    "missing_methods",
    "open_existing",
    "open_journal",
    "out_of_order",
]
