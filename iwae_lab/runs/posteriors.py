"""Draw true beside approximate posteriors: python -m iwae_lab.runs.posteriors RUN_DIR [RUN_DIR …] --to FILE.png

Runs need two latent units (model.latents=[2]), as sweeps/posteriors.yaml trains them; quadrature gives the true
posterior. The figure has a row per validation image, and for each run p(z | x) and q(z | x) on the same square
(Burda et al. 2016, appendix: "visualization of posterior distributions"). Each run has its own figure in
figures/posteriors.png.
"""

import argparse
from pathlib import Path

from iwae_lab.console.errors import UserError, require
from iwae_lab.console.explain import one_line_errors
from iwae_lab.console.images import write_png
from iwae_lab.evaluation.posterior_grid import posterior_grid
from iwae_lab.runs.trained import TrainedRun
from iwae_lab.training.figures.posteriors import IMAGES, posterior_figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN_DIR")
    parser.add_argument("--to", type=Path, required=True, metavar="FILE.png")
    parser.add_argument("--images", type=int, default=IMAGES, metavar="N", help=f"how many images ({IMAGES})")
    arguments = parser.parse_args()
    require("--to", arguments.to, arguments.to.suffix == ".png", "a file that ends in .png")
    require("--images", arguments.images, arguments.images >= 1, "a number of at least 1")
    runs = [TrainedRun.read(folder) for folder in arguments.runs]
    if len({run.data.content for run in runs}) > 1:
        raise UserError(f"{' '.join(map(str, arguments.runs))}: expected runs on the same images")
    images, grids = runs[0].data.val[: arguments.images], {}
    for folder, run in zip(arguments.runs, runs, strict=True):
        grid = posterior_grid(run.model, images.to(run.experiment.device))
        title = f"{run.record.objective} k={run.record.k}, seed {run.record.seed}"
        grids[folder.name if title in grids else title] = grid
    write_png(arguments.to, posterior_figure(images, run.data.shape, grids))
    print(arguments.to)


if __name__ == "__main__":
    with one_line_errors():
        main()
