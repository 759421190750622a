"""Header blocks of HTTP/2, decoded by ``hpack``; blocks that always mean the same are remembered.

The picker tells its peer to keep no dynamic table. After that the same headers are the same bytes in every request, so
a block costs one look-up instead of a decoding.
"""

from __future__ import annotations

from typing import Final

import hpack

_REMEMBERED: Final = 1024
_LONGEST: Final = 4096
Headers = dict[bytes, bytes]
HeaderBlockError = hpack.HPACKError


class Decoder:
    """One connection's."""

    def __init__(self, *, limit: int) -> None:
        """``limit``: bytes of one block's headers."""
        self._decoder = hpack.Decoder(max_header_list_size=limit)
        self._known: dict[bytes, Headers] = {}

    def decode(self, block: bytes) -> Headers:
        """All headers of a block; of one that comes twice, the last.

        Raises: HeaderBlockError.
        """
        known = self._known.get(block)
        if known is not None:
            return known
        table = self._decoder.header_table
        empty = not len(table.dynamic_entries) and block[:1] and block[0] & 0xE0 != 0x20
        headers: Headers = dict(self._decoder.decode(block, raw=True))
        if empty and not len(table.dynamic_entries) and len(self._known) < _REMEMBERED and len(block) < _LONGEST:
            self._known[block] = headers
        return headers


def literal(name: bytes, value: bytes) -> bytes:
    """A header that enters no table; both parts below 127 bytes."""
    return b"\x00" + bytes((len(name),)) + name + bytes((len(value),)) + value
