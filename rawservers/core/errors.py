"""Error texts for logs and exit messages, and errors that are the system's."""

from __future__ import annotations

import errno

# Conditions of the system that any call may meet: no fault of this program, so that a traceback would say nothing.
SYSTEM_ERRNOS = {errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.ENOSPC}


def is_of_system(error: BaseException | None) -> bool:
    """Whether an error is a condition of the system: out of memory or descriptors, a broken disk."""
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in SYSTEM_ERRNOS)


def os_error_text(error: BaseException | None) -> str:
    """The reason of an error, to be put after "cannot ...: ". An OSError gives its strerror, in lower case."""
    if isinstance(error, MemoryError):
        return "out of memory"
    return (error.strerror or str(error)).lower() if isinstance(error, OSError) else str(error)
