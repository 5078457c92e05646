"""jsonargparse with errors of one sentence; imports nothing heavy."""

from __future__ import annotations

from typing import NoReturn

from jsonargparse import ArgumentParser

from neuroattn.cli.messages import explain
from neuroattn.errors import InputError


class ClassParser(ArgumentParser):
    """jsonargparse with errors of one sentence."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise the message as an :class:`InputError` with the closest match to a wrong key."""
        known = [str(action.dest) for action in self._actions]
        raise InputError(explain(message, known)) from ex
