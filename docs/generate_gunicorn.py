"""Writes the list of gunicorn's settings into docs/gunicorn.md, from the one table here;
tests/worker/test_settings_table.py checks that it is new, and that each row is true."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import NamedTuple

PAGE = Path(__file__).with_name("gunicorn.md")
BEGIN, END = "<!-- docs/generate_gunicorn.py writes what follows -->", "<!-- to here -->"


class Kind(enum.StrEnum):
    """What einhornpy does with a setting."""

    HONOURED = "honoured"
    TEMPLATE = "honoured in the template"
    MASTERS = "the master's"
    NOT_OURS = "not ours: named once in the log"
    REFUSED = "refused"
    NO_EFFECT = "no effect"


class Row(NamedTuple):
    kind: Kind
    note: str = ""
    flag: str = ""  # ours, which overrules it


HONOURED, TEMPLATE, MASTERS, NOT_OURS, REFUSED, NO_EFFECT = Kind
DIRTY = "needs `dirty_apps`"
ONCE = "by the worker"

# In gunicorn's own order.
ROWS = {
    "config": Row(TEMPLATE, "read once a generation"),
    "wsgi_app": Row(HONOURED),
    "bind": Row(MASTERS, "an upgrade can't change it", "--bind"),
    "backlog": Row(MASTERS, "an upgrade can't change it", "--bind"),
    "workers": Row(MASTERS, "also by `WEB_CONCURRENCY`", "--number"),
    "worker_class": Row(HONOURED, "see [third-party classes](#third-party-worker-classes)"),
    "threads": Row(HONOURED),
    "worker_connections": Row(HONOURED),
    "max_requests": Row(MASTERS, "a replacement first", "--max-requests"),
    "max_requests_jitter": Row(MASTERS, "", "--max-requests-jitter"),
    "timeout": Row(MASTERS, "", "--timeout"),
    "graceful_timeout": Row(MASTERS, "", "--graceful-timeout"),
    "keepalive": Row(HONOURED),
    "limit_request_line": Row(HONOURED),
    "limit_request_fields": Row(HONOURED),
    "limit_request_field_size": Row(HONOURED),
    "reload": Row(HONOURED, "a worker leaves when a file changes, and is replaced afterwards: in "
                  "development only"),
    "reload_engine": Row(HONOURED),
    "reload_extra_files": Row(HONOURED),
    "spew": Row(TEMPLATE, "in its workers too"),
    "check_config": Row(REFUSED, "run gunicorn itself for it"),
    "print_config": Row(REFUSED, "run gunicorn itself for it"),
    "preload_app": Row(TEMPLATE, "see [preloading](preload.md)", "--preload"),
    "sendfile": Row(HONOURED),
    "reuse_port": Row(NOT_OURS, "all workers share the master's sockets"),
    "chdir": Row(TEMPLATE, "links in it are followed once a generation"),
    "daemon": Row(REFUSED, "the master stays in the foreground"),
    "raw_env": Row(TEMPLATE, "its workers inherit it"),
    "pidfile": Row(MASTERS, "an upgrade can't change it", "--pidfile"),
    "worker_tmp_dir": Row(NOT_OURS, "heartbeats go through memory, there is no file"),
    "user": Row(HONOURED, "by the worker as it starts; the master keeps its own"),
    "group": Row(HONOURED, "likewise"),
    "umask": Row(MASTERS, "the mode of UNIX sockets; an upgrade can't change it", "--bind"),
    "initgroups": Row(HONOURED),
    "tmp_upload_dir": Row(NO_EFFECT, "gunicorn itself never reads it"),
    "secure_scheme_headers": Row(HONOURED),
    "forwarded_allow_ips": Row(HONOURED),
    "accesslog": Row(HONOURED),
    "disable_redirect_access_to_syslog": Row(HONOURED),
    "access_log_format": Row(HONOURED),
    "errorlog": Row(HONOURED),
    "loglevel": Row(HONOURED),
    "capture_output": Row(HONOURED),
    "logger_class": Row(HONOURED),
    "logconfig": Row(HONOURED),
    "logconfig_dict": Row(HONOURED),
    "logconfig_json": Row(HONOURED),
    "syslog_addr": Row(HONOURED),
    "syslog": Row(HONOURED),
    "syslog_prefix": Row(HONOURED),
    "syslog_facility": Row(HONOURED),
    "enable_stdio_inheritance": Row(NO_EFFECT, "gunicorn reads it only as a `daemon`"),
    "statsd_host": Row(HONOURED, "`gunicorn.workers` comes from the template"),
    "dogstatsd_tags": Row(HONOURED),
    "statsd_prefix": Row(HONOURED),
    "enable_backlog_metric": Row(TEMPLATE, "each second"),
    "proc_name": Row(MASTERS, "the master's name too; an upgrade can't change that",
                     "--command-name"),
    "default_proc_name": Row(HONOURED, "where nobody set `proc_name`"),
    "pythonpath": Row(HONOURED, "links in it are followed once a generation"),
    "paste": Row(HONOURED),
    "on_starting": Row(TEMPLATE, "in every generation's; an error refuses it"),
    "on_reload": Row(TEMPLATE, "at an upgrade, after `on_starting`; an error refuses it"),
    "when_ready": Row(TEMPLATE, "before the first worker; of an upgrade, at its end"),
    "pre_fork": Row(TEMPLATE),
    "post_fork": Row(HONOURED, ONCE),
    "post_worker_init": Row(HONOURED, ONCE),
    "worker_int": Row(HONOURED, "the master sends no INT or QUIT by itself"),
    "worker_abort": Row(HONOURED, "after the tracebacks are printed"),
    "pre_exec": Row(NOT_OURS, "nothing is executed anew: USR2 is an upgrade"),
    "pre_request": Row(HONOURED, ONCE),
    "post_request": Row(HONOURED, ONCE),
    "child_exit": Row(TEMPLATE),
    "worker_exit": Row(HONOURED, ONCE),
    "nworkers_changed": Row(TEMPLATE),
    "on_exit": Row(TEMPLATE, "at the end of an asked-for stop"),
    "ssl_context": Row(HONOURED, ONCE),
    "proxy_protocol": Row(HONOURED),
    "proxy_allow_ips": Row(HONOURED),
    "protocol": Row(HONOURED),
    "uwsgi_allow_ips": Row(HONOURED),
    "keyfile": Row(HONOURED),
    "certfile": Row(HONOURED),
    "ssl_version": Row(HONOURED, "gunicorn's own classes ignore it, uvicorn's and aiohttp's don't"),
    "cert_reqs": Row(HONOURED),
    "ca_certs": Row(HONOURED),
    "suppress_ragged_eofs": Row(HONOURED),
    "do_handshake_on_connect": Row(HONOURED),
    "ciphers": Row(HONOURED),
    "http_protocols": Row(HONOURED),
    "http2_cleartext": Row(HONOURED),
    "http2_max_concurrent_streams": Row(HONOURED),
    "http2_initial_window_size": Row(HONOURED),
    "http2_max_frame_size": Row(HONOURED),
    "http2_max_header_list_size": Row(HONOURED),
    "raw_paste_global_conf": Row(HONOURED),
    "permit_obsolete_folding": Row(HONOURED),
    "strip_header_spaces": Row(HONOURED),
    "permit_unconventional_http_method": Row(HONOURED),
    "permit_unconventional_http_version": Row(HONOURED),
    "casefold_http_method": Row(HONOURED),
    "forwarder_headers": Row(HONOURED),
    "header_map": Row(HONOURED),
    "asgi_loop": Row(HONOURED),
    "asgi_lifespan": Row(HONOURED),
    "asgi_disconnect_grace_period": Row(HONOURED),
    "websocket_max_message_size": Row(HONOURED),
    "http_parser": Row(HONOURED),
    "root_path": Row(HONOURED),
    "dirty_apps": Row(REFUSED, "needs gunicorn's own arbiter"),
    "dirty_workers": Row(NOT_OURS, DIRTY),
    "dirty_timeout": Row(NOT_OURS, DIRTY),
    "dirty_threads": Row(NOT_OURS, DIRTY),
    "dirty_graceful_timeout": Row(NOT_OURS, DIRTY),
    "on_dirty_starting": Row(NOT_OURS, DIRTY),
    "dirty_post_fork": Row(NOT_OURS, DIRTY),
    "dirty_worker_init": Row(NOT_OURS, DIRTY),
    "dirty_worker_exit": Row(NOT_OURS, DIRTY),
    "control_socket": Row(NOT_OURS, "einhornpy has [one of its own](reference.md#commands-of-the-"
                          "control-socket)"),
    "control_socket_mode": Row(NOT_OURS),
    "control_socket_disable": Row(HONOURED, "there is none"),}


def of_kind(kind: Kind) -> list[str]:
    """The names of all settings of a kind, sorted."""
    return sorted(name for name, row in ROWS.items() if row.kind is kind)


def shown(name: str, row: Row) -> str:
    words = f"{row.kind}, overruled by `{row.flag}`" if row.flag else row.kind
    return f"| `{name}` | {words} | {row.note} |"


def table() -> str:
    """What stands between the marks."""
    rows = [shown(name, row) for name, row in ROWS.items()]
    return "\n".join([BEGIN, "", "| setting | what einhornpy does with it | |",
                      "| --- | --- | --- |", *rows, "", END])


def page(before: str) -> str:
    """The whole page, `before` with the list made anew."""
    head, _, rest = before.partition(BEGIN)
    return head + table() + rest.partition(END)[2]


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))
