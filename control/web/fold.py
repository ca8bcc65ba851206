"""Folds the metric files of dead processes together, so that workers which come and go leave no
heap of files behind: `python -m einhornpy.control.web.fold JSON`, with `directory` and `user`
([uid, gid] to become, or null).

Counters, histograms and summaries of the dead are added up in one file a kind, in the form of
prometheus_client's own files; so are the gauges that are sums, least or most ones. Other gauges of
the dead go.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import stat
import sys
from collections.abc import Iterable

from prometheus_client.mmap_dict import MmapedDict, mmap_key
from prometheus_client.multiprocess import MultiProcessCollector

from ...shared.alive import is_alive
from ..privileges import become, by_descriptor, die_with
from .metrics import locked, readable

ADDED_UP = ("counter", "histogram", "summary", "gauge_sum", "gauge_min", "gauge_max")
# Kept: which of them is the newest is known only together with the living.
LEFT = "gauge_mostrecent"
# The pid in the name of what was folded: nobody's.
FOLDED = 0


def fold(directory: str) -> int:
    """Fold what the dead have left; return how many files that were."""
    with locked(directory, fcntl.LOCK_EX):
        dead: dict[str, list[str]] = {}
        for name in sorted(os.listdir(directory)):
            found = re.fullmatch(r"([a-z]+(?:_[a-z]+)?)_([0-9]+)\.db", name)
            if not stat.S_ISREG(os.lstat(f"{directory}/{name}").st_mode):
                continue  # the app's own business
            if found and int(found[2]) != FOLDED and not is_alive(int(found[2])):
                dead.setdefault(found[1], []).append(f"{directory}/{name}")
        for kind, paths in dead.items():
            if kind in ADDED_UP:
                _add_up(kind, [path for path in paths if _sound(path)],
                        f"{directory}/{kind}_{FOLDED}.db")
            if kind != LEFT:
                for path in paths:
                    os.unlink(path)
    return sum(map(len, dead.values()))


def _sound(path: str) -> bool:
    """Whether a file can be added up; one that can't is nobody's loss."""
    try:
        if not readable(path):
            return False
        for key, _, _, _ in MmapedDict.read_all_values_from_file(
                path):  # type: ignore[no-untyped-call]
            metric, sample, labels, about = json.loads(key)
            if not all(
                    isinstance(each, str)
                    for each in (metric, sample, about, *labels, *labels.values())):
                return False
    except Exception:  # whatever an app has written there
        return False
    return True


def _add_up(kind: str, paths: Iterable[str], whole: str) -> None:
    before = [whole] if os.path.exists(whole) else []
    # Named so that it is read as a file of this kind, and taken for a metric file by nobody.
    partial = f"{os.path.dirname(whole)}/{kind}_{FOLDED}.partial"
    if os.path.exists(partial):
        os.unlink(partial)
    merged = MmapedDict(partial)  # type: ignore[no-untyped-call]
    for metric in MultiProcessCollector.merge([*before, *paths],
                                              accumulate=False):  # type: ignore[no-untyped-call]
        for sample in metric.samples:
            key = mmap_key(metric.name, sample.name, list(sample.labels),
                           list(sample.labels.values()), metric.documentation)
            merged.write_value(key, sample.value, sample.timestamp
                               or 0.0)  # type: ignore[no-untyped-call]
    merged.close()  # type: ignore[no-untyped-call]
    os.rename(partial, whole)


def main() -> None:
    parent, told = os.getppid(), json.loads(sys.argv[1])
    directory = by_descriptor(told["directory"])
    become(None if told["user"] is None else (told["user"][0], told["user"][1]))
    die_with(parent)
    try:
        fold(directory)
    except OSError as error:
        sys.exit(f"{error.strerror}: {error.filename or 'the lock'}")


if __name__ == "__main__":
    main()
