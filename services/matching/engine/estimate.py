"""What a seat may cost, guessed from a sample: where the first round looks."""

import numpy as np
from numpy.typing import NDArray

from services.matching.engine.columns import Ints
from services.matching.engine.instance import Side, topics_of

_PART = 256
_SWEEPS = 4
_SHRINK = 5
"""So many people of effect zero are put to each group: small groups say little."""


def estimated_prices(columns: Side, sampled: NDArray[np.intp], prices: Ints) -> Ints:
    """Return a price for every column, from those of a sample.

    A price is a mean plus one effect each of level, department, hours, languages, site, taste and
    of every topic with its proficiency; effects are fitted in turns to what the others leave
    (backfitting: Buja, Hastie, Tibshirani, "Linear smoothers and additive models", 1989), in
    integers, so that every machine makes the same.
    """
    lists = topics_of(columns)
    groups = [
        columns.level - columns.level.min(initial=0), columns.department, columns.hours,
        columns.tongues, columns.site, columns.taste,
    ]  # fmt: skip
    left = prices.astype(np.int64) * _PART
    mean = int(left.sum()) // max(len(left), 1)
    left -= mean
    effects = [np.zeros(int(codes.max(initial=0)) + 1, dtype=np.int64) for codes in groups]
    known = lists.of(sampled)
    owners = known.owners()
    by_key = np.argsort(known.values, kind="stable")
    keys, firsts = np.unique(known.values[by_key], return_index=True)
    members = np.split(owners[by_key], firsts[1:]) if len(keys) else []
    of_key = np.zeros(int(columns.keys.max(initial=0)) + 1, dtype=np.int64)
    for _ in range(_SWEEPS):
        for codes, effect in zip(groups, effects, strict=True):
            mine = codes[sampled]
            counts = np.bincount(mine, minlength=len(effect))
            left += effect[mine]
            # Sums of integers below 2^53 are exact, whatever holds them.
            sums = np.bincount(mine, weights=left, minlength=len(effect)).astype(np.int64)
            effect[:] = sums // (counts + _SHRINK)
            left -= effect[mine]
        for key, people in zip(keys.tolist(), members, strict=True):
            effect_now = (int(left[people].sum()) + of_key[key] * len(people)) // (
                len(people) + _SHRINK
            )
            left[people] += of_key[key] - effect_now
            of_key[key] = effect_now
    guess = np.full(len(columns.level), mean, dtype=np.int64)
    for codes, effect in zip(groups, effects, strict=True):
        guess += effect[codes]
    guess += np.bincount(lists.owners(), weights=of_key[lists.values], minlength=len(guess)).astype(
        np.int64
    )
    return np.maximum(guess // _PART, 0).astype(np.int32)
