"""Asks Amazon ECS what task this is: `python -m einhornpy.control.metadata URI`, as the master
sends it, prints labels as JSON.

Source: Amazon ECS task metadata endpoint version 4, `${ECS_CONTAINER_METADATA_URI_V4}/task`.
"""

from __future__ import annotations

import json
import select
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

from .terminal import say, say_json

ATTEMPTS, TIMEOUT, PAUSE = 5, 5.0, 2.0
# What is shown of the answer: label → key. Of names with paths (ARNs) the last part.
SHOWN = {
    "ecs_cluster": "Cluster", "ecs_task": "TaskARN", "ecs_family": "Family",
    "ecs_revision": "Revision", "ecs_service": "ServiceName",
    "availability_zone": "AvailabilityZone", "launch_type": "LaunchType",}


def labels_of(task: Mapping[str, Any]) -> dict[str, str]:
    """The labels that a task's metadata gives."""
    return {
        label: str(task[key]).rpartition("/")[2][:60] for label, key in SHOWN.items()
        if task.get(key)}


def main() -> int:
    reason = ""
    # The endpoint is of this host: no proxy knows it.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    for attempt in range(ATTEMPTS):
        if attempt:
            select.select([], [], [], PAUSE)
        try:
            with opener.open(f"{sys.argv[1]}/task", timeout=TIMEOUT) as answer:
                say_json(labels_of(json.loads(answer.read(1 << 20))))
            return 0
        except (OSError, ValueError, AttributeError) as error:
            reason = f"{type(error).__name__}: {error}"
    say(reason)
    return 1


if __name__ == "__main__":
    sys.exit(main())
