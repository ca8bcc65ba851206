"""Benchmarks: every number in docs/performance.md comes from one of these, compared with a peer in
the same run."""
