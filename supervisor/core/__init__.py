"""What is, what can happen, and what to do: pure."""
