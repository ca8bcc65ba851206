"""The web sidecar: metrics, probes and the page, for people and programs that may look and nothing
else.

A child of the master that serves HTTP, and asks the master over two connections to the control
socket that it was born with. Nothing in here changes anything, and the master parses no HTTP.
"""
