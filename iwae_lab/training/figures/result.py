"""All figures of a trained and measured model."""

from typing import Any

from PIL import Image

from iwae_lab.data.protocol import Data
from iwae_lab.evaluation.active_units import ActiveUnits
from iwae_lab.evaluation.posterior_grid import posterior_grid
from iwae_lab.models.base import LatentVariableModel
from iwae_lab.training.figures.latents import latent_figures
from iwae_lab.training.figures.plots import threshold_sensitivity, tightness, training_curve
from iwae_lab.training.figures.posteriors import IMAGES, posterior_figure
from iwae_lab.training.figures.samples import model_figures

__all__ = ["result_figures"]


def result_figures(
    model: LatentVariableModel,
    data: Data,
    units: ActiveUnits,
    metrics: dict[str, Any],
    curve: list[dict[str, float]] | None = None,
) -> dict[str, Image.Image]:
    """All figures by name. units, metrics: as measured on the test images. curve: the metrics of each epoch, if
    trained here."""
    figures = model_figures(model, data.val, data.shape, units)
    continuous = latent_figures(model, data.test, data.shape, units)
    if continuous and [len(variances) for variances in units.variances] == [2]:
        images = data.val[:IMAGES]
        grid = posterior_grid(model, images.to(next(model.parameters()).device))
        continuous["posteriors"] = posterior_figure(images, data.shape, {"": grid})
    figures |= continuous
    figures |= {"tightness": tightness(metrics), "active_units": threshold_sensitivity(metrics)}
    return figures | ({"training_curve": training_curve(curve)} if curve else {})
