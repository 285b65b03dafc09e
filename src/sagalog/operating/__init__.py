"""Looking at what is stored and repairing it, without the code of any saga."""
