"""Attention as sparse distributed memory: an address reads what was written near it.

Bricken and Pehlevan (2021) put Kanerva's memory beside attention: a pattern is written to every
neuron within a Hamming radius of its address, a query reads every neuron within that radius, and
the weight of a pattern is how many neurons both balls share. That number falls nearly
exponentially with the distance of the two addresses, so that a softmax of some inverse temperature
beta approximates it; and optimal radii give betas that trained transformers are found to have.

The overlap itself holds up, to the last integer: three closed forms equal enumeration. But it is a
staircase (an even distance shares exactly what the odd one before it does), which bounds how near
any softmax can come, and it ends at twice the radius. SDM is moreover linear attention exactly,
with one binary feature a neuron and a positive semi-definite kernel whose eigenvalues are squared
Krawtchouk polynomials. The published betas (35.5, 15.9, 10.1) carry a factor N/(N-1), a covariance
of N-1 points over a variance of N: least squares gives 28.39, 14.41 and 9.44. Kanerva's table of
overlaps, which seems 7 % off, is exact in units of a thousandth of a ball.

The optimal radii (11, 5 and 15 at 64 bits) follow from formulas that take the
overlap with a random pattern for a Poisson count of one mean, as if it did not depend on the
distance. With all neurons of the cube its mean square is larger by orders of magnitude. The
critical distance that we measure on the mechanism, 19 of 64 bits with 1024 patterns, is not the
published 24, and no radius from 11 to 16 stands out; the exact noise gives 18 there (16 at 11).
`signal_to_noise`, `overlap_power` and `critical_distance` offer both, as overlaps="exact" and
"independent".
"""

from neuroattn.names import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "beta": "bandwidth",
        "critical_distance": "snr",
        "gaussian_intersection": "gaussian",
        "intersection": "overlap",
        "local_beta": "slope",
        "optimal_radius": "radii",
        "overlap_power": "neurons",
        "signal_to_noise": "snr",
    },
)
