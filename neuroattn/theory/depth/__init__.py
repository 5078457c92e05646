"""Stacked heads, and attention sinks."""
