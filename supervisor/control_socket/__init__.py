"""The control socket: who is let in, what each session has yet to read, and who makes room."""
