"""What an HTTP status that is no success says about another try: one reading for shards and for media."""

from collections.abc import Mapping
from enum import Enum


class Answer(Enum):
    """What a server means by such a status."""

    WAIT = "asks for fewer requests"
    AGAIN = "may do better next time"
    REFUSED = "not allowed"
    GONE = "gone for good"
    ABSENT = "not there"


def answer_of(status: int, *, asks_to_wait: bool = False) -> Answer:
    """Return what a status means (RFC 9110, section 15; RFC 6585, section 4).

    Args:
        status: such as 404.
        asks_to_wait: the answer says when to come back (`Retry-After`).
    """
    if status == 429 or (status == 503 and asks_to_wait):
        return Answer.WAIT
    if status >= 500 or status in (408, 425):
        return Answer.AGAIN
    if status in (401, 403, 405, 407, 451):
        return Answer.REFUSED
    return Answer.GONE if status == 410 else Answer.ABSENT


def status_of(error: BaseException) -> int | None:
    """Return the HTTP status that an exception of aiohttp, gcsfs, Azure's library or botocore carries."""
    for name in ("status", "status_code", "code"):
        value = getattr(error, name, None)
        if isinstance(value, int) and 300 <= value < 600:
            return value
    response = getattr(error, "response", None)
    metadata = response.get("ResponseMetadata", {}) if isinstance(response, Mapping) else {}
    return metadata.get("HTTPStatusCode")
