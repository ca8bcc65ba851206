"""Sockets: those that workers serve, and those by which the master is spoken to."""
