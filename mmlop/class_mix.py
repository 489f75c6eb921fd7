"""Which reference pictures to compare with, where logged pictures seem to be of another mix of classes.

A classifier that is not always right takes pictures of classes that are rare in use for others, so that even pictures taken
for the same class differ from the reference where the mix does. The reference is therefore thinned to the mix in use, which
is known from predictions alone, and only roughly: hence several mixes.
"""

from __future__ import annotations

import numpy as np

MIXES = 5
ROUNDS = 50  # of EM
MISSING = 0.05  # share of the reference pictures of a mix that may be missing


def plausible(truth: np.ndarray, predicted: np.ndarray, logged: np.ndarray, seed: int = 0) -> list[np.ndarray]:
    """Rows of the reference, with true classes ``truth`` [N] and ``predicted`` ones [N], in mixes that logged pictures may
    have, which are taken for ``logged`` [M]: the likeliest, and those of bootstrap samples of both."""
    generator = np.random.default_rng(seed)
    found = []
    for number in range(MIXES):
        rows, some = np.arange(len(truth)), logged
        if number:
            rows, some = generator.choice(rows, len(rows)), generator.choice(logged, len(logged))
        classes, mix = mix_of(truth[rows], predicted[rows], some)
        found.append(_thinned(truth, classes, mix, generator))
    return found


def mix_of(truth: np.ndarray, predicted: np.ndarray, logged: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The true classes [C] and their shares [C] under which predictions ``logged`` are most likely, given how often the
    reference's pictures of each class are taken for which: by EM, from the reference's own shares."""
    classes, true = np.unique(truth, return_inverse=True)
    counts = np.bincount(true)
    names = np.union1d(predicted, logged)
    taken = np.zeros((len(names), len(classes)))  # P(predicted | true)
    np.add.at(taken, (np.searchsorted(names, predicted), true), 1 / counts[true])
    seen = np.bincount(np.searchsorted(names, logged), minlength=len(names)) / len(logged)
    mix = counts / counts.sum()
    for _ in range(ROUNDS):
        mix = mix * (taken.T @ (seen / np.maximum(taken @ mix, 1e-12)))
        if not mix.sum():  # nothing of what is logged is ever predicted of the reference
            return classes, counts / counts.sum()
        mix = mix / mix.sum()
    return classes, mix


def _thinned(truth: np.ndarray, classes: np.ndarray, mix: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """As many rows as there are in this mix, sorted."""
    counts = np.array([(truth == name).sum() for name in classes])
    sizes = np.arange(len(truth), 0, -1)
    missing = np.maximum(mix - counts / sizes[:, None], 0).sum(axis=1)
    size = sizes[np.argmax(missing <= MISSING)]
    wanted = np.minimum(np.round(mix * size), counts).astype(int)
    rows = [
        generator.choice(np.flatnonzero(truth == name), few, replace=False)
        for name, few in zip(classes, wanted, strict=True)
    ]
    return np.sort(np.concatenate(rows))
