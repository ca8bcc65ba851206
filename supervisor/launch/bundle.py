"""The code that a template runs, held by the master in a file that exists in memory alone: whatever
becomes of einhornpy's own files meanwhile, every generation is made by the code of its master.

The file is a zip archive, which Python runs by its `__main__.py` and finds in PYTHONPATH. It is
written here, since the standard library's own module for that imports threads.
"""

from __future__ import annotations

import fcntl
import os
import struct
from binascii import crc32
from collections.abc import Mapping
from pathlib import Path

_SOURCES = Path(__file__).absolute().parents[2] / "worker"
# What the files gunicorn_* import of what is beside them.
_BESIDE = ("accepting", "template_messages")
# How the archive calls those that Python looks for by their names.
_ENTRIES = {"__main__.py": "gunicorn_adapter.py", "sitecustomize.py": "gunicorn_wrapped.py"}
_PACKAGE = "einhornpy_adapter"
# APPNOTE of the ZIP format, 4.3.7, 4.3.12, 4.3.16. Stored as it is; 1980-01-01, which is 0x21, as
# there is no earlier day.
_LOCAL, _CENTRAL, _END = "<4s5H3L2H", "<4s6H3L5H2L", "<4s4H2LH"
_VERSION, _DAY = 20, 0x21


def make() -> int:
    """Return a descriptor of the bundle, which nobody can change any more.

    Raises:
        OSError: there can be none, or a source can't be read.
    """
    fd = os.memfd_create("einhornpy", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        with open(fd, "wb", closefd=False) as file:
            file.write(_archive(_files()))
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK
                    | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _files() -> dict[str, bytes]:
    """What the bundle holds: the content of each file by its name."""
    names = [path.name for path in sorted(_SOURCES.glob("gunicorn_*.py"))]
    files = {f"{_PACKAGE}/{name}": (_SOURCES / name).read_bytes()
             for name in (*names, *(f"{name}.py" for name in _BESIDE))}
    files[f"{_PACKAGE}/__init__.py"] = b""
    for name, source in _ENTRIES.items():
        if source in names:
            files[name] = (_SOURCES / source).read_bytes()
    return files


def _archive(files: Mapping[str, bytes]) -> bytes:
    content, directory = bytearray(), bytearray()
    for name, data in files.items():
        encoded = name.encode()
        offset, sizes = len(content), (crc32(data), len(data), len(data))
        content += struct.pack(_LOCAL, b"PK\3\4", _VERSION, 0, 0, 0, _DAY, *sizes, len(encoded), 0)
        content += encoded + data
        directory += struct.pack(_CENTRAL, b"PK\1\2", _VERSION, _VERSION, 0, 0, 0, _DAY, *sizes,
                                 len(encoded), 0, 0, 0, 0, 0, offset) + encoded
    end = struct.pack(_END, b"PK\5\6", 0, 0, len(files), len(files), len(directory),
                      len(content), 0)
    return bytes(content + directory + end)
