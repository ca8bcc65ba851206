"""A zip archive in a file in memory, which nobody can change any more: Python runs one by its
`__main__.py`, and imports from one. Written and read here, since the standard library's own module
for that imports threads.
"""

from __future__ import annotations

import fcntl
import os
import struct
import zlib
from collections.abc import Iterable, Iterator

# APPNOTE of the ZIP format, 4.3.7, 4.3.12, 4.3.16. 1980-01-01 is 0x21: there is no earlier day.
_LOCAL, _CENTRAL, _END = "<4s5H3L2H", "<4s6H3L5H2L", "<4s4H2LH"
_VERSION, _DAY = 20, 0x21
_STORED, _DEFLATED = 0, 8
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


def write(title: str, files: Iterable[tuple[str, bytes]], squeezed: bool = False) -> int:
    """Write one file after the other, name and content; return a descriptor of the archive.
    `title`: what proc(5) calls it.

    Raises:
        OSError: there can be none.
    """
    fd = os.memfd_create(title, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        with open(fd, "wb", closefd=False) as archive:
            directory, count = bytearray(), 0
            for name, data in files:
                encoded, kept = name.encode(), _squeezed(data) if squeezed else data
                about = (_VERSION, 0, _DEFLATED if squeezed else _STORED, 0, _DAY,
                         zlib.crc32(data), len(kept), len(data), len(encoded), 0)
                directory += struct.pack(_CENTRAL, b"PK\1\2", _VERSION, *about, 0, 0, 0, 0,
                                         archive.tell()) + encoded
                archive.write(struct.pack(_LOCAL, b"PK\3\4", *about) + encoded + kept)
                count += 1
            begin = archive.tell()
            archive.write(directory + struct.pack(_END, b"PK\5\6", 0, 0, count, count,
                                                  len(directory), begin, 0))
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _squeezed(data: bytes) -> bytes:
    # Without a header of its own.
    squeeze = zlib.compressobj(1, wbits=-zlib.MAX_WBITS)
    return squeeze.compress(data) + squeeze.flush()


def read(fd: int, wanted: str) -> bytes:
    """The content of one file of an archive that was written here.

    Raises:
        KeyError: it has none of that name.
    """
    return dict(files(fd, wanted))[wanted]


def files(fd: int, begin: str) -> Iterator[tuple[str, bytes]]:
    """Name and content of each file whose name begins so."""
    for name, squeezed, size, at in _directory(fd):
        if name.startswith(begin):
            data = os.pread(fd, size, at)
            yield name, zlib.decompress(data, -zlib.MAX_WBITS) if squeezed else data


def _directory(fd: int) -> Iterator[tuple[str, bool, int, int]]:
    """Of each file its name, whether it is squeezed, how many bytes it takes and where they
    begin."""
    size, end = os.fstat(fd).st_size, struct.calcsize(_END)
    _, _, _, count, _, length, begin, _ = struct.unpack(_END, os.pread(fd, end, size - end))
    directory, at = os.pread(fd, length, begin), 0
    for _ in range(count):
        found = struct.unpack_from(_CENTRAL, directory, at)
        at += struct.calcsize(_CENTRAL)
        name = directory[at:at + found[10]]
        at += len(name)
        yield (name.decode(), found[4] == _DEFLATED, found[8],
               found[16] + struct.calcsize(_LOCAL) + len(name))
