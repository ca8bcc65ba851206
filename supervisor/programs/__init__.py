"""What runs as a process of its own, and imports nothing of ours."""
