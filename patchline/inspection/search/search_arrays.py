"""A search as named arrays, from which the same search is made in another process, where nothing is computed again."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from patchline.inspection.search.exact_search import CandidateSearch, Search
from patchline.inspection.search.lower_bounds import LowerBounds, Projection

Arrays = Mapping[str, NDArray[np.float32]]


def arrays_of(search: Search) -> Arrays:
    """Return everything that a search consists of, float32; brute force has no `components`."""
    arrays = {"features": search.features, "mean": search.mean, "centred": search.centred}
    if search.lower_bounds is None or search.candidates is None:
        return arrays
    bounds, candidates = search.lower_bounds.rows, search.candidates.rows
    return arrays | {
        "components": search.lower_bounds.projection.components,
        "bounds": bounds,
        "candidates": candidates,
    }


def search_of(arrays: Arrays) -> Search:
    """Return the search that consists of these arrays, which it only reads."""
    features, mean, centred = arrays["features"], arrays["mean"], arrays["centred"]
    if "components" not in arrays:
        return Search(features, mean, centred)
    projection = Projection(mean, arrays["components"])
    candidates = CandidateSearch.of_rows(arrays["candidates"], projection)
    return Search(features, mean, centred, LowerBounds(projection, arrays["bounds"]), candidates)
