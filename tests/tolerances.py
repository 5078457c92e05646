"""The one table of tolerances: relative and absolute, by dtype."""

from __future__ import annotations

TOLERANCE: dict[str, dict[str, float]] = {
    "float64": {"rtol": 1e-10, "atol": 1e-12},
    "float32": {"rtol": 1e-5, "atol": 1e-6},
    "float16": {"rtol": 2e-3, "atol": 2e-3},
}
