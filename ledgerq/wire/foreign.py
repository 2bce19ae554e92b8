"""Foreign bodies: jobs that a stock arq client wrote with pickle or msgpack, not with ledgerq's JSON.

Nothing here decodes a foreign body, because unpickling can run code. The first bytes show the format and the name of
the function, which arq writes second.
"""

import re

from ledgerq.wire.names import MAX_KIND

_PICKLE = re.compile(rb"\x80[\x02-\x05]")  # protocols 2 to 5; JSON never begins with these bytes
_MSGPACK = re.compile(rb"\x85\xa1")  # a map of five keys, the first of one letter, as in arq's jobs
_HEAD = 64  # bytes in which the mark before the function's name is searched
_PICKLED_NAME = re.compile(rb"\x8c\x01f\x94\x8c(.)", re.DOTALL)
_PACKED_NAME = re.compile(rb"\xa1f(?:([\xa0-\xbf])|\xd9(.))", re.DOTALL)


def foreign_format(body: bytes) -> str | None:
    """`pickle` or `msgpack`, by the first bytes; None if the body has neither format."""
    if _PICKLE.match(body):
        return "pickle"
    return "msgpack" if _MSGPACK.match(body) else None


def foreign_function(body: bytes) -> str | None:
    """The name of the function that a foreign body asks for; None if the first bytes do not show it."""
    written = foreign_format(body)
    if written is None:
        return None
    is_pickle = written == "pickle"
    found = (_PICKLED_NAME if is_pickle else _PACKED_NAME).search(body, 0, _HEAD)
    if not found:
        return None
    length = ord(found[found.lastindex or 1])
    if not is_pickle and found[1]:
        length &= 0x1F  # the mark of a short text in msgpack holds the length
    name = body[found.end() : found.end() + length].decode(errors="replace")
    return name if 1 <= len(name) <= MAX_KIND and name.isprintable() else None
