"""An order service on RabbitMQ; README.md says how to run it."""
