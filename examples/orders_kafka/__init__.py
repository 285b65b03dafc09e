"""An order service on Kafka; README.md says how to run it."""
