"""Flows that are conserved."""
