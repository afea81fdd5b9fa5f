"""The paper's architectures."""

import pytest
import torch

from iwae_lab.console.errors import UserError
from iwae_lab.models.distributions import Bernoulli, Gaussian
from iwae_lab.models.hierarchical import HierarchicalModel
from iwae_lab.models.networks import Conditional

ARCHITECTURES = {
    1: ([50], [[200, 200]]),
    2: ([100, 50], [[200, 200], [100, 100]]),
    3: ([12, 6, 3], [[20], [10], []]),
}


def make(layers: int, pixels: int = 784) -> HierarchicalModel:
    torch.manual_seed(0)
    return HierarchicalModel(*ARCHITECTURES[layers], mean_image=torch.rand(pixels))


def images(n: int, pixels: int = 784) -> torch.Tensor:
    return (torch.rand(n, pixels, generator=torch.Generator().manual_seed(n)) < 0.3).float()


def test_one_layer_has_the_papers_parameters() -> None:
    assert sum(p.numel() for p in make(1).parameters()) == 425_284


def test_two_layer_widths_are_the_papers() -> None:
    shapes = [[tuple(linear.weight.shape) for linear in [*layer.body, *layer.heads]] for layer in make(2).encoder]
    assert shapes == [[(200, 784), (200, 200), (100, 200), (100, 200)], [(100, 100), (100, 100), (50, 100), (50, 100)]]
    shapes = [[tuple(linear.weight.shape) for linear in [*layer.body, *layer.heads]] for layer in make(2).decoder]
    assert shapes == [[(200, 100), (200, 200), (784, 200)], [(100, 50), (100, 100), (100, 100), (100, 100)]]


def test_initialisation_is_glorot_with_zero_biases_and_the_mean_image_as_output() -> None:
    mean_image = torch.linspace(0, 1, 784)
    model = HierarchicalModel([50], [[200, 200]], mean_image=mean_image)
    for name, parameter in model.named_parameters():
        if name.endswith("weight"):
            limit = (6 / sum(parameter.shape)) ** 0.5
            assert 0.98 * limit < parameter.abs().max() <= limit
        elif name != "decoder.0.heads.0.bias":
            assert not parameter.any()
    start = torch.sigmoid(model.decoder[0].heads[0].bias)
    torch.testing.assert_close(start, mean_image.clamp(0.001, 0.999))


@pytest.mark.parametrize("layers", ARCHITECTURES)
@pytest.mark.parametrize("gradient", ["total", "path", "score"])
def test_log_weights_are_log_p_minus_log_q_of_the_samples(layers: int, gradient: str) -> None:
    model, x = make(layers).double(), images(5).double()
    draw = model.draw(x, 4, gradient)  # type: ignore[arg-type]
    z = draw.z
    log_q = torch.zeros(4, 5, dtype=torch.float64)
    log_p = torch.distributions.Normal(0.0, 1.0).log_prob(z[-1]).sum(-1)
    for below, above, encode, decode in zip([x.expand(4, 5, 784), *z], z, model.encoder, model.decoder, strict=False):
        q, p = encode(below.flatten(0, 1)), decode(above.flatten(0, 1))
        log_q += torch.distributions.Normal(q.mean, q.log_std.exp()).log_prob(above.flatten(0, 1)).sum(-1).view(4, 5)
        given = (
            torch.distributions.Bernoulli(logits=p.logits)
            if isinstance(p, Bernoulli)
            else (torch.distributions.Normal(p.mean, p.log_std.exp()))
        )
        log_p += given.log_prob(below.flatten(0, 1)).sum(-1).view(4, 5)
    torch.testing.assert_close(draw.log_w, log_p - log_q)


@pytest.mark.parametrize("layers", ARCHITECTURES)
def test_the_encoder_sees_each_image_once(layers: int) -> None:
    model, rows = make(layers), []
    model.encoder[0].register_forward_hook(lambda module, inputs, output: rows.append(len(inputs[0])))
    assert model.log_weights(images(6), 9).shape == (9, 6)
    assert rows == [6]


@pytest.mark.parametrize("layers", ARCHITECTURES)
def test_samples_and_reconstructions_are_probabilities(layers: int) -> None:
    model = make(layers)
    for made in (model.sample_means(3), model.reconstruct(images(3))):
        assert made.shape == (3, 784)
        assert ((made > 0) & (made < 1)).all()


def test_reconstructions_are_of_the_image_and_samples_of_the_prior() -> None:
    """z is the image, ±6 by unit, and the pixels' logits are z."""
    model = HierarchicalModel([4], [[]], mean_image=torch.full((4,), 0.5))
    mean, log_std = model.encoder[0].heads
    (logits,) = model.decoder[0].heads
    with torch.no_grad():
        mean.weight.copy_(12 * torch.eye(4)), mean.bias.fill_(-6.0)
        log_std.weight.zero_(), log_std.bias.fill_(-9.0)
        logits.weight.copy_(torch.eye(4)), logits.bias.zero_()
    x = images(9, 4)
    torch.testing.assert_close(model.reconstruct(x), torch.sigmoid(12 * x - 6), atol=1e-4, rtol=0)
    z = torch.logit(model.sample_means(20_000))
    torch.testing.assert_close(z.mean(0), torch.zeros(4), atol=0.05, rtol=0)
    torch.testing.assert_close(z.std(0), torch.ones(4), atol=0.05, rtol=0)


@pytest.mark.parametrize("layers", ARCHITECTURES)
def test_parameters_are_either_generative_or_of_the_inference_network(layers: int) -> None:
    model = make(layers)
    parts = model.inference_parameters() + model.generative_parameters()
    assert {id(p) for p in parts} == {id(p) for p in model.parameters()}
    assert len(parts) == len(list(model.parameters()))


def test_extreme_logits_keep_log_probabilities_finite_and_right() -> None:
    logits = torch.tensor([[-200.0, 200.0, 0.0]])
    assert Bernoulli(logits).log_prob(torch.tensor([[0.0, 1.0, 1.0]])).item() == pytest.approx(-0.693147, rel=1e-5)
    assert Bernoulli(logits).log_prob(torch.tensor([[1.0, 1.0, 1.0]])).item() == pytest.approx(-200.693147, rel=1e-6)


def test_a_conditional_without_hidden_layers_is_linear() -> None:
    layer = Conditional(Gaussian, 3, [], 2)
    h = torch.randn(5, 3)
    torch.testing.assert_close(layer(2 * h).mean, 2 * layer(h).mean)


@pytest.mark.parametrize(("latents", "hidden"), [([], []), ([0], [[5]]), ([5], []), ([5], [[5], [5]]), ([5], [[0]])])
def test_refuses_widths_that_make_no_model(latents: list[int], hidden: list[list[int]]) -> None:
    with pytest.raises(UserError, match="expected"):
        HierarchicalModel(latents, hidden, mean_image=torch.rand(4))
