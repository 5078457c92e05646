"""The published radius by critical distance: which numbers follow from which hypothesis."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from neuroattn.theory.claim import Claim, register
from neuroattn.theory.comparison import Comparison
from neuroattn.theory.lab import Lab
from neuroattn.theory.sdm.convergence import PATTERNS, published_edge
from neuroattn.theory.sdm.overlap import PAPER
from neuroattn.theory.sdm.radii import optimal_radius
from neuroattn.theory.sdm.retrieval import BITS


def measure_published(
    lab: Lab, choose: Callable[[int], int] = lambda m: optimal_radius(BITS, m, "critical")
) -> Iterator[Comparison]:
    """Compare the radius of the largest published critical distance with known numbers."""
    numbers = (100, 256, 1024, 4096, 16_384)
    chosen = [choose(m) for m in numbers]
    yield lab.exact("published radius, m = 100 and 1024", [chosen[0], chosen[2]], [21, 15])
    far = [published_edge(d, PATTERNS) for d in (14, 15, 16, 17)]
    yield lab.exact("published critical distance at d = 14 to 17", far, [22, 24, 24, 22])
    yield lab.exact(
        "and with 100 patterns at d = 21, 22", [published_edge(d, 100) for d in (21, 22)], [32, 32]
    )
    yield lab.near(
        "published radius, against a scan of the formula in floating point",
        chosen,
        # Known numbers, from a scan with its own double sum and normal law.
        [21, 18, 15, 12, 10],
        tolerance=0.0,
        expected=0.0,
        reason="whole numbers",
        axes={"patterns m": numbers},
    )


register(
    Claim(
        id="sdm.radius.critical",
        title="The published radius by critical distance depends on the number of patterns",
        paper=PAPER,
        place="the optimal radius by critical distance; formula derived here, gives the published",
        statement=r"d^*_{CD}=\mathrm{argmax}_d\,x_c(d),\quad z(x)=\frac{I(x)}"
        r"{\sqrt{I(x)+m(p^2r+p^4r^2)}}",
        hypotheses=(
            "n = 64 with all 2^64 neurons.",
            "The overlap with a random pattern is a Poisson count of mean p^2 r.",
        ),
        finding="sharpened",
        found="The published 15 follows for 1024 patterns, in a tie with 16 (both 24 bits). With "
        "100 patterns it would be 21, and would tolerate any number of wrong bits, 32 of 64, "
        "which no memory can. See sdm.retrieval.critical-distance for what is measured.",
        measure=measure_published,
        mutants={
            "the radius by the signal": {"choose": lambda m: optimal_radius(BITS, m, "snr")},
            "1024 patterns whatever the number": {
                "choose": lambda m: optimal_radius(BITS, PATTERNS, "critical")
            },
        },
    )
)
