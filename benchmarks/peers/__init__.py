"""What a user might pick instead, doing the same work: one file each, run by the Python of `make bench-peers`."""
