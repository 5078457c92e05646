"""Mimetic initialisation."""
