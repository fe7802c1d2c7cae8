"""The text of an exception in a message for operators."""

from __future__ import annotations


def os_error_text(error: Exception) -> str:
    """The text of an OSError in lower case, such as "permission denied"; the message of any other exception."""
    return (error.strerror or str(error)).lower() if isinstance(error, OSError) else str(error)
