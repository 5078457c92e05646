"""The regression family: every query solves a least-squares problem."""
