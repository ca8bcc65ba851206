"""What a worker says of its traffic by datagram: `X_EINHORNPY_TRAFFIC=` and one word a request.

A word is `STATUS:SECONDS`, then `:BYTES` if it likes, then `!` where an exception of the app's
reached the server: `200:0.012:5120 404:0.001 500:1.3!`. STATUS is that of the answer, or 000 where
the client left before it had one (with `!`: where the exception was all that came of it). SECONDS
from the request's beginning to the answer's end, BYTES of the body. Pure.
"""

from __future__ import annotations

import re

from ...shared.frozen import dataclass

_WORD = re.compile(rb"(000|[1-5][0-9]{2}):([0-9]{1,6}(?:\.[0-9]{1,9})?)(?::([0-9]{1,12}))?(!)?")


@dataclass(frozen=True, slots=True)
class Report:
    """One request. `status`: 0 where there was no answer. `seconds`: how long it took. `bytes_out`:
    of the body."""

    status: int
    seconds: float
    bytes_out: int
    exception: bool

    @property
    def aborted(self) -> bool:
        """Whether the client left before it had its answer."""
        return not self.status and not self.exception


def read(text: bytes) -> list[Report] | None:
    """Read what follows the `=`; None where any of it can't be read."""
    found = [_WORD.fullmatch(word) for word in text.split()]
    if not found or None in found:
        return None
    return [Report(int(each[1]), float(each[2]), int(each[3] or 0), each[4] is not None)
            for each in found if each is not None]
