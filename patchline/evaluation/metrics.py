"""Metrics of anomaly detection: AUROC and AUPRO."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

_FALSE_POSITIVE_LIMIT = 0.3
_RATES = 301  # the number of false-positive rates of the integration


def auroc(good: NDArray[np.float32], defect: NDArray[np.float32]) -> float:
    """Area under the ROC curve: the probability that a defect has a higher score than a good image or pixel.

    Args:
        good: float32 [n], scores of good images or pixels, at least one.
        defect: float32 [m], scores of defects, at least one.
    """
    labels = np.repeat([0, 1], [good.size, defect.size])
    return float(roc_auc_score(labels, np.concatenate([good, defect])))


def aupro(heat_maps: list[NDArray[np.float32]], masks: list[NDArray[np.bool_]]) -> float:
    """Area under the per-region overlap, up to a false-positive rate of 0.3 (Bergmann et al., MVTec AD, IJCV 2021).

    The threshold at each rate is a quantile of the normal pixels. The overlap of a defect region is the share of its
    pixels above the threshold. All regions have the same weight, whatever their size.

    Args:
        heat_maps: float32 [height, width] each.
        masks: bool of the same shapes, true on defects; at least one region in total.

    Returns:
        Between 0 and 1, normalised by the limit.
    """
    normal = np.sort(np.concatenate([heat_map[~mask] for heat_map, mask in zip(heat_maps, masks, strict=True)]))
    rates = np.linspace(0.0, _FALSE_POSITIVE_LIMIT, _RATES)
    thresholds = normal[np.clip(np.ceil((1 - rates) * normal.size).astype(int) - 1, 0, normal.size - 1)]
    overlaps = []
    for heat_map, mask in zip(heat_maps, masks, strict=True):
        count, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
        for label in range(1, count):
            region = np.sort(heat_map[labels == label])
            overlaps.append(1.0 - np.searchsorted(region, thresholds, side="right") / region.size)
    return float(np.trapezoid(np.mean(overlaps, axis=0), rates) / _FALSE_POSITIVE_LIMIT)
