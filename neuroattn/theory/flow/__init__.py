"""Flows that are conserved: linear attention without a trivial read.

Wu and others make attention a flow from sources (keys) to sinks (queries) and normalise it on both
sides: each sink takes in one unit, so that sources compete, and each source gives out one, so that
sinks are allocated. Four sums are conserved. They are read here off the mechanism's own weights.
The clamp of the published code, not in the paper, binds where conservation puts the average.
"""
