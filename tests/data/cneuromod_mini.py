"""A CNeuroMod of a few parcels: responses made of features by known weights and delay."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

SUBJECT = "sub-02"
PARCELS = 14
CHANNELS = 3
DELAY = 3
SAMPLES = 60
#: Two samples fewer than the scanner recorded.
SHORT = "friends-s01e01a"
NOISE = 1.0
NETWORKS = ("Vis", "SomMot", "DorsAttn", "SalVentAttn", "Limbic", "Cont", "Default")
FRIENDS = [
    f"s{season:02d}e{episode:02d}{part}"
    for season in range(1, 7)
    for episode in (1, 2)
    for part in "ab"
]
FILMS = ("bourne01", "bourne02", "figures01", "life01", "wolf01")


class Mini(NamedTuple):
    """Where the files are, and what made them."""

    root: Path
    features: Path
    parcels: Path
    weights: np.ndarray  # (window, channel, parcel), the newest moment last
    noise: float

    @property
    def ceiling(self) -> float:
        """Share of variance of one showing that is signal, for white features."""
        signal = (self.weights**2).sum(axis=(0, 1))
        return float(np.mean(signal / (signal + self.noise**2)))


def responses(table: np.ndarray, weights: np.ndarray, samples: int) -> np.ndarray:
    """Return Σ_j weights[j] · table[t - DELAY - window + 1 + j], by a plain loop."""
    window = len(weights)
    out = np.zeros((samples, weights.shape[2]))
    for t in range(samples):
        for j in range(window):
            source = min(max(t - DELAY - window + 1 + j, 0), len(table) - 1)
            out[t] += table[source] @ weights[j]
    return out


def write(folder: Path, window: int = 1, noise: float = NOISE, person: int = 0) -> Mini:
    """Write the layout of one subject, features of every episode, and a label file.

    Another person has the same weights and saw the same films, with noise of their own.
    """
    rng, own = np.random.default_rng(0), np.random.default_rng([1, person])
    weights = rng.standard_normal((window, CHANNELS, PARCELS)) / np.sqrt(window)
    features = folder / "features"
    features.mkdir(parents=True)
    tables = {}
    names = [f"friends-{part}" for part in FRIENDS] + [f"movie10-{film}" for film in FILMS]
    for name in names:
        table = rng.standard_normal((SAMPLES - 2 * (name == SHORT), CHANNELS)).astype(np.float32)
        np.save(features / f"{name}.npy", table)
        tables[name] = table
    root = folder / "algonauts_2025.competitors"
    func = root / "fmri" / SUBJECT / "func"
    func.mkdir(parents=True)

    def record(name: str) -> np.ndarray:
        signal = responses(tables[name], weights, SAMPLES)
        return (signal + noise * own.standard_normal(signal.shape)).astype(np.float32)

    begin = f"{SUBJECT}_task-"
    end = "_space-MNI152NLin2009cAsym_atlas-Schaefer18_parcel-1000Par7Net"
    with h5py.File(func / f"{begin}friends{end}_desc-s123456_bold.h5", "w") as file:
        for place, part in enumerate(FRIENDS):
            # Episodes were not all shown in their order.
            session = 1 + (place * 7) % len(FRIENDS) // 4
            file[f"ses-{session:03d}_task-{part}"] = record(f"friends-{part}")
    with h5py.File(func / f"{begin}movie10{end}_bold.h5", "w") as file:
        for film in FILMS:
            twice = film[:-2] in ("figures", "life")
            for run in (1, 2) if twice else (1,):
                key = f"ses-{run:03d}_task-{film}" + (f"_run-{run}" if twice else "")
                file[key] = record(f"movie10-{film}")
    parcels = folder / "order.txt"
    sides = ["LH"] * (PARCELS // 2) + ["RH"] * (PARCELS // 2)
    names = [f"7Networks_{side}_{NETWORKS[n % 7]}_{n // 7 + 1}" for n, side in enumerate(sides)]
    lines = [f"{n}\t{name}\t120\t18\t131\t0" for n, name in enumerate(names, start=1)]
    parcels.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return Mini(root, features, parcels, weights, noise)
