"""How many examples one layer of multi-head attention can memorise by its read-out alone.

Mahdavi, Liao and Thrampoulidis (2024) show that a layer of H heads over n tokens memorises
H(min(n, d_h) - 1) + 1 examples exactly: the heads' weights, stacked side by side, get that rank,
and then a linear system has a solution for any labels.

Where the examples share their context, H(n - 1) + 1 is also the most: each head's weights sum to
one, so that every head after the first brings one direction that is there already. We find the
bound attained exactly, not one example beyond it, and also with heads narrower than the context:
the minimum with d_h belongs to the proof and not to the capacity of generic inputs. Weights that
need not sum to one, such as those of sigmoid attention, gain the missing directions: Hn. Where each
example has a context of its own, the read-out of the outputs is bounded by their number, Hd.
"""

from neuroattn.names import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__, {"memory_capacity": "capacity", "published_capacity": "capacity"}
)
