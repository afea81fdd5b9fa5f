"""What the pictures of a measured model show."""

import numpy as np
import pytest
import torch
from PIL import Image

from iwae_lab.models.hierarchical import HierarchicalModel
from iwae_lab.training.figures.latents import interpolations, traversals
from iwae_lab.training.figures.plots import threshold_sensitivity, tightness

METRICS = {
    "test/nll": 85.0, "test/nll_se": 0.2, "test/nll_k": 5000, "test/nll_1": 90.0, "test/nll_1_se": 0.3,
    "test/nll_50": 86.0, "test/nll_50_se": 0.2, "test/nll_active_only": 85.1,
    "test/active_units": [2, 1], "test/active_units_low": [2, 1], "test/active_units_high": [3, 1],
    "test/active_units_authors": [2, 2], "test/unit_variances": [[0.5, 0.2, 0.005], [0.9, -1e-9]],
}  # fmt: skip
RED, BLUE, GREEN = (0xCC, 0x33, 0x11), (0x44, 0x77, 0xAA), (0x22, 0x88, 0x33)


def of_color(picture: Image.Image, color: tuple[int, int, int]) -> np.ndarray:
    """The places (row, column) of its pixels of that color."""
    return np.argwhere((np.asarray(picture) == color).all(-1))


def test_ais_is_a_line_below_the_curve_where_it_was_made():
    without = tightness(METRICS)
    assert len(of_color(without, BLUE)) and not len(of_color(without, RED))
    ais = {"test/ais/gain": 0.5, "test/ais/gain_se": 0.01, "test/ais/images": 100}
    found = tightness(METRICS | ais)
    below_legend = found.crop((0, found.height // 2, found.width, found.height))
    assert of_color(below_legend, RED)[:, 0].min() > np.median(of_color(below_legend, BLUE)[:, 0])
    assert found != tightness(METRICS | ais | {"test/ais/gain": 1.0})


def test_a_layer_has_a_line_that_falls_with_the_threshold():
    found = threshold_sensitivity(METRICS)
    assert len(of_color(found, RED))
    rows, columns = of_color(found, BLUE).T
    three, two = (rows[abs(columns / found.width - share) < 0.01] for share in (0.2, 0.6))  # at 10^-5.7 and 10^-1.5
    assert three.max() < two.min()
    assert len(of_color(found, GREEN))
    one = threshold_sensitivity(
        {name: entry[:1] if isinstance(entry, list) else entry for name, entry in METRICS.items()}
    )
    assert not len(of_color(one, GREEN))


@pytest.fixture
def model() -> HierarchicalModel:
    torch.manual_seed(0)
    return HierarchicalModel([5, 3], [[6], [4]], mean_image=torch.rand(12))


@torch.no_grad()
def test_interpolations_go_from_one_reconstruction_to_the_other(model):
    x = torch.rand(5, 12).round()
    means = model.encoder[0](x).mean
    rows = interpolations(model, x, means).view(2, 10, 12)  # the fifth image has no partner
    assert torch.equal(rows[:, [0, 9]].flatten(0, 1), x[:4])
    ends = model.decoder[0](means[:4]).mean
    torch.testing.assert_close(rows[:, [1, 8]].flatten(0, 1), ends)
    halfway = model.decoder[0](means[0] + (means[1] - means[0]) * 3 / 7).mean
    torch.testing.assert_close(rows[0, 4], halfway)


@torch.no_grad()
def test_traversals_vary_one_unit_of_the_top_layer_at_a_time_the_most_active_first(model):
    model.decoder[1].body[0].weight[:, 1] = 0  # nothing looks at unit 1
    top = torch.tensor([0.3, -0.2, 0.7])
    rows = traversals(model, top, torch.tensor([0.1, 0.9, 0.5])).view(3, 10, 12)
    assert torch.equal(rows[0], rows[0, :1].expand(10, -1))

    def drawn(z):
        return model.decoder[0](model.decoder[1](z).mean).mean

    torch.testing.assert_close(rows[0, 0], drawn(top))
    for row, unit in ((1, 2), (2, 0)):
        for column, value in ((0, -3.0), (9, 3.0), (3, -1.0)):
            z = top.clone()
            z[unit] = value
            torch.testing.assert_close(rows[row, column], drawn(z))
