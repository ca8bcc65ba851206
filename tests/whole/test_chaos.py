"""`make chaos` in a short form: the same driver, for as long as a test may take."""

from __future__ import annotations

import os
import subprocess
import sys

from ..harness import ROOT

# New rounds begin for so many seconds; the last one ends by itself: a minute in all.
SECONDS = 40
SEED = os.environ.get("CHAOS_SEED", "92")


def test_random_faults_lose_no_request_and_leave_nothing() -> None:
    """CHAOS_SEED chooses what happens. Faults that last for longer than 2 s are for the long
    form."""
    run = subprocess.run([
        sys.executable, "-m", "tests.chaos", "--seed", SEED, "--seconds",
        str(SECONDS), "--longest", "2"], cwd=ROOT, check=False, capture_output=True, text=True,
                         timeout=600)
    assert run.returncode == 0, f"{run.stdout}\n{run.stderr}"
