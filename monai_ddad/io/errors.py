"""Errors that a user can mend."""

__all__ = ["DataError"]


class DataError(ValueError):
    """A data list, folder or setting that cannot be used; the message names positions in lists, never paths."""
