"""The families of claims: what each is about, in the order of the site."""

from __future__ import annotations

#: Family (the submodule or package that registers its claims, and the first part of their ids)
#: to the title of its page.
FAMILIES: dict[str, str] = {
    "pavlovian": "Attention as Pavlovian conditioning",
    "sdm": "Attention as sparse distributed memory",
    "dynamics": "Attention as a dynamical system",
    "icl": "In-context linear regression",
    "memorization": "Memorisation capacity",
    "memory": "Memory that learns at test time",
    "local_linear": "Local linear attention",
    "rank": "Rank and hard heads",
    "normalization": "What the normaliser does",
    "adaptive_filter": "Attention as an adaptive filter",
    "prior": "Attention as marginal probability",
    "hierarchy": "Hierarchical attention",
    "flow": "Conserved flows",
    "efficiency": "The same read at less cost",
    "initialization": "Mimetic initialisation",
    "depth": "Stacked heads and attention sinks",
}
