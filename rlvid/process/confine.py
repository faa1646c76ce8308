"""Limits of a process that decodes videos from strangers: memory, size of files, no core dumps, no keys. Not a sandbox: a decoder that is taken over
can still read what this user can read."""

from __future__ import annotations

import os
import resource

from rlvid.process.secrets import without_secrets

GIB = 2**30


def confine(memory_gib: float) -> None:
    """From here on this process may take `memory_gib` more memory and write no file above that size, and forgets the keys in its environment.

    The limit is on private memory (RLIMIT_DATA): the object store, which Ray maps as shared memory and may be as large as it likes, does not count.
    What goes beyond it ends in a MemoryError here or in the decoder's own failure.
    """
    more = int(memory_gib * GIB)
    for kind, value in ((resource.RLIMIT_DATA, _private_bytes() + more), (resource.RLIMIT_FSIZE, more), (resource.RLIMIT_CORE, 0)):
        _, hard = resource.getrlimit(kind)
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (value, value))
    harmless = without_secrets(dict(os.environ))
    for name in [name for name in os.environ if name not in harmless and not name.startswith("RAY_")]:
        del os.environ[name]


def _private_bytes() -> int:
    """What RLIMIT_DATA counts of this process, now."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmData:")) * 1024
