"""The number up to which the brain has acknowledged a lane, in a file of 16 bytes.

One `pwrite` in place, with a checksum and never synced: a cursor that is lost, torn or older than
the truth only means that records are delivered again, and the brain drops what it has already.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from zlib import crc32

from z4j_fastapi.outbox.files import Descriptor, open_private

_LAYOUT = struct.Struct("<4sQI")
_MAGIC = b"z4jc"


class Cursor:
    """The acknowledged position of one lane.

    Args:
        path: The cursor's file; created at the first `store`.
    """

    __slots__ = ("_descriptor", "_path")

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: Descriptor | None = None

    def load(self) -> int | None:
        """The stored number; None when there is none that can be trusted."""
        try:
            data = self._path.read_bytes()
        except OSError:
            return None  # never stored, or unreadable: both mean delivering again
        if len(data) != _LAYOUT.size:
            return None
        magic, number, checksum = _LAYOUT.unpack(data)
        if magic != _MAGIC or crc32(data[:-4]) != checksum:
            return None
        return int(number)

    def store(self, number: int) -> None:
        """Write `number` over the old one.

        Raises:
            OSError: The disk refused. The old number, or none, will be found again.
        """
        if self._descriptor is None:
            self._descriptor = open_private(self._path, os.O_WRONLY | os.O_CREAT)
        body = _LAYOUT.pack(_MAGIC, number, 0)[:-4]
        os.pwrite(self._descriptor.fd, body + crc32(body).to_bytes(4, "little"), 0)

    def close(self) -> None:
        """Give the descriptor back. Idempotent."""
        if self._descriptor is not None:
            self._descriptor.close()
            self._descriptor = None
