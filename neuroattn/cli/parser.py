"""The parser of every command that is no recipe: mistakes are one message."""

from __future__ import annotations

import argparse

from neuroattn.errors import InputError
from neuroattn.names import did_you_mean


class PlainParser(argparse.ArgumentParser):
    """argparse whose mistakes are :class:`InputError`."""

    def error(self, message: str) -> None:  # type: ignore[override]
        """Raise the message, with the closest match to an option that is unknown."""
        known = [name for action in self._actions for name in action.option_strings]
        wrong = message.removeprefix("unrecognized arguments: ").split()[0]
        hint = did_you_mean(wrong, known) if wrong.startswith("-") else ""
        raise InputError(f"{self.prog}: {message}{hint or '.'} {self.format_usage().strip()}")
