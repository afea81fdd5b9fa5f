"""Streaming likelihoods and active units."""

from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from helpers.oracle import X, linear_gaussian
from torch import Tensor, nn

from iwae_lab.bounds import ess, iwae_bound
from iwae_lab.console.errors import UserError
from iwae_lab.evaluation.active_units import WithoutUnits, active_units, authors_counts
from iwae_lab.evaluation.ais import ais
from iwae_lab.evaluation.diagnostics import diagnose
from iwae_lab.evaluation.gaps import encoder_gaps
from iwae_lab.evaluation.images import pick
from iwae_lab.evaluation.likelihood import SEED, likelihood
from iwae_lab.evaluation.noise import image_noise
from iwae_lab.evaluation.overfitting import overfitting
from iwae_lab.evaluation.posterior_grid import posterior_grid
from iwae_lab.evaluation.standard import standard_results
from iwae_lab.models.base import LatentVariableModel
from iwae_lab.models.distributions import Bernoulli, Gaussian, StandardNormal
from iwae_lab.models.hierarchical import HierarchicalModel
from iwae_lab.models.sigmoid_belief import SigmoidBeliefNetwork


@pytest.fixture
def model() -> HierarchicalModel:
    torch.manual_seed(0)
    model = HierarchicalModel([6, 4], [[10], [8]], mean_image=torch.rand(20))
    with torch.no_grad():  # weights large enough that images, samples and layers matter
        for parameter in model.parameters():
            parameter.mul_(1.3)
    return model.double()


def images(n: int) -> Tensor:
    return (torch.rand(n, 20, generator=torch.Generator().manual_seed(1)) < 0.4).byte()


@pytest.mark.parametrize("rows", [50, 500, 1250, 7000])
@pytest.mark.parametrize("k", [1, 130, 250, 700])
def test_bounds_are_those_of_all_log_weights_at_once_whatever_the_batches(
    model: HierarchicalModel, rows: int, k: int
) -> None:
    x = images(13)
    log_w = model.log_weights(x.double(), k, image_noise(SEED, range(13), x.device)).detach()
    found = likelihood(model, x, k, rows=rows)
    torch.testing.assert_close(found.bound, iwae_bound(log_w), rtol=1e-12, atol=0)
    torch.testing.assert_close(found.elbo, log_w.mean(0), rtol=1e-12, atol=0)
    torch.testing.assert_close(found.ess, ess(log_w), rtol=1e-9, atol=0)
    assert list(found.bounds) == sorted({n for n in (1, 5, 50, 500) if n < k} | {k})
    for n, bound in found.bounds.items():
        torch.testing.assert_close(bound, iwae_bound(log_w[:n]), rtol=1e-12, atol=0)


def test_bounds_do_not_depend_on_the_other_images(model: HierarchicalModel) -> None:
    x = images(11)
    torch.testing.assert_close(likelihood(model, x[:4], 60).bound, likelihood(model, x, 60).bound[:4])


def test_bounds_depend_on_the_seed_and_not_on_the_global_generator(model: HierarchicalModel) -> None:
    before = torch.get_rng_state()
    first = likelihood(model, images(5), 10).bound
    assert torch.equal(torch.get_rng_state(), before)
    torch.randn(3)
    assert torch.equal(likelihood(model, images(5), 10).bound, first)
    assert not torch.equal(likelihood(model, images(5), 10, seed=1).bound, first)


def test_streams_differ_between_images_and_layers(model: HierarchicalModel) -> None:
    seen: list[Tensor] = []

    def log_weights(x: Tensor, k: int, noise: object) -> Tensor:
        draw = model.draw(x, k, noise=noise)  # type: ignore[arg-type]
        seen.extend(draw.z)
        return draw.log_w

    model.log_weights = log_weights  # type: ignore[method-assign, assignment]
    likelihood(model, images(1).repeat(3, 1), 50)
    z = seen[0]
    assert len({tuple(row.tolist()) for row in z.flatten(0, 1)[:, :2]}) == 150


def test_the_bound_is_the_one_function_of_the_log_weights(model: HierarchicalModel) -> None:
    log_w = torch.randn(40, 3, dtype=torch.float64)
    model.log_weights = lambda x, k, noise: log_w[:k, : len(x)]  # type: ignore[method-assign, assignment, misc]
    found = likelihood(model, images(3), 40)
    torch.testing.assert_close(found.bound, iwae_bound(log_w))
    assert found.nll == pytest.approx(-iwae_bound(log_w).mean().item())
    assert found.nll_se == pytest.approx(iwae_bound(log_w).std().item() / 3**0.5)


def test_more_samples_give_a_tighter_bound_and_agree_with_fresh_ones(model: HierarchicalModel) -> None:
    x = images(40)
    bounds = [likelihood(model, x, k).nll for k in (1, 10, 100, 1000)]
    assert bounds == sorted(bounds, reverse=True)
    torch.manual_seed(1)
    with torch.no_grad():
        fresh = torch.stack([iwae_bound(model.log_weights(x.double(), 100)).mean() for _ in range(40)])
    streamed = torch.tensor([-likelihood(model, x, 100, seed=seed).nll for seed in range(40)])
    standard_error = ((fresh.var() + streamed.var()) / 40).sqrt()
    assert (fresh.mean() - streamed.mean()).abs() < 4 * standard_error


def test_grey_levels_are_refused_where_pixels_are_bernoulli(model: HierarchicalModel) -> None:
    for measure in (
        lambda x: likelihood(model, x, 10),
        lambda x: active_units(model, x),
        lambda x: authors_counts(model, x),
        lambda x: ais(model, x),
        lambda x: diagnose(model, x, 10),
        lambda x: encoder_gaps(model, x, torch.zeros(3)),
        lambda x: posterior_grid(HierarchicalModel([2], [[4]], mean_image=torch.rand(x.shape[1])), x),
    ):
        with pytest.raises(UserError, match="expected 0 and 1 alone"):
            measure(images(3) * 0.5)
    assert likelihood(linear_gaussian(1), torch.rand(3, X.shape[-1]), 10).nll > 0


def test_a_path_is_no_model() -> None:
    with pytest.raises(UserError, match=r"^model of type str: expected a LatentVariableModel"):
        likelihood("runs/RUN", X, 10)  # type: ignore[arg-type]


@pytest.mark.parametrize("given", [*map(torch.zeros, [(784,), (3, 28, 28), (0, 784)]), np.zeros((3, 784))])
def test_images_are_a_matrix(model: HierarchicalModel, given: Any) -> None:
    with pytest.raises(
        UserError, match=r"expected (a torch tensor \[images, pixels\]|\[images, pixels\] and at least one image)"
    ):
        likelihood(model, given, 10)


def test_there_are_two_images_for_a_variance(model: HierarchicalModel) -> None:
    with pytest.raises(UserError, match="images=1: expected at least 2"):
        active_units(model, images(1))


def test_there_is_at_least_one_sample(model: HierarchicalModel) -> None:
    with pytest.raises(UserError, match=r"^k=0: expected an integer of at least 1"):
        likelihood(model, images(3), 0)


def test_memory_does_not_grow_with_k(model: HierarchicalModel) -> None:
    def peak(k: int) -> int:
        sizes: list[int] = []
        original = model.log_weights
        model.log_weights = lambda x, k, noise: (sizes.append(k * len(x)), original(x, k, noise))[1]  # type: ignore[method-assign, assignment, misc, func-returns-value]
        likelihood(model, images(30), k, rows=500)
        model.log_weights = original  # type: ignore[method-assign]
        return max(sizes)

    assert peak(500) == peak(5000) <= 500


def linear_encoder(pixel_weights: Tensor, log_std: float, latents: list[int]) -> HierarchicalModel:
    """q(z_1 | x) with means x·pixel_weights [pixels, units] and one σ; layers above still random."""
    model = HierarchicalModel(
        latents, [[] for _ in latents], mean_image=torch.full((len(pixel_weights),), 0.5)
    ).double()
    mean, log_sigma = model.encoder[0].heads
    mean.weight.data.copy_(pixel_weights.T)
    log_sigma.weight.data.zero_()
    log_sigma.bias.data.fill_(log_std)
    return model


def half_and_half(n: int, pixels: int) -> Tensor:
    """Pixel 0 is 1 in every second image; the others are 0."""
    x = torch.zeros(n, pixels, dtype=torch.uint8)
    x[::2, 0] = 1
    return x


def test_active_units_know_just_above_from_just_below_the_threshold() -> None:
    n = 200
    pixel_variance = 0.25 * n / (n - 1)
    scales = [(0.0101 / pixel_variance) ** 0.5, (0.0099 / pixel_variance) ** 0.5, 0.0, 3.0]
    weights = torch.zeros(5, 4)
    weights[0] = torch.tensor(scales)
    model = linear_encoder(weights, log_std=2.0, latents=[4])  # samples vary by far more than means
    model.encoder[0].heads[0].bias.data[2] = 3.0
    found = active_units(model, half_and_half(n, 5))
    torch.testing.assert_close(found.means[0], weights[0].double() / 2 + torch.tensor([0, 0, 3.0, 0]))
    expected = torch.tensor([0.0101, 0.0099, 0.0, 9 * pixel_variance], dtype=torch.float64)
    torch.testing.assert_close(found.variances[0], expected, rtol=1e-6, atol=1e-12)
    assert found.active[0].tolist() == [True, False, False, True]
    assert found.counts == [2]


def second_layer_follows(n: int) -> HierarchicalModel:
    """Unit 0 above follows a unit that is all noise, unit 1 one that has a signal of variance 0.05 in n images."""
    weights = torch.zeros(5, 2)
    weights[0, 1] = (0.05 / (0.25 * n / (n - 1))) ** 0.5
    model = linear_encoder(weights, log_std=0.0, latents=[2, 2])
    mean, log_sigma = model.encoder[1].heads
    mean.weight.data.copy_(torch.eye(2))
    log_sigma.weight.data.zero_()
    return model


def test_noise_from_below_does_not_count_in_the_second_layer() -> None:
    n = 500
    model = second_layer_follows(n)
    found = active_units(model, half_and_half(n, 5), samples=50)
    assert found.variances[1][0].item() == pytest.approx(0.0, abs=0.005)
    assert found.variances[1][1].item() == pytest.approx(0.05, abs=0.01)
    assert found.counts == [1, 1]
    # the biased estimate, from one sample of the layer below, would count the noise:
    z = model.posteriors(half_and_half(n, 5).double(), 1)[1].mean[0]
    assert (z.var(0) > 0.01).all()


def test_the_second_layers_variances_are_unbiased() -> None:
    n = 400
    model = linear_encoder(torch.zeros(5, 1), log_std=0.0, latents=[1, 1])
    model.encoder[1].heads[0].weight.data.fill_(1.0)
    found = [active_units(model, half_and_half(n, 5), samples=2, seed=s).variances[1].item() for s in range(60)]
    values = torch.tensor(found)
    assert abs(values.mean()) < 4 * values.std() / 60**0.5  # a plain variance would give 1/2


def test_the_authors_count_includes_the_noise_from_below() -> None:
    n = 500
    model = second_layer_follows(n)
    x = torch.cat([half_and_half(n, 5), torch.ones(100, 5, dtype=torch.uint8)])  # only the first 500 count
    assert authors_counts(model, x) == [1, 2]
    assert active_units(model, x[:n], samples=50).counts == [1, 1]
    with torch.no_grad():  # A_u = 0.01 in the population variance, just above it in the unbiased one
        model.encoder[0].heads[0].weight[1, 0] = 0.2
    assert authors_counts(model, x)[0] == 0
    assert active_units(model, x[:n], samples=5).counts[0] == 1


def test_intervals_hold_the_counts_of_other_images_like_these() -> None:
    """A pixel is 1 in 4 of 200 images, in others like them in C ~ Binomial(200, 0.02) of 200; units need so many."""
    n, needed = 200, [1, 4, 12]
    x = torch.zeros(n, 5, dtype=torch.uint8)
    x[:4, 0] = 1
    weights = torch.zeros(5, 3)
    weights[0] = torch.tensor([(0.01 * n * (n - 1) / ((c - 0.5) * (n - c + 0.5))) ** 0.5 for c in needed])
    found = active_units(linear_encoder(weights, log_std=0.0, latents=[3]), x)
    low, high = scipy.stats.binom.ppf([0.025, 0.975], n, 0.02)
    expected = [sum(c <= ones for c in needed) for ones in (low, high)]
    assert expected == [1, 2]
    assert found.intervals() == [(1, 2)] and found.counts == [2]
    assert found.intervals(level=0.01, seed=1) == [(2, 2)]


def test_intervals_are_those_of_images_picked_again(model: HierarchicalModel) -> None:
    found = active_units(model, images(30), samples=5)
    generator = torch.Generator().manual_seed(9)
    for layer, interval in zip(found.inner, found.intervals(resamples=40, seed=9), strict=True):
        counts = []
        for picked in torch.randint(30, (40, 30), generator=generator):
            a, b = layer[:, picked]
            covariances = [torch.cov(torch.stack([a[:, u], b[:, u]]))[0, 1] for u in range(a.shape[1])]
            counts.append(sum(c > 0.01 for c in covariances))
        ordered = sorted(counts)
        assert interval[0] in ordered[:3] and interval[1] in ordered[-3:]


def test_overfitting_compares_all_test_images_with_as_many_training_images() -> None:
    torch.manual_seed(0)
    model = HierarchicalModel([3], [[30]], mean_image=torch.full((20,), 0.4))
    train, val, test = images(40), images(90)[40:50], images(90)[50:80]
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(300):
        optimizer.zero_grad()
        (-iwae_bound(model.log_weights(train.float(), 5)).mean()).backward()
        optimizer.step()
    found = overfitting(model, train, val, likelihood(model, test, 100))
    train = train[pick(30, 40)]
    for part, x in ((found.train, train), (found.val, val), (found.test, test)):
        assert torch.equal(part, likelihood(model, x, 100).bound)
    nll = {name: likelihood(model, x, 100) for name, x in (("train", train), ("test", test))}
    assert found.gap == pytest.approx(nll["test"].nll - nll["train"].nll)
    assert found.gap_se == pytest.approx((nll["test"].nll_se ** 2 + nll["train"].nll_se ** 2) ** 0.5)
    assert found.gap > 5 * found.gap_se > 0
    assert len(overfitting(model, train[:7], val, likelihood(model, test, 100)).train) == 7
    for precision in ("32", "bf16"):
        bounds = likelihood(model, train[pick(30, 30)], 700, precision=precision)
        assert overfitting(model, train, val, bounds, precision=precision).gap == 0


def test_images_are_picked_from_everywhere_and_more_of_them_begin_with_the_same() -> None:
    few, all_images = pick(100, 10_000), pick(20_000, 10_000)
    assert sorted(all_images.tolist()) == list(range(10_000)) and torch.equal(few, all_images[:100])
    thirds = torch.bincount(few * 3 // 10_000)
    assert len(thirds) == 3 and thirds.min() > 20


ARCHITECTURES = [HierarchicalModel, SigmoidBeliefNetwork]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("latents", [[6], [6, 4], [6, 4, 3]])
def test_removing_no_unit_changes_nothing_and_removing_all_leaves_the_biases(architecture, latents) -> None:
    torch.manual_seed(0)
    model = architecture(latents, [[7] for _ in latents], mean_image=torch.rand(20)).double()
    x = images(9)
    keep = [torch.ones(n, dtype=torch.bool) for n in latents]
    constants = [torch.randn(n, dtype=torch.float64) for n in latents]
    same = likelihood(WithoutUnits(model, keep, constants), x, 30)
    torch.testing.assert_close(same.bound, likelihood(model, x, 30).bound)
    nothing = WithoutUnits(model, [~k for k in keep], constants)
    logits = model.decoder[0](constants[0].unsqueeze(0)).logits
    independent = torch.distributions.Bernoulli(logits=logits).log_prob(x.double()).sum(-1)
    torch.testing.assert_close(likelihood(nothing, x, 30).bound, independent)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_removing_units_is_the_same_as_cutting_them_out_of_the_networks(architecture) -> None:
    torch.manual_seed(0)
    model = architecture([6, 4, 3], [[7], [], [5]], mean_image=torch.rand(20)).double()
    keep = [torch.tensor([True, False, True, True, False, True]), torch.tensor([False, True, True, True])]
    keep.append(torch.tensor([True, False, True]))
    constants = [torch.randn(len(k), dtype=torch.float64) for k in keep]
    if architecture is SigmoidBeliefNetwork:
        model.prior_logits.data.normal_()
    cut = architecture([4, 3, 2], [[7], [], [5]], mean_image=torch.rand(20)).double()
    weights = dict(model.named_parameters())
    axes = {
        "encoder.0.heads": (keep[0], None), "encoder.1.heads": (keep[1], 0), "encoder.2.body": (None, 1),
        "encoder.2.heads": (keep[2], None), "decoder.0.body": (None, 0), "decoder.1.heads": (keep[0], 1),
        "decoder.2.body": (None, 2), "decoder.2.heads": (keep[1], None), "prior_logits": (keep[2], None),
    }  # fmt: skip
    for name, parameter in cut.named_parameters():
        outputs, inputs = axes.get(".".join(name.split(".")[:3]), (None, None))
        value = weights[name].detach()
        if name.endswith("bias") and inputs is not None:
            matrix = weights[name.replace("bias", "weight")].detach()
            value = value + matrix[:, ~keep[inputs]] @ constants[inputs][~keep[inputs]]
        if value.dim() == 2 and inputs is not None:
            value = value[:, keep[inputs]]
        parameter.data = value if outputs is None else value[outputs]
    x = images(9)
    found, expected = (likelihood(m, x, 300).bound for m in (WithoutUnits(model, keep, constants), cut))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    assert (found - likelihood(model, x, 300).bound).abs().min() > 0


class Own(LatentVariableModel):
    """What a researcher writes: convolutions, and nothing but an encoder, a decoder and a prior."""

    def __init__(self) -> None:
        super().__init__()

        class Encoder(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.convolution = nn.Conv2d(1, 3, 3, stride=2)
                self.heads = nn.Linear(12, 8)

            def forward(self, x: Tensor) -> Gaussian:
                h = torch.relu(self.convolution(x.view(-1, 1, 5, 5))).flatten(1)
                return Gaussian(*self.heads(h).chunk(2, dim=-1))

        class Decoder(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.up = nn.ConvTranspose2d(4, 1, 5)

            def forward(self, z: Tensor) -> Bernoulli:
                return Bernoulli(self.up(z.view(-1, 4, 1, 1)).flatten(1))

        self.encoder, self.decoder = nn.ModuleList([Encoder()]), nn.ModuleList([Decoder()])
        self.register_buffer("origin", torch.zeros(4))

    def prior(self) -> StandardNormal:
        return StandardNormal(self.origin)


def test_inactive_units_of_any_model_are_removed() -> None:
    torch.manual_seed(0)
    model, x = Own(), (torch.rand(30, 25) < 0.4).byte()
    with torch.no_grad():
        model.encoder[0].heads.weight.mul_(4)
        model.encoder[0].heads.weight[[1, 3, 5, 7]] = 0
        model.decoder[0].up.weight[1] = 0  # what units 1 and 3 say is noise, and 3's is heard
        model.decoder[0].up.weight[3].mul_(0.01)
    found = standard_results(model, x, x, x, 600)
    assert found.units.active[0].tolist() == [True, False, True, False]
    assert found.metrics()["test/nll_active_only_k"] == 500
    difference = found.test.bounds[500] - found.active_only
    assert difference.mean().abs() < 4 * difference.std() / 30**0.5 < 0.5
    assert difference.abs().max() > 0


def test_a_unit_that_carries_nothing_can_be_removed_at_no_loss() -> None:
    """A unit with q = p that no network looks at: log p − log q is the same without it."""
    torch.manual_seed(0)
    model = HierarchicalModel([5], [[8]], mean_image=torch.rand(20)).double()
    with torch.no_grad():
        mean, log_std = model.encoder[0].heads
        mean.weight.mul_(0.5)
        mean.weight[2] = 0
        log_std.weight.zero_()
        model.decoder[0].body[0].weight[:, 2] = 0
    found = standard_results(model, images(60), images(20), images(20), 2000)
    assert found.units.active[0].tolist() == [True, True, False, True, True]
    difference = found.test.bounds[500] - found.active_only
    assert difference.mean().abs() < 4 * difference.std() / 60**0.5 < 0.1
    assert found.metrics()["test/active_units"] == [4]


@pytest.mark.parametrize(("scale", "harmless"), [(0.1, True), (10, False)])
def test_in_bf16_only_where_the_nll_stays_the_same(model: HierarchicalModel, scale: float, harmless: bool) -> None:
    model.float()
    with torch.no_grad():
        for parameter in model.decoder.parameters():
            parameter.mul_(scale)
    exact = standard_results(model, images(50), images(20), images(20), 100)
    found = standard_results(model, images(50), images(20), images(20), 100, precision="bf16")
    assert torch.equal(found.test.bound, exact.test.bound) != harmless
    assert abs(found.test.nll - exact.test.nll) < 0.01
    assert found.val.nll == exact.val.nll
