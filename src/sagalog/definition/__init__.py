"""What a user writes: sagas, their actions, and how values are stored."""
