"""Hierarchical attention."""
