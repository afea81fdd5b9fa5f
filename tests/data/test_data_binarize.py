"""Binary pixels have the probabilities their grey levels say."""

import numpy as np
import pytest
import torch

from iwae_lab.data.binarize import binarize_once, resample

REPEATS = 20_000
LEVELS = np.arange(256, dtype=np.uint8)


@pytest.mark.parametrize("draw", [resample, binarize_once])
def test_pixel_is_one_with_probability_grey_level_over_255(draw):
    grey = np.tile(LEVELS, (REPEATS, 1))
    torch.manual_seed(0)
    drawn = resample(torch.from_numpy(grey)).numpy() if draw is resample else binarize_once(grey, "static", seed=0)
    assert set(np.unique(drawn)) == {0, 1}
    p = LEVELS / 255
    excess = drawn.mean(0) - p
    assert excess[0] == excess[255] == 0  # black and white are certain
    standard_error = np.sqrt(p * (1 - p) / REPEATS)[1:-1]
    assert np.abs(excess[1:-1] / standard_error).max() < 4.5
    # 256 thresholds in the place of 255 would move the sum by 0.5
    assert abs(excess.sum()) < 4 * np.sqrt((standard_error**2).sum()) < 0.2


def test_resampling_is_new_each_time_and_follows_torchs_seed():
    grey = torch.full((20, 784), 128, dtype=torch.uint8)
    torch.manual_seed(0)
    first, second = resample(grey), resample(grey)
    assert first.dtype == torch.float32
    assert (first != second).any()
    torch.manual_seed(0)
    torch.testing.assert_close(resample(grey), first, rtol=0, atol=0)


def test_binary_images_survive_resampling():
    binary = torch.randint(0, 2, (50, 784), dtype=torch.uint8)
    torch.testing.assert_close(resample(binary * 255), binary.float(), rtol=0, atol=0)


def test_threshold_is_a_probability_of_one_half():
    np.testing.assert_array_equal(binarize_once(LEVELS, "threshold", seed=0), LEVELS / 255 >= 0.5)
