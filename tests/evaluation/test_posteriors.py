"""Posteriors of two latent units on a grid, and quadrature as an independent measure of log p(x)."""

import numpy as np
import pytest
import torch
from helpers.oracle import X, linear_gaussian, sigmoid_belief
from PIL import Image

from iwae_lab.console.errors import UserError
from iwae_lab.evaluation.ais import Annealing, ais
from iwae_lab.evaluation.gaps import encoder_gaps
from iwae_lab.evaluation.likelihood import likelihood
from iwae_lab.evaluation.posterior_grid import PosteriorGrid, posterior_grid
from iwae_lab.models.hierarchical import HierarchicalModel
from iwae_lab.runs.run import run
from iwae_lab.training.figures.posteriors import posterior_figure


def test_the_posterior_is_the_gaussian_that_it_is_known_to_be():
    model = linear_gaussian(1)
    x = torch.cat([X, -X])
    found = posterior_grid(model, x, extent=8)
    torch.testing.assert_close(found.log_p, model.log_marginal(x).detach(), rtol=1e-9, atol=0)
    with torch.no_grad():
        decoder = model.decoder[0]
        noise = torch.diag((-2 * decoder.log_std).exp())
        precision = torch.eye(2, dtype=torch.float64) + decoder.weight.T @ noise @ decoder.weight
        means = (x - decoder.bias) @ noise @ decoder.weight @ precision.inverse()
        q = model.encoder[0](x)
    z = torch.stack([found.axis.expand(200, 200), found.axis.unsqueeze(1).expand(200, 200)], dim=-1)  # rows are z_2
    for image in (0, 1):
        true = torch.distributions.MultivariateNormal(means[image], precision_matrix=precision)
        torch.testing.assert_close(found.true[image], true.log_prob(z).exp())
        approximate = torch.distributions.Normal(q.mean[image], q.log_std[image].exp())
        torch.testing.assert_close(found.approximate[image], approximate.log_prob(z).sum(-1).exp())


def trained() -> tuple[HierarchicalModel, torch.Tensor]:
    """A model whose posteriors are no Gaussians."""
    torch.manual_seed(0)
    model, x = HierarchicalModel([2], [[20]], mean_image=torch.full((12,), 0.4)).double(), torch.rand(12, 12) < 0.4
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(300):
        optimizer.zero_grad()
        (-model.log_weights(x.double(), 5).mean()).backward()
        optimizer.step()
    return model, x.byte()


def test_every_estimate_of_log_p_agrees_with_quadrature():
    model, x = trained()
    exact = posterior_grid(model, x, extent=7).log_p
    torch.testing.assert_close(posterior_grid(model, x, extent=7, size=100).log_p, exact, rtol=0, atol=1e-4)
    bound = likelihood(model, x, 5000)
    reliable = bound.pareto_k < 0.7
    assert reliable.double().mean() > 0.7 and (bound.bound < exact + 0.1).all()
    torch.testing.assert_close(bound.bound[reliable], exact[reliable], rtol=0, atol=0.1)
    annealed = ais(model, x.double(), Annealing(64, 200)).bound
    torch.testing.assert_close(annealed, exact, rtol=0, atol=0.1)
    gaps = encoder_gaps(model, x, exact, steps=300)
    assert gaps.approximation.min() > 0 and gaps.amortization.mean() > 0
    torch.testing.assert_close(gaps.approximation + gaps.amortization, exact - gaps.elbo)


def test_other_models_have_no_grid():
    torch.manual_seed(0)
    for latents in ([3], [2, 2]):
        model = HierarchicalModel(latents, [[4] for _ in latents], mean_image=torch.rand(2))
        with pytest.raises(UserError, match=rf"^latents=\[{latents[0]}.*: expected \[2\]"):
            posterior_grid(model, torch.ones(1, 2))
    with pytest.raises(UserError, match="two continuous latent units"):
        posterior_grid(sigmoid_belief(1), X.round().clamp(0, 1))


def test_both_posteriors_are_seen_in_one_frame():
    model, x = trained()
    grid = posterior_grid(model, x[:3])
    picture = posterior_figure(x[:3], (3, 4), {"a": grid, "b": grid})
    assert picture.width > picture.height > 300
    assert len(np.unique(np.asarray(picture.convert("L")))) > 50
    assert picture != posterior_figure(x[:3], (3, 4), {"a": grid, "c": grid}), "columns are named"


def test_frames_end_where_the_grid_does():
    def white(row: int, column: int) -> int:
        density = torch.zeros(1, 20, 20)
        density[0, row, column] = 1
        grid = PosteriorGrid(torch.linspace(-1, 1, 20), torch.zeros(1), density, density)
        return int((np.asarray(posterior_figure(torch.ones(1, 4), (2, 2), {"": grid})) == 255).all(-1).sum())

    assert white(0, 19) == white(10, 10)


@pytest.mark.slow
def test_from_the_command_line(composed, cli, tiny, tmp_path):
    folder = tmp_path / "runs" / run(composed(*tiny, "model.latents=[2]", "schedule.epochs=1")).run_id
    assert (folder / "figures" / "posteriors.png").exists()
    folders = [str(folder)] * 2  # of one title
    done = cli("-m", "iwae_lab.runs.posteriors", *folders, "--to", str(tmp_path / "posteriors.png"), "--images", "2")
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "posteriors.png") as picture:
        assert picture.width > 2 * picture.height
    refused = cli("-m", "iwae_lab.runs.posteriors", *folders, "--to", str(tmp_path / "posteriors.jpg"))
    assert refused.returncode == 1 and refused.stderr.endswith("expected a file that ends in .png\n")
