"""Made-up rows for a student: near real ones, so that a teacher's opinion of them says more of what it has learned."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.core.encoder import MISSING, Places
from tasks.core.rows import Rows

NEAREST = 3  # places in the order within which rows lend each other values
LENT = 0.2  # chance that a row's column is another row's


def mix_rows(rows: Rows, scores: NDArray[Any], places: Places, texts: int, count: int, seed: int) -> Rows:
    """So many rows, each a real one in which a fifth of the columns (`places` of each) are those of a similar row; target 0.

    Of texts, whose codes stand in the columns of `cat` from `texts` on, a fifth of the words is left out besides.

    MUNGE (Bucila et al. 2006, "Model compression") with neighbours in a random direction of numbers and scores instead of the
    nearest ones, which would take as long as the square of the rows. Distilling on such rows: Fakoor et al. 2020, arXiv 2006.14284.
    """
    random = np.random.default_rng(seed)
    known = scores.reshape(len(rows), -1)
    views = [np.asarray(rows.num), known / (known.std(axis=0) + 1e-9)]
    made: list[dict[str, NDArray[Any]]] = []
    for start in range(0, count, max(len(rows), 1)):
        direction = sum(view @ random.normal(size=view.shape[1]) for view in views)
        order = np.argsort(direction, kind="stable")
        step = random.integers(1, NEAREST + 1, len(rows)) * random.choice([-1, 1], len(rows))
        partner = np.empty(len(rows), np.int64)
        partner[order] = order[(np.arange(len(rows)) + step) % len(rows)]
        part = random.permutation(len(rows))[: min(len(rows), count - start)]
        lenders = partner[part]
        arrays = {name: np.asarray(array)[part] for name, array in rows.inputs.items()}
        for own in places.values():
            lent = np.flatnonzero(random.random(len(part)) < LENT)
            for array, columns in own.items():
                at = np.asarray(columns)
                arrays[array][np.ix_(lent, at)] = np.asarray(rows.inputs[array])[np.ix_(lenders[lent], at)]
        words = arrays["cat"][:, texts:]
        words[random.random(words.shape) < LENT] = MISSING
        made.append(arrays)
    inputs = {name: np.concatenate([one[name] for one in made]) for name in rows.inputs} if made else dict(rows.head(0).inputs)
    return Rows(inputs, np.zeros(count, np.float32))
