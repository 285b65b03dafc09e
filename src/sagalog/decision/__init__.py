"""The decision: a record and a message give the next record. Pure."""
