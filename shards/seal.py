"""The seal of our small JSON files: their own SHA-256, so that a single flipped bit is seen in the file alone."""

import hashlib
import json
from typing import Any

from .atomic import canonical_json

SEAL = "seal"


def seal(value: dict[str, Any]) -> dict[str, Any]:
    """Return `value` with an entry `seal`: the SHA-256 of its canonical JSON without that entry."""
    rest = {name: entry for name, entry in value.items() if name != SEAL}
    return rest | {SEAL: hashlib.sha256(canonical_json(rest)).hexdigest()}


def parse_object(data: bytes) -> dict[str, Any]:
    """Parse a JSON object of any kind.

    Raises:
        ValueError: these bytes are none.
    """
    try:
        value = json.loads(data)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError(f"want a JSON object, found {type(value).__name__}")
    return value


def check_seal(value: dict[str, Any], data: bytes) -> None:
    """Check that `data`, which `value` was parsed from, are to the byte what was sealed and written.

    Raises:
        ValueError: they are not.
    """
    if SEAL not in value:
        raise ValueError("it has no seal")
    if canonical_json(seal(value)) != data:
        raise ValueError("its seal does not fit its content")
