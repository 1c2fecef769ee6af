"""The platform's own samples of consumed and published messages, by the names of their files."""

import json
from pathlib import Path
from typing import Any

_FOLDER = Path(__file__).parent / "samples"

CONSUMED_NAMES = sorted(path.stem for path in (_FOLDER / "consumed").glob("*.json"))
PUBLISHED_NAMES = sorted(path.stem for path in (_FOLDER / "published").glob("*.json"))


def consumed_bytes(name: str) -> bytes:
    """A consumed message as it stands on the wire."""
    return (_FOLDER / "consumed" / f"{name}.json").read_bytes()


def consumed(name: str) -> dict[str, Any]:
    """A consumed message as plain JSON, to be changed at will."""
    message: dict[str, Any] = json.loads(consumed_bytes(name))
    return message


def published(name: str) -> dict[str, Any]:
    """A published message as plain JSON."""
    message: dict[str, Any] = json.loads((_FOLDER / "published" / f"{name}.json").read_bytes())
    return message
