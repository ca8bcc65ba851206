"""Sockets that workers serve: addresses, listeners, queues, and what systemd gives."""
