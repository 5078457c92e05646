"""
Put your own claim in
=====================

A sentence about attention becomes a claim when it says what would refute it. Here is one, from
the sentence to the verdict: *a memory that is cued with a distorted key returns a weaker target,
and no more noise*. It takes a few seconds on one core.

Store N associations of unit keys and values of unit variance in linear attention, and read with a
cue whose cosine with a stored key is c. The target comes back scaled by c, and the crosstalk of the
others does not know that the cue is distorted:

.. math:: E\\|\\hat y-v\\|^2=(1-c)^2+\\frac{N-1}{d}
"""

# %%
# The experiment
# --------------
# ``measure`` gets a :class:`~neuroattn.theory.Lab` and yields comparisons. Draws come from the lab,
# so that the seed is an argument and each claim has draws of its own; the mechanism runs **through
# the registry**, in every form and on every backend that this machine offers. Keyword arguments
# with defaults are what a mutant will change.

import numpy as np
import sympy

from neuroattn.report.claims import claim_figure
from neuroattn.theory import Claim, list_claims, register, verify

PAIRS, DIM, DRAWS = 5, 16, 3000
COSINES = (1.0, 0.9, 0.7, 0.4, 0.0)


def law(cosine):
    """Return the expected squared error of reading with a cue of this cosine."""
    return (1 - cosine) ** 2 + (PAIRS - 1) / DIM


def errors(lab, mechanism):
    """Return (draws, cosines): squared errors of reading the first association."""
    keys = lab.keys("sphere", (DRAWS, 1, PAIRS, DIM), "keys")
    values = lab.keys("gaussian", (DRAWS, 1, PAIRS, 16), "values")
    # A direction at right angles to the stored key, to turn the cue towards.
    stored = keys[:, :, :1]
    aside = lab.normal((DRAWS, 1, 1, DIM), "aside")
    aside = aside - (aside * stored).sum(-1, keepdim=True) * stored
    aside = aside / aside.norm(dim=-1, keepdim=True)
    found = []
    for cosine in COSINES:
        cue = lab.rounded(cosine * stored + (1 - cosine**2) ** 0.5 * aside)
        read = lab.attend(
            mechanism, cue, keys, values, feature_map="identity", normalize=False, scale=1.0
        )
        found.append((read - values[:, :, :1]).square().sum((-1, -2, -3)))
    return np.stack(found, axis=1)


def measure(lab, formula=law, mechanism="linear"):
    """Compare the mean error with the law, at five cosines."""
    yield lab.mean(
        "squared error of a distorted cue",
        lab.once(errors, mechanism),
        [formula(cosine) for cosine in COSINES],
        axes={"cosine of cue and key": COSINES},
    )


# %%
# ``lab.mean`` estimates its own tolerance: four standard errors of the draws, more when several
# numbers are compared. ``lab.equal`` is for what is equal but for rounding, ``lab.exact`` for
# integers, and ``lab.near`` for approximations, with the size of their error and a reason.
# ``lab.once`` keeps what it computed, so that the mutants share the draws and their cost.
#
# The proof
# ---------
# Where there is a closed form, ``prove`` derives it in steps that sympy checks. The first step that
# is false ends it.


def prove(proof):
    """Show both terms in two dimensions, where the sphere is a circle."""
    c, angle = sympy.symbols("c theta", real=True)
    proof.say("The target is read with weight c, so that its error is", (1 - c) ** 2)
    weight = sympy.cos(angle) ** 2 / (2 * sympy.pi)
    proof.equal(
        "A key at a random angle to the cue adds 1/d",
        sympy.Integral(weight, (angle, 0, 2 * sympy.pi)).doit(),
        sympy.Rational(1, 2),
    )


# %%
# The mutants
# -----------
# What would a sloppy reader believe? That a distorted cue also adds noise, or that N associations
# disturb one another N times. A claim is registered with such *mutants*, and the check must reject
# every one of them: they say what the experiment is able to see.

register(
    Claim(
        id="mine.cue.distortion",
        title="A distorted cue returns a weaker target, and no more noise",
        paper="This tutorial (2026)",
        place="derived above",
        statement=r"E\|\hat y-v\|^2=(1-c)^2+\frac{N-1}{d}",
        hypotheses=(
            "Unit keys, independent and uniform on the sphere.",
            "Values independent of the keys, with mean 0 and expected squared length 1.",
            "The cue has unit length and is independent of the other keys.",
        ),
        finding="confirmed",
        found="At a right angle the error is 1 plus the crosstalk: nothing of the target is left.",
        measure=measure,
        mutants={
            "distortion adds noise": {"formula": lambda c: law(c) + (1 - c**2)},
            "N instead of N-1": {"formula": lambda c: law(c) + 1 / DIM},
            "the amplitude is c squared": {"formula": lambda c: law(c * c)},
        },
        mechanisms=("linear",),
        prove=prove,
    )
)

# %%
# The verdict
# -----------

(verdict,) = verify(list_claims("mine"))
print("holds:", verdict.passed, "| proof:", verdict.proved, "| ran:", verdict.paths)
for comparison in verdict.comparisons:
    print(f"{comparison.name}: {comparison.strain:.2f} of the tolerance")
for mutant in verdict.mutants:
    print(f"mutant {'rejected' if mutant.killed else 'SURVIVES'}: {mutant.name} ({mutant.by})")

# %%
# The line is the law, the points are the measurement, with two standard errors.

claim_figure(verdict)

# %%
# From a file
# -----------
# Put the functions and the call of ``register`` into a file, and the command runs it beside ours,
# on as many processes as you like, and writes the report::
#
#     neuroattn verify mine --claims my_claims.py --jobs 2 --out mine
#
# Another seed must give the same verdict: ``--seed 1``. If it does not, a tolerance is dishonest.
