"""Grey levels 0..255 from what files hold."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["grey_levels"]

_BLOCK = 1024  # images converted at a time, so that floats are never held twice


def grey_levels(values: NDArray[Any]) -> NDArray[np.uint8]:
    """uint8 levels of the same shape: as they are, 0 and 255 for booleans, 255·v rounded for floats in [0, 1].

    Rounding moves a probability by at most 1/510. Raises `ValueError` for other values, among them integers
    0 and 1, which would be nearly black.
    """
    if values.dtype == bool:
        return values * np.uint8(255)
    if values.dtype == np.uint8:
        if values.max(initial=0) == 1:
            raise ValueError("expected grey levels 0 to 255, found none above 1 (booleans are taken for binary images)")
        return values
    if values.dtype.kind != "f":
        raise ValueError(f"expected uint8, bool or floats in [0, 1], found {values.dtype}")
    low, high = values.min(initial=0), values.max(initial=0)  # NaN if any value is
    if np.isnan(low):
        raise ValueError("expected floats in [0, 1], found NaN")
    if low < 0 or high > 1:
        raise ValueError(f"expected floats in [0, 1], found {values.min():.9g} to {values.max():.9g}")
    levels = np.empty(values.shape, np.uint8)
    for start in range(0, len(values), _BLOCK):
        levels[start : start + _BLOCK] = np.rint(values[start : start + _BLOCK] * 255)
    return levels
