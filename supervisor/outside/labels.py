"""Labels of this host or task that nobody had to give: its name, and what Kubernetes and Amazon ECS
say of it."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Mapping

from ..reporting.events import Entry, Event
from ..system.errands import Ended, Errand, Errands
from ..system.ledger import Ledger
from ..system.own_code import OwnCode
from ..system.part import Part

# Longer than all attempts together (control/metadata.py).
TIMEOUT = 60.0
PLATFORM = "task-metadata"
METADATA = "ECS_CONTAINER_METADATA_URI_V4"
# Names that manifests commonly give to what the downward API knows. Label → variables.
DOWNWARD = {
    "pod": ("POD_NAME", "K8S_POD_NAME", "MY_POD_NAME"),
    "namespace": ("POD_NAMESPACE", "K8S_NAMESPACE", "MY_POD_NAMESPACE"),
    "node": ("NODE_NAME", "K8S_NODE_NAME", "MY_NODE_NAME"),}


def known_at_once(environ: Mapping[str, str]) -> dict[str, str]:
    """What needs nobody to be asked."""
    found = {"hostname": os.uname().nodename}
    if "KUBERNETES_SERVICE_HOST" in environ:
        for label, variables in DOWNWARD.items():
            named = [environ[variable] for variable in variables if environ.get(variable)]
            if named:
                found[label] = named[0]
    return found


class Labels(Part):
    """What the platform is asked for. `add`: takes the labels that it has told."""

    name = "labels"

    def __init__(self, errands: Errands, environ: Mapping[str, str], ledger: Ledger,
                 add: Callable[[dict[str, str]], None], own_code: OwnCode) -> None:
        self._errands = errands
        self._environ = environ
        self._ledger = ledger
        self._add = add
        self._own_code = own_code
        errands.resumed_by(
            lambda errand: self._answered if errand.name == PLATFORM else None)

    def ask_the_platform(self) -> None:
        """Send somebody to ask ECS, where this is a task of it. It may take its time."""
        if METADATA not in self._environ:
            return
        launch = self._own_code.launch("control.metadata", [self._environ[METADATA]],
                                       self._environ, (), signal.SIGKILL)
        self._errands.send(
            Errand(PLATFORM, launch, TIMEOUT, self._answered, "", 0.0, urgent=True))

    def _answered(self, ended: Ended) -> None:
        try:
            if ended.reason is not None:
                raise ValueError(ended.reason)
            labels = json.loads(ended.last_line or "")
            found = {str(key): str(value) for key, value in labels.items()}
        except (ValueError, AttributeError, RecursionError):
            why = ": ".join(part for part in (ended.reason, ended.last_line) if part)
            self._ledger.log(Entry(Event.LABELS_NOT_FOUND, {"reason": why}))
            return
        self._add(found)
        self._ledger.changed = True
        self._ledger.log(Entry(Event.LABELS_FOUND, found))
