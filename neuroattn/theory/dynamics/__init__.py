"""Attention as a dynamical system."""
