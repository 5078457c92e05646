r"""
A new subject in ten minutes of data
====================================

An encoder of one subject is usually trained on thousands of images. Here eight simulated subjects
teach how voxels are, and a ninth is met for the first time: the encoders of its voxels are
**written** from 30 or 100 images, without any training on it. Ten minutes in the scanner, at four
seconds a presentation, are 50 images shown three times each.

The cortex is smaller than in ``encoders/incontext_tiny.yaml`` and the training far shorter, so
that the page runs in about 90 seconds on one core. Its numbers are those of this small run, as they
came.
"""

# %%
# Nine subjects, one of whom is new
# ---------------------------------
#
# All look at the same 800 scenes; every voxel of every subject has weights of its own. The new
# subject is taken out before anything is learned. Its *pool* are the images that a context may be
# drawn from, its test images are never in a context.

import tempfile

import numpy as np
import pandas as pd

from neuroattn.data import CATEGORIES, Scanner, SimulatedCortex, prepare, split_by_image
from neuroattn.data.simulated_cortex import CATEGORY_AREAS
from neuroattn.encoders import (
    EmpiricalBayesEncoder,
    InContextEncoder,
    choose_context,
    excess_risk,
    few_image_baselines,
    scaling_curve,
)
from neuroattn.encoders.baselines import AS_EMBEDDED
from neuroattn.encoders.scaling import table
from neuroattn.features import FeatureStore
from neuroattn.report import (
    context_figure,
    context_mass,
    print_table,
    scaling_figure,
    summary_table,
)

cortex = SimulatedCortex(scenes=800, subjects=9, voxels=(24, 24), seed=0)
responses = prepare(cortex.responses())
split = split_by_image(responses, {"train": 0.7, "validation": 0.1, "test": 0.2}, seed=0)
is_new = responses["subject"].to_numpy() == "sub-09"
others, subject = responses.isel(voxel=~is_new), responses.isel(voxel=is_new)
train, validation = split.select(others, "train"), split.select(others, "validation")
pool, test = split.select(subject, "train"), split.select(subject, "test")

folder = tempfile.TemporaryDirectory()
store = FeatureStore(folder.name)
features = store.fill(cortex.basis, cortex.images())
print(f"{others.sizes['voxel']} voxels teach, {subject.sizes['voxel']} are new")

# %%
# Learning how voxels are
# -----------------------
#
# The in-context encoder is a set transformer. An *episode* shows it 10 to 100 pairs of image and
# response of some voxels, and asks for the responses to other images; 3,000 episodes are drawn from
# the eight subjects. What it reads of an image is one vector: 32 principal components of tokens.

encoder = InContextEncoder(
    network={"width": 48, "heads": 4, "layers": 2, "feedforward": 48, "input_activation": False},
    embedding={"view": "pca", "components": 32, "normalise": False},
    episodes={"least": 10, "most": 100, "spacing": "log", "queries": 64, "steps": 300},
    optimisation={"epochs": 10, "batch_size": 32, "learning_rate": 0.004, "warmup": 0.05},
    seed=0,
).fit(features, train, validation)

# %%
# The baselines that any such method has to beat, on the same vectors:
#
# - **ridge** knows nothing of other subjects; its penalty is chosen for each voxel;
# - the **group average** reads no response of the new subject, only where its voxels are;
# - **empirical Bayes** learns mean and covariance of the weights from the same eight subjects, and
#   writes the posterior mean in closed form. Once with a Gaussian for each ROI, a mixture that is
#   not told where a new voxel lies, and once with one Gaussian for all voxels.

vectors = encoder.embedding_.features(features)
baselines = few_image_baselines(vectors, [train], subject, report=print)
baselines["one Gaussian"] = EmpiricalBayesEncoder(AS_EMBEDDED).fit(vectors, train)
encoders = {**baselines, "in-context": encoder}
inputs = {**dict.fromkeys(baselines, vectors), "in-context": features}

# %%
# From 30 images, and from 100
# ----------------------------
#
# ``adapt`` takes a moment. Explained variance of the test images over the noise ceiling:

for count in (30, 100):
    context = choose_context(features, pool, count, "random", seed=0)
    encoder.adapt(features, pool, context)
    mean = float(encoder.score(features, test).by_roi()["mean"].sel(roi="all"))
    print(f"{count:>4} images: {mean:.3f}")

# %%
# All encoders from the same 100 images. The intervals are over test images.

shown = pool.isel(presentation=np.isin(pool["image"], context))
scores = {}
for name, each in encoders.items():
    if name == "ridge":
        each.fit(vectors, shown)
    else:
        each.adapt(inputs[name], shown)
    scores[name] = each.score(inputs[name], test)
print_table(summary_table(scores))

# %%
# More and more images
# --------------------
#
# The same three contexts of each length for every encoder; those of 10 images are the beginnings of
# those of 30. On the right the paired difference from ridge.

curve = scaling_curve(encoders, inputs, pool, test, lengths=(10, 30, 50, 100, 300), draws=3)
scaling_figure(curve)[0]

# %%
columns = ["mean", "low", "high", "difference", "difference_low", "difference_high"]
table(curve)[columns].round(3)

# %%
# Empirical Bayes and the network are far ahead of ridge at 10 and 30 images; with more images ridge
# closes up, and it needs nobody else. Best of all is the mixture, in closed form. The
# network comes close to a single Gaussian with few images; with 300, three times more than it was
# trained on, it falls behind ridge.
#
# Which images wrote this voxel?
# ------------------------------
#
# The weights are read from the network's first token, which attends to the pairs of the context.
# Here is the category voxel that is predicted best, with its responses.

in_category = test["roi_mask"].sel(roi=list(CATEGORY_AREAS)).any("roi").to_numpy()
quality = scores["in-context"].dataset["normalised"].to_numpy()
best = int(np.nanargmax(np.where(in_category, quality, np.nan)))
area = next(name for name in CATEGORY_AREAS if test["roi_mask"].sel(roi=name)[best])
category = CATEGORY_AREAS[area][0]
attention = encoder.context_attention(features, shown)
seen = shown["response"].swap_dims(presentation="image")
name = f"the best predicted {category} voxel"
context_figure(attention, cortex.images(), seen, voxel=best, name=name)[0]

# %%
# Does a category area read the images of its category? Each image is labelled by its largest
# object. 1 is the share that the number of images would give, mean over the voxels of the area:

covered = cortex.scenes.masks().sum(axis=(2, 3))
labels = dict(zip(cortex.images().ids, np.take(CATEGORIES, covered.argmax(axis=1)), strict=True))
mass = context_mass(attention, labels)
for area, (category, _) in CATEGORY_AREAS.items():
    inside = mass.isel(voxel=test["roi_mask"].sel(roi=area).to_numpy())
    own = float(inside.sel(category=category).mean())
    elsewhere = float(inside.drop_sel(category=category).mean())
    print(f"{area:<5} {category:<6} {own:.2f}, other categories {elsewhere:.2f}")

# %%
# Which images to show?
# ---------------------
#
# Thirty images at random, of one category only, as different as possible, or chosen one after the
# other so that the posterior variance of the predictions falls most. No choice reads a response.
# Score of all voxels:

prior = baselines["empirical Bayes"].prior_
choices = {f"random, draw {seed}": {"how": "random", "seed": seed} for seed in range(3)}
choices |= {f"only {each}": {"how": "category", "category": each} for each in CATEGORIES}
choices |= {how: {"how": how} for how in ("diverse", "greedy")}
rows = {}
for words, choice in choices.items():
    chosen = choose_context(
        features, pool, 30, **choice, labels=labels, embedding=encoder.embedding_, prior=prior
    )
    rows[words] = {
        name: float(
            encoders[name]
            .adapt(inputs[name], pool, chosen)
            .score(inputs[name], test)
            .dataset["normalised"]
            .mean()
        )
        for name in ("empirical Bayes", "in-context")
    }
pd.DataFrame(rows).T.round(3)

# %%
# One category is a bad context for all voxels together. To choose well helps the encoder whose
# variance was computed, and not the network, which has never seen such contexts in training.
#
# Another data set
# ----------------
#
# Other scenes, other voxels and a noisier scanner, read through the same features; nothing is
# learned anew.

abroad = SimulatedCortex(scenes=400, voxels=(24, 24), seed=7, scanner=Scanner(ncsnr=(0.3, 0.8)))
other_features = store.fill(abroad.basis, abroad.images())
other_vectors = encoder.embedding_.features(other_features)
there = prepare(abroad.responses())
halves = split_by_image(there, {"train": 0.5, "test": 0.5}, seed=0)
other_inputs = {**dict.fromkeys(baselines, other_vectors), "in-context": other_features}
other_curve = scaling_curve(
    encoders,
    other_inputs,
    halves.select(there, "train"),
    halves.select(there, "test"),
    lengths=(30, 100),
    draws=3,
)
table(other_curve)[columns].round(3)

# %%
# When empirical Bayes is enough
# ------------------------------
#
# It is fitted in a second, without a GPU. If voxels are one Gaussian cloud of linear encoders, or
# several, with Gaussian noise, and the clouds are known, it is the exact answer and no network does
# better on average. How far is ours from it, on voxels drawn from the prior that it estimated?
# Squared errors of the noiseless response, as a share of its mean square:

rows_of = features.indexes["image"].get_indexer
excess = excess_risk(
    encoder,
    prior,
    encoder.embedding_.transform(features, rows_of(split["train"])),
    encoder.embedding_.transform(features, rows_of(split["test"])),
    lengths=(10, 30, 100, 300),
)
excess.to_dataframe().round(3)

# %%
# A network can pay where voxels are **not** such clouds: kinds of voxels that nobody has named,
# sparse or category-selective weights, noise of another shape; and where there are very many
# training voxels to learn that from. Areas of different kinds alone are not enough of a reason: a
# mixture of Gaussians knows them too, and here it does better than one Gaussian and than the
# network. In a longer training on more voxels the network overtakes a single Gaussian with
# few images, but not with many: :doc:`/in_context` has those numbers. So fit empirical Bayes first,
# with one type and with several; then ask whether the network adds anything, on a subject that none
# of them has seen.
#
# Where features share a space with texts (CLIP, SigLIP), written encoders can also be asked in
# words: :doc:`/in_context` says how, and what the three training stages and the published weights
# need. A real run is ``neuroattn fit --config encoders/incontext_tiny.yaml --run runs/tiny``.

folder.cleanup()
