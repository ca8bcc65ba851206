"""Writes down, as JSON in the file `state`, what a gunicorn worker has become of its settings."""

import grp
import json
import logging
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))


def plain(value):
    if isinstance(value, (str, int, float, type(None))):
        return value.replace(HERE, "HERE") if isinstance(value, str) else value
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    if isinstance(value, dict):
        return {str(key): plain(each) for key, each in value.items()}
    return getattr(value, "__qualname__", type(value).__qualname__)


def of(worker):
    cfg = worker.cfg
    told = {
        # Whose value is gunicorn's own, and whose isn't.
        "default": {name: plain(type(each)().get()) for name, each in cfg.settings.items()},
        "settings": {name: plain(each.get()) for name, each in cfg.settings.items()},
        "worker": [type(worker).__name__, type(worker.log).__name__,
                   type(worker.reloader).__name__, worker.timeout, len(worker.sockets)],
        "name": plain(cfg.proc_name), "class": cfg.worker_class_str, "tls": bool(cfg.is_ssl),
        "sendfile": cfg.sendfile, "global": cfg.paste_global_conf,
        "user": [os.getresuid(), os.getresgid(),
                 sorted(grp.getgrgid(each).gr_name for each in os.getgroups())],
        "directory": os.getcwd().replace(HERE, "HERE"),
        "path": [each.replace(HERE, "HERE") for each in sys.path if each.startswith(HERE)],
        "environment": {key: value for key, value in os.environ.items()
                        if key.startswith(("SHOP_", "SERVER_"))},
        "traced": sys.gettrace() is not None,
        "captured": [os.readlink(f"/proc/self/fd/{fd}").endswith("error.log") for fd in (1, 2)],
        "log": [handlers(worker.log.error_log), handlers(worker.log.access_log),
                handlers(logging.getLogger()), handlers(logging.getLogger("shop"))],}
    with open(os.path.join(HERE, "state"), "w") as file:
        json.dump(told, file, sort_keys=True)


def handlers(logger):
    """Those of a logger, but for einhornpy's own."""
    return [logger.level, logger.propagate, sorted(
        [type(each).__name__, os.path.basename(getattr(each, "baseFilename", "")),
         each.formatter._fmt if each.formatter else ""]
        for each in logger.handlers if type(each).__name__ != "LastError")]
