"""What an operator can set, where it comes from, and what contradicts what."""
