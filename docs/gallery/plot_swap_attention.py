r"""
Swap the attention of a brain encoder
=====================================

The transformer encoder reads an image through one mechanism, by default softmax. Which property of
attention does the simulated cortex need? Three others are put in its place here, from the same
seed, on the same images; only one key of the recipe changes. The page runs in about two minutes on
one core.
"""

# %%
# The same cortex as in the first tutorial
# ----------------------------------------
#
# Category voxels read the image where their object is. To predict them, a query has to *find* the
# object first, and then to read only there.

import tempfile
import textwrap
import time

import matplotlib.pyplot as plt
import numpy as np

from neuroattn.attention import get, list_mechanisms
from neuroattn.data import SimulatedCortex, prepare, split_by_image
from neuroattn.data.scenes import CATEGORIES
from neuroattn.data.simulated_cortex import CATEGORY_AREAS
from neuroattn.encoders import TransformerEncoder
from neuroattn.features import FeatureStore
from neuroattn.report import (
    attention_mass,
    best_heads,
    comparison_table,
    print_table,
    query_masks,
    roi_bars,
    summary_table,
)

cortex = SimulatedCortex(scenes=600, voxels=(24, 24), seed=0)
responses = prepare(cortex.responses())
split = split_by_image(responses, {"train": 0.7, "validation": 0.1, "test": 0.2}, seed=0)
train, validation, test = (
    split.select(responses, part) for part in ("train", "validation", "test")
)
folder = tempfile.TemporaryDirectory()
features = FeatureStore(folder.name).fill(cortex.basis, cortex.images())

# %%
# What can be swapped in
# ----------------------
#
# Every mechanism whose queries may come from elsewhere than its tokens. In a recipe the swap is one
# line, ``attention: delta``, and its parameters are another,
# ``attention_parameters: {beta: 0.5}``.

crossing = [name for name in list_mechanisms() if get(name).cross and False in get(name).causal]
print(f"{len(crossing)} of {len(list_mechanisms())} mechanisms:")
print(textwrap.fill(", ".join(crossing), 90))

# %%
# Four encoders that differ in one word
# -------------------------------------
#
# - ``softmax`` shares out one unit of attention: a token gets more only if others get less;
# - ``sigmoid_attention`` weighs each token by itself, so that its weights do not compete;
# - ``linear`` superposes all tokens in a memory of fixed size and reads it with positive features;
# - ``hopfield`` lets the query settle on a stored pattern, in three steps, before it reads.

swaps = {"softmax": {}, "sigmoid_attention": {}, "linear": {}, "hopfield": {"steps": 3}}
scores, encoders = {}, {}
for name, parameters in swaps.items():
    start = time.perf_counter()
    network = {"heads": 8, "attention": name, "attention_parameters": parameters}
    encoders[name] = TransformerEncoder(network, seed=0).fit(features, train, validation)
    scores[name] = encoders[name].score(features, test)
    print(f"{name:<18} {time.perf_counter() - start:5.1f} s")

# %%
# Scores
# ------
#
# Explained variance on the test images divided by the noise ceiling, with 95 % bootstrap intervals
# over images.

table = summary_table(scores)
print_table(table)

# %%
roi_bars(table)

# %%
# Finding an object does not need the competition of softmax: weights that are only positive find it
# too, and sigmoid weights read it a little better here. Is that more than luck? Softmax minus each
# other, paired over the same test images, all voxels together. It is one cortex and one seed of
# the network: a lead to follow with more of both, not a law.

compared = comparison_table(scores, "softmax")
compared.xs("all", level="roi")[["difference", "low", "high", "p", "q"]].round(3)

# %%
# Where they look
# ---------------
#
# Every mechanism with explicit weights has attention maps. How much of a category query's attention
# lies within the true object, in units of what a map that looks everywhere alike would put there?
# Weights that need not sum to one are divided by their sum first. Heads are chosen on the
# validation images and judged on the test images.

masks, ids = cortex.scenes.masks(), list(cortex.images().ids)


def inside(encoder, part):
    """Return attention to the images of a part and each query's true objects."""
    maps = encoder.attention_maps(features, split[part])
    maps = maps / maps.sum(("row", "column"))
    shown = [ids.index(image) for image in split[part]]
    objects = {
        area: masks[shown, CATEGORIES.index(category)]
        for area, (category, _) in CATEGORY_AREAS.items()
    }
    return maps, query_masks(maps["query"].to_numpy(), objects)


chosen, seen = {}, {}
for name, encoder in encoders.items():
    chosen[name] = best_heads(attention_mass(*inside(encoder, "validation")))
    seen[name], objects = inside(encoder, "test")
    mass = attention_mass(seen[name], objects)
    ratios = [float(mass["ratio"].sel(query=query)[head]) for query, head in chosen[name].items()]
    print(f"{name:<18} mean over queries {np.mean(ratios):5.1f} times uniform")

# %%
# Four test images with food through two of them, for the query of the left food area:

query = "left food"
test_ids = [ids.index(image) for image in split["test"]]
food = masks[test_ids, CATEGORIES.index("food")].any(axis=(1, 2))
figure, axes = plt.subplots(3, 4, figsize=(7, 5.4), layout="constrained")
for column, index in enumerate(np.flatnonzero(food)[:4]):
    axes[0, column].imshow(cortex.images().read(test_ids[index]))
    for row, name in enumerate(("softmax", "linear"), start=1):
        shown = seen[name].isel(image=index).sel(query=query)[chosen[name][query]]
        axes[row, column].imshow(shown, cmap="Greys")
        axes[row, 0].set_ylabel(name)
for each in axes.flat:
    each.set_xticks([])
    each.set_yticks([])

# %%
# What to swap next
# -----------------
#
# ``neuroattn attention list`` names all of them, and each has
# :doc:`a page </attention/mechanisms/index>` with its formula, its laws and its cost. Those that
# correct their memory (``delta``, ``titans``, …) write the tokens row by row; with 196 tokens an
# image they train several times more slowly than softmax, and pay off where sequences are long. A
# mechanism of your own is :doc:`one file </attention/new_mechanism>`.

folder.cleanup()
