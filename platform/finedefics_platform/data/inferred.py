"""Which inferred labels are taken: one rule for whoever counts them and for whoever reads them."""

import numpy as np
import numpy.typing as npt


def is_sure(probability: npt.NDArray[np.float32], least: float) -> npt.NDArray[np.bool_]:
    """Of which rows the inferred label is taken, [rows].

    Args:
        probability: as stored, [rows]; -1 where nothing was inferred.
        least: from 0 to 1. It is rounded as probabilities are when they are stored: one that was 0.9 is sure
            enough at 0.9.
    """
    return np.greater_equal(probability, np.float32(least))
