"""A release on one host: fetched, prepared, proven by an upgrade, and only then what a start
runs."""
