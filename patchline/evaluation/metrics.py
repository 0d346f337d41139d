"""How good a category's judgement is: ranking, localisation, and the decisions at its thresholds."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

_FALSE_POSITIVE_LIMIT = 0.3
_GRID = 301


def auroc(good: NDArray[np.float32], defect: NDArray[np.float32]) -> float:
    """Area under the ROC curve: the chance that a defect scores higher than a good one.

    Args:
        good: float32 [n], scores of good images or pixels; at least one.
        defect: float32 [m], scores of defects; at least one.
    """
    labels = np.repeat([0, 1], [good.size, defect.size])
    return float(roc_auc_score(labels, np.concatenate([good, defect])))


def aupro(heats: list[NDArray[np.float32]], masks: list[NDArray[np.bool_]]) -> float:
    """Area under the per-region overlap, up to a false-positive rate of 0.3 (Bergmann et al., MVTec AD, IJCV 2021).

    At each rate the threshold is the quantile of the normal pixels; the overlap of a defect region is the share of its
    pixels above it; regions count alike, whatever their size.

    Args:
        heats: float32 [height, width] each.
        masks: bool of the same shapes, true on defects; at least one region in all.

    Returns:
        Between 0 and 1, normalised by the limit.
    """
    normal = np.sort(np.concatenate([heat[~mask] for heat, mask in zip(heats, masks, strict=True)]))
    rates = np.linspace(0.0, _FALSE_POSITIVE_LIMIT, _GRID)
    thresholds = normal[np.clip(np.ceil((1 - rates) * normal.size).astype(int) - 1, 0, normal.size - 1)]
    overlaps = []
    for heat, mask in zip(heats, masks, strict=True):
        count, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
        for label in range(1, count):
            region = np.sort(heat[labels == label])
            overlaps.append(1.0 - np.searchsorted(region, thresholds, side="right") / region.size)
    return float(np.trapezoid(np.mean(overlaps, axis=0), rates) / _FALSE_POSITIVE_LIMIT)
