"""The tests: real processes, sockets and signals; they wait for events, never for the clock."""
