"""What looks like a secret is named here once: it stays out of trackers, dumps and the processes that read strangers' files."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlsplit, urlunsplit

_SECRET_ANYWHERE = frozenset(
    {"apikey", "auth", "authorization", "bearer", "cookie", "credential", "credentials", "passphrase", "passwd", "password", "secret", "secrets", "token"}
)
_SECRET_AT_END = frozenset({"key", "keys", "env", "environ", "environment"})


def without_secrets(tree: Any) -> Any:
    """The configuration without anything that looks like a secret: by the key's words, or a password inside an address."""
    if isinstance(tree, dict):
        return {key: without_secrets(value) for key, value in tree.items() if not _names_a_secret(str(key))}
    if isinstance(tree, list | tuple):
        return [without_secrets(value) for value in tree]
    if isinstance(tree, str) and "@" in tree and "://" in tree:
        return _without_user(tree)
    return tree


def _names_a_secret(key: str) -> bool:
    words = [word for word in re.split(r"[^a-z0-9]+", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", key).lower()) if word]
    return bool(words) and (words[-1] in _SECRET_AT_END or not _SECRET_ANYWHERE.isdisjoint(words))


def _without_user(address: str) -> str:
    try:
        parts = urlsplit(address)
    except ValueError:
        return ""
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
