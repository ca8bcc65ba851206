"""The control socket and everything that talks over it: protocol, server half, client, command
line."""
