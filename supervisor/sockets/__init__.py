"""Sockets: those that workers serve, and those on which workers and systemd are heard."""
