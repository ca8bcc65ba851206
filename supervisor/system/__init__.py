"""The loop, processes, files: what the operating system is asked for."""
