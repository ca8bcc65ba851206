"""Follows a master's events for as long as it lives, over as many connections as it takes, and says
at once where the gate lies."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from typing import Any

from einhornpy.control.client import Client, Failed, MasterGone, NoMaster, TimedOut

from .story import Story

_AGAIN = 0.1


class Watcher:
    """What one master told. `directories`: generation → where its code was found. `stuck`: upgrades
    that ended before they were back: their way back failed as often as allowed, or a newer upgrade
    took over. `refused`: generations that were, some of them after they were done."""

    def __init__(self, path: str, pid: int, story: Story) -> None:
        self._path, self._pid, self._story = path, pid, story
        self.directories: dict[int, str] = {}
        self.stuck: set[int] = set()
        self.refused: set[int] = set()
        self._back_to: int | None = None
        self._failed_on_the_way_back = False
        self._ended = threading.Event()
        self._client: Client | None = None
        self._last: dict[str, Any] = {}
        self._known: set[str] = set()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def _follow(self) -> None:
        while not self._ended.is_set():
            # Cut off for want of descriptors, or the master stands still: come again.
            with contextlib.suppress(NoMaster, MasterGone, TimedOut, Failed,
                                     OSError), Client(self._path, timeout=10) as client:
                self._client = client
                replies = client.replies("events")
                first = next(replies)["result"]
                if first["status"]["master"]["pid"] != self._pid:
                    return  # the next one lives in the same place
                client.wait_for_ever()
                self._last = {}
                for event in first["recent"]:
                    self._note(event)
                for reply in replies:
                    self._note(reply["result"]["event"])
            self._ended.wait(_AGAIN)

    def _note(self, event: dict[str, Any]) -> None:
        line = json.dumps(event, sort_keys=True)
        if line in self._known:
            return
        self._known.add(line)
        self._story.tell(f"    {_shown(event)}")
        if event["event"] == "generation-prepared":
            self.directories[event["generation"]] = event["directory"]
        match event["event"]:
            case "upgrade-refused":
                self.refused.add(event["generation"])
                self._back_to, self._failed_on_the_way_back = event["back_to"], False
            case "start-failed" if event["generation"] == self._back_to:
                self._failed_on_the_way_back = True
            case "upgrade-ended":
                self._story.count(f"upgrades {event['outcome']}")
                taken_over = event.get("by") is not None and event["outcome"] in ("rolled-back",
                                                                                  "aborted")
                if self._failed_on_the_way_back or taken_over:
                    self.stuck.add(event["generation"])
                    self._story.count("upgrades that could not go back at once")
                self._back_to, self._failed_on_the_way_back = None, False
            case "worker-died":
                self._story.count("workers died")
            case "template-died":
                self._story.count("templates died")
        self._judge(event)
        self._last = event

    def _judge(self, event: dict[str, Any]) -> None:
        if "ready" not in event:
            return
        ready, target, gate = event["ready"], event["target"], event["gate"]
        if ready < target and gate == "ready":
            self._story.wrong(f"{ready} of {target} ready and the gate says ready: {event}")
        if ready < target and gate == "rolled-back" and "workers ready" not in event["gate_reason"]:
            self._story.wrong(f"{ready} of {target} ready and the gate doesn't say so: {event}")
        before = self._last.get("ready", ready)
        if event[
                "event"] == "worker-retiring" and ready < before and ready < target and gate != "stopping":
            self._story.wrong(
                f"the airbag: {before} ready, of {target}, and one of them is asked to go: {event}")

    def close(self) -> None:
        self._ended.set()
        if self._client is not None:
            self._client.hang_up()
        self._thread.join(20)


def _shown(event: dict[str, Any]) -> str:
    """An event in short."""
    counts = f"[{event.get('ready')}/{event.get('target')} {event.get('gate')}]"
    passed = ("event", "level", "time", "unix_time", "ready", "target", "gate", "gate_reason",
              "live", "replaced")
    fields = " ".join(f"{key}={str(value)[:120]}" for key, value in event.items()
                      if key not in passed and value is not None)
    return f"{event['event']} {counts} {fields}"


def wait_for(true: Any, seconds: float) -> bool:
    """Wait until `true()`; return whether it came within so many seconds."""
    end = time.monotonic() + seconds
    moment = threading.Event()
    while time.monotonic() < end:
        if true():
            return True
        moment.wait(0.05)
    return bool(true())
