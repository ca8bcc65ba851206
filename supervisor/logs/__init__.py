"""The master's log, and what its workers print."""
