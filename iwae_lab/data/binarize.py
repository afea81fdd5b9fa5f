"""Grey levels to binary pixels."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["binarize_once", "resample"]


def resample(images: Tensor) -> Tensor:
    """Draw each pixel: 1 with probability grey level / 255. uint8 -> float32, same shape.

    Levels 0 and 255 always give 0 and 1, so binary images are unchanged.
    """
    thresholds = torch.randint(0, 255, images.shape, dtype=torch.uint8, device=images.device)
    return (thresholds < images).float()


def binarize_once(images: NDArray[np.uint8], binarization: str, seed: int) -> NDArray[np.uint8]:
    """Fixed 0/1 pixels: with binarization="threshold" 1 from a probability of one half, else one draw.

    NumPy guarantees RandomState's stream, so the draw is the same on every machine.
    """
    if binarization == "threshold":
        return (images >= 128).astype(np.uint8)  # 128 / 255 is the first level not below one half
    thresholds = np.random.RandomState(seed).randint(0, 255, images.shape, dtype=np.uint8)
    return (thresholds < images).astype(np.uint8)
