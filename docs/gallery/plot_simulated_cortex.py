r"""
Three encoders of a simulated cortex
====================================

From images to a scored encoder, on data whose truth is known. Two kinds of voxels stand side by
side: early ones with a receptive field that never moves, and category ones that read the image
**where their object is**. Which encoder finds which? The whole page runs in about a minute on one
core; ``neuroattn demo`` is the same story with 2,000 scenes.
"""

# %%
# A cortex whose truth is known
# -----------------------------
#
# :class:`~neuroattn.data.SimulatedCortex` draws scenes, lets a cortex look at them and adds noise.
# It is small here: 600 scenes, shown three times each, 24 voxels an area.

import tempfile

import matplotlib.pyplot as plt
import numpy as np

from neuroattn.data import SimulatedCortex, prepare, split_by_image
from neuroattn.data.scenes import CATEGORIES
from neuroattn.data.simulated_cortex import CATEGORY_AREAS
from neuroattn.encoders import FactorizedEncoder, RidgeEncoder, TransformerEncoder
from neuroattn.features import FeatureStore
from neuroattn.report import (
    attention_figure,
    attention_mass,
    best_heads,
    comparison_table,
    gate_figure,
    print_table,
    query_masks,
    roi_bars,
    summary_table,
)

cortex = SimulatedCortex(scenes=600, voxels=(24, 24), seed=0)
images = cortex.images()

figure, axes = plt.subplots(1, 6, figsize=(9, 1.7), layout="constrained")
for index, each in enumerate(axes):
    each.imshow(images.read(index))
    shown = [CATEGORIES[k] for k in cortex.scenes.category[index] if k >= 0]
    each.set_title(", ".join(shown), fontsize=8)
    each.set_axis_off()

# %%
# Responses and split
# -------------------
#
# :func:`~neuroattn.data.prepare` checks the responses, z-scores each voxel within its
# sessions, estimates each voxel's noise ceiling from the repeats and averages them. The split is by
# image: no image stands on both sides. The first four rows of the result are shown.

responses = prepare(cortex.responses())
split = split_by_image(responses, {"train": 0.7, "validation": 0.1, "test": 0.2}, seed=0)
train, validation, test = (
    split.select(responses, part) for part in ("train", "validation", "test")
)
print({name: len(ids) for name, ids in split.parts.items()})
responses.isel(presentation=slice(4))

# %%
# The ceiling is an estimate. Here the true one is known, so we can see how good the estimate is:
# the share of signal in the mean of three presentations, compared over all voxels.

truth = cortex.truth()
estimated = responses["ncsnr"] ** 2 / (responses["ncsnr"] ** 2 + 1 / 3)
difference = estimated.to_numpy() - truth["ceiling"].to_numpy()
mean, spread = difference.mean(), difference.std()
print(f"estimated minus true ceiling: mean {mean:+.3f}, sd {spread:.3f}")

# %%
# Features
# --------
#
# A feature basis turns an image into a grid of tokens: here 14 × 14 tokens of 18 channels of
# oriented energy, luminance and colour. The store computes them once and serves them from disk.

folder = tempfile.TemporaryDirectory()
features = FeatureStore(folder.name).fill(cortex.basis, images)
print(dict(features["tokens"].sizes))

# %%
# Three encoders
# --------------
#
# All three have the manners of scikit-learn and the same inputs. Ridge chooses its penalty by
# cross-validation inside the training images; the other two watch the validation images.

encoders = {
    "ridge": RidgeEncoder(),
    "factorized": FactorizedEncoder(seed=0),
    "transformer": TransformerEncoder({"heads": 8, "static_branch": True}, seed=0),
}
scores = {}
for name, encoder in encoders.items():
    encoder.fit(features, train, validation)
    scores[name] = encoder.score(features, test)
print(scores["transformer"])

# %%
# Scores
# ------
#
# Explained variance on the test images, divided by each voxel's ceiling, averaged over the voxels
# of a ROI, with 95 % bootstrap intervals over images.

table = summary_table(scores)
print_table(table)

# %%
roi_bars(table)

# %%
# In V1 to V4 a receptive field that does not move is the truth, and the factorised encoder has
# exactly that. The transformer has it too, in its static branch. In the category areas nothing
# static can be right, and only the transformer goes beyond the little that position and background
# tell. With 420 training images it is still far from the ceiling there; with the 1,400 of
# ``neuroattn demo`` it comes much closer.
#
# Is the difference more than luck? A paired permutation test over the same test images, corrected
# for the number of ROIs (``q``):

compared = comparison_table(scores, "transformer")
shown = ["difference", "low", "high", "p", "q"]
compared.xs("factorized", level="encoder")[shown].round(3)

# %%
# Receptive fields
# ----------------
#
# The factorised encoder gives each voxel a map. Early voxels have a true receptive field, so the
# two can be laid side by side: the true centre is the cross, the circle its radius.

fields = encoders["factorized"].receptive_fields()
some = np.flatnonzero(truth["area"].to_numpy() == "V2")[::4]
figure, axes = plt.subplots(1, len(some), figsize=(9, 1.8), layout="constrained")
for each, voxel in zip(axes, some, strict=True):
    names = ("rf_column", "rf_row", "rf_radius")
    column, row, radius = (float(truth[name][voxel]) for name in names)
    each.imshow(fields[voxel], cmap="Greys")
    each.plot(column, row, "+", color="tab:red")
    each.add_patch(plt.Circle((column, row), radius, fill=False, color="tab:red"))
    each.set_axis_off()
figure.suptitle("maps of the factorised encoder, six V2 voxels", fontsize=9)

early = np.isfinite(truth["rf_row"].to_numpy())
token = np.arange(14)
row = fields.sum("column").to_numpy() @ token
column = fields.sum("row").to_numpy() @ token
apart = np.hypot(row - truth["rf_row"], column - truth["rf_column"]).to_numpy()[early]
print(f"maps' centres from the true ones: median {np.median(apart):.2f} tokens")

# %%
# Where the queries look
# ----------------------
#
# Each ROI has a learned query, which attends to the tokens of each image. For every category query
# we take its best head, **chosen on the validation images**, and judge it on the test images: how
# much attention lies inside the true object, in units of what a map that looks everywhere alike
# would put there?

masks, ids = cortex.scenes.masks(), list(images.ids)
encoder = encoders["transformer"]


def inside(part):
    """Return attention to the images of a part and each query's true objects."""
    maps = encoder.attention_maps(features, split[part])
    shown = [ids.index(image) for image in split[part]]
    objects = {
        area: masks[shown, CATEGORIES.index(category)]
        for area, (category, _) in CATEGORY_AREAS.items()
    }
    return maps, query_masks(maps["query"].to_numpy(), objects)


heads = best_heads(attention_mass(*inside("validation")))
maps, objects = inside("test")
mass = attention_mass(maps, objects)
for query, head in heads.items():
    ratio = float(mass["ratio"].sel(query=query)[head])
    print(f"{query:<12} {ratio:5.1f} times uniform")

# %%
# The same as a picture. Blue: the object that the query should find, where there is one. Where
# there is none a query has nowhere to look, and its map means little.

left = [query for query in heads if query.startswith("left")]
test_ids = [ids.index(image) for image in split["test"]]
several = np.flatnonzero((cortex.scenes.category[test_ids] >= 0).sum(axis=1) > 1)[:4]
attention_figure(
    [images.read(test_ids[index]) for index in several],
    maps.isel(image=several).sel(query=left),
    {query: objects[query][several] for query in left},
    heads,
)

# %%
# Static or routed?
# -----------------
#
# The static branch and the attention are mixed voxel by voxel. The share of the static branch is
# solved on the validation images, so it says which of the two predicts images that neither saw.

gate_figure(encoder.gates(), encoder.voxels_["roi_mask"])

# %%
# What this shows, and what it does not
# -------------------------------------
#
# The simulation routes by content, so an encoder that can route wins: the page shows that the
# method **finds routing where there is routing**, and how much data that takes. It is no evidence
# that a real cortex routes, nor that attention maps of an encoder of real data show where a brain
# attends. See :doc:`/simulated_cortex`.

folder.cleanup()
