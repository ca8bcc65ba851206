"""Random faults on a loaded host: `python -m tests.chaos --seed N --seconds 1200`."""
