"""The errors that neuroattn raises: one small hierarchy, each also of the built-in kind."""

from __future__ import annotations


class NeuroattnError(Exception):
    """Base of every error that a user can cause; the command line turns it into exit code 2."""


class InputError(NeuroattnError, ValueError):
    """An argument has a wrong value, shape or type."""


class UnknownNameError(InputError, LookupError):
    """A name that is not registered, answered with the names that are."""


class FileError(NeuroattnError, OSError):
    """A file or folder is missing, truncated, unreadable or cannot be written."""


class MismatchError(InputError):
    """Two inputs that belong together do not fit: counts, ids, keys, models."""


class RunExistsError(FileError):
    """A run directory is there already; runs are never overwritten."""


class MissingExtraError(NeuroattnError, ImportError):
    """An optional dependency is not installed; the message names the extra that brings it."""
