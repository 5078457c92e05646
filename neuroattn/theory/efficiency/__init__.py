"""The same read at less cost."""
