"""Where a master lives: its directory, the lock on its name, its pidfile, and the sockets on which
it is asked and on which workers are heard."""
