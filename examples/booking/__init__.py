"""A booking service: README.md says how it is started, and what is where."""
