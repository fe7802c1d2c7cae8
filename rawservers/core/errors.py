"""Error texts for logs and exit messages."""

from __future__ import annotations


def os_error_text(error: Exception) -> str:
    """The reason of an error, to be put after "cannot ...: ". An OSError gives its strerror, in lower case."""
    return (error.strerror or str(error)).lower() if isinstance(error, OSError) else str(error)
