"""Of inherited members the reference shows ours, not the hundreds of Lightning, torch, sklearn."""

from __future__ import annotations

import types
from typing import Any

from sphinx.application import Sphinx

_SHOWN = (types.FunctionType, types.MethodType, classmethod, staticmethod, property)


def _skip(app: Sphinx, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    # autosummary asks too, while it lists a room: there ``obj`` is the class itself.
    if what != "class" or isinstance(obj, type):
        return None
    function = obj.fget if isinstance(obj, property) else getattr(obj, "__func__", obj)
    ours = str(getattr(function, "__module__", "")).startswith("neuroattn.")
    if name.startswith("_") or not ours or not isinstance(obj, _SHOWN):
        return True
    return skip


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect the filter."""
    app.connect("autodoc-skip-member", _skip)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
