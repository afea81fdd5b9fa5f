"""Matplotlib's figures as pixels and as files. Imports no torch, for the comparison."""

import io
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from iwae_lab.console.atomic import write_atomically

__all__ = ["rendered", "write_png"]


def write_png(path: Path, image: Image.Image) -> None:
    """Write the image, whole or not at all."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    write_atomically(path, buffer.getvalue())


def rendered(figure: Figure) -> Image.Image:
    """The figure's pixels."""
    figure.set_dpi(150)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
