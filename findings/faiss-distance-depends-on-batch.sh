#!/bin/sh
# faiss-cpu 1.15.1: the distance that IndexFlatL2 gives to one and the same query depends on how many queries are asked
# at once. From queries x dimensions = 128,000 on it computes |q|^2 + |b|^2 - 2qb by matrix products, and loses digits
# if the features have a large mean, as those of networks have. A query near its neighbour then gets a distance of 0.
#
# Seen: the largest relative error over ten queries, asked alone and among 3,000 others:
#   mean 30: alone below 1e-6, among 3,000 about 1; over a hundred distances are exactly 0, and none is in truth
#
# Patchline subtracts the mean of a bank and measures the distance again by the difference.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check faiss-cpu==1.15.1 numpy==2.4.6
"$folder/env/bin/python" - <<'PYTHON'
import sys

import faiss
import numpy as np

rng = np.random.default_rng(0)
bank = rng.standard_normal((1000, 64)).astype(np.float32) + np.float32(30)
queries = bank[rng.integers(0, 1000, 3000)] + np.float32(0.02) * rng.standard_normal((3000, 64)).astype(np.float32)
index = faiss.IndexFlatL2(64)
index.add(bank)
among_many = index.search(queries, 1)[0][:, 0]
alone = index.search(queries[:10], 1)[0][:, 0]
differences = queries[:10, None].astype(np.float64) - bank[None]
true = (differences**2).sum(axis=2).min(axis=1)
error_alone, error_among_many = (float(np.abs(found / true - 1).max()) for found in (alone, among_many[:10]))
zeros = int((among_many == 0).sum())
print(f"relative error alone {error_alone:.1e}, among 3,000 {error_among_many:.1e}; distances of 0: {zeros}")
sys.exit(0 if error_alone < 1e-5 and error_among_many > 0.05 and zeros > 0 else 1)
PYTHON
