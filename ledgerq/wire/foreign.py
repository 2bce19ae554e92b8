"""Foreign bodies: jobs that a stock arq client wrote with a serializer that is not our JSON.

Nothing here decodes one. To unpickle is to run what the bytes say, so the first bytes have to tell: the format, and
the function, which arq writes second.
"""

import re

from ledgerq.wire.names import MAX_KIND

_PICKLE = re.compile(rb"\x80[\x02-\x05]")  # a protocol of today; JSON never begins so
_MSGPACK = re.compile(rb"\x85\xa1")  # a map of five, the first key of one letter: arq's job
_HEAD = 64  # bytes before the function's name, and its length, at most
_PICKLED_NAME = re.compile(rb"\x8c\x01f\x94\x8c(.)", re.DOTALL)
_PACKED_NAME = re.compile(rb"\xa1f(?:([\xa0-\xbf])|\xd9(.))", re.DOTALL)


def foreign_format(body: bytes) -> str | None:
    """`pickle` or `msgpack`; None if it is neither."""
    if _PICKLE.match(body):
        return "pickle"
    return "msgpack" if _MSGPACK.match(body) else None


def foreign_function(body: bytes) -> str | None:
    """The function that a foreign body asks for, if its first bytes tell."""
    written = foreign_format(body)
    if written is None:
        return None
    is_pickle = written == "pickle"
    found = (_PICKLED_NAME if is_pickle else _PACKED_NAME).search(body, 0, _HEAD)
    if not found:
        return None
    length = ord(found[found.lastindex or 1])
    if not is_pickle and found[1]:
        length &= 0x1F  # msgpack's short text has its length in the mark
    name = body[found.end() : found.end() + length].decode(errors="replace")
    return name if 1 <= len(name) <= MAX_KIND and name.isprintable() else None
