"""Attention as an adaptive filter."""
