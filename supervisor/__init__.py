"""The master: the one process that holds the listening sockets and keeps the workers ready."""
