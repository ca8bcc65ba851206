"""The web sidecar: metrics, probes and the page, for people and programs that may look and nothing
else.

A child of the master that serves HTTP, and asks the master over two connections to the control
socket that it was born with. They may look and nothing else, so the sidecar has no rights of its
own: it needs no way to the socket's directory, and whoever serves in its place gains nothing.
Nothing in here changes anything, and the master parses no HTTP.
"""
