"""Errors that a user can mend, and what is behind those that MONAI wraps."""

__all__ = ["DataError", "root_cause"]


class DataError(ValueError):
    """A data list, folder or setting that cannot be used; the message names positions in lists, never paths."""


def root_cause(error: BaseException) -> BaseException:
    """Return the error that one was raised from in the end: MONAI wraps an error in one for each level of a config.

    Example:
        >>> try:
        ...     try:
        ...         raise DataError("no images")
        ...     except DataError as error:
        ...         raise RuntimeError("component 3 failed") from error
        ... except RuntimeError as error:
        ...     print(root_cause(error))
        no images
    """
    while error.__cause__ is not None:
        error = error.__cause__
    return error
