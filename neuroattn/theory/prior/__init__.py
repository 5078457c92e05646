"""Attention as a marginal probability."""
