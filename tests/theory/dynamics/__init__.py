"""Tests of attention as a dynamical system."""
