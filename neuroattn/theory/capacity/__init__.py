"""Capacity as a measurement: how many associations a mechanism holds.

**The task.** ``N`` associations of a key and a value are written in their order; then a stored
key, perhaps with noise, is the query, and the read is compared with its value. Keys have ``dim``
coordinates of unit variance, as a layer normalisation leaves them and as the default scales of
the mechanisms expect them, of one of three laws: uniform on the sphere of radius ``sqrt(dim)``,
Gaussian, or signs (Rademacher). A value is ``value_dim`` random signs over ``sqrt(value_dim)``:
of unit length, for the mechanisms whose writes are not linear in the values. Noise adds
independent normal numbers of standard deviation ``noise`` to the coordinates of the query. The
item that is asked for is chosen uniformly, so that a memory that fades pays for what it forgot.

**The criterion.** A bit of the value is retrieved when the read has its sign. In the average case
(random values) retrieval holds while the probability of a wrong bit is at most ``Q(sqrt(snr))``,
Q being the upper tail of the normal law: the error that Gaussian interference of that
signal-to-noise ratio makes. Signs, because then the criterion does not depend on the gain:
mechanisms that normalise, gate or forget multiply what they read by positive numbers that differ
from query to query, and no squared error compares them without a fit; because the reader needs no
list of what was stored; and because guessing is wrong half the time, for everyone. A read of
exactly 0, or one that is not a number, counts half an error.

In the worst case an adversary knows the keys and chooses the values. Where explicit weights exist,
the read is their product with the values, and the worst values of the other items are the signs of
their weights, against the sign of the item asked for. Its bit is safe if its weight exceeds
``sqrt(snr)`` times the sum of the others' absolute weights; retrieval holds while this is so of
half of the items or more: the median item of random keys under the worst values. Where there are
no explicit weights the worst case is not defined here, because a search for bad values would bound
it from one side only. The cases allow different shares of failures: what loses some items
altogether and keeps the others apart may have the larger worst case.

**Closed forms.** For Hebbian memory (``linear`` with the identity as feature map and without
normaliser) the average case is ``N* = 1 + dim / snr``, by the central limit theorem, and the worst
case at ``snr`` 1 ``N* = 1 + sqrt(pi dim / 2)``; for the regression of values on keys (``mesa``) the
average is ``dim (1 + 1 / snr)``.

**The search.** Doubling until retrieval fails, then bisection. All sizes use the first
associations of the same draws, the same noise and the same random numbers for which item is
asked, so that sizes are compared and not draws. The interval is what a test does not reject: all
``N`` at which the measured probability differs from the allowed one by no more than sampling makes
it differ, draws being the independent units; it covers at least at its rate, and is wider where
errors are rarer than the draws can show. What still holds at the largest size tried is
censored, and said to be so.
"""

from neuroattn.names import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "CASES": "criterion",
        "Capacity": "measurement",
        "Exponent": "growth",
        "allowed_error": "criterion",
        "exponent": "growth",
        "measure": "measurement",
        "table": "growth",
    },
)
