"""Which precision `precision=auto` chooses."""

import pytest
import torch
from helpers.objectives import ALL, objective

from iwae_lab.models.conv import ConvModel
from iwae_lab.models.hierarchical import HierarchicalModel
from iwae_lab.models.precision import autocast, fastest_precision, products_for_training

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def _hardware_with_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)


@pytest.mark.usefixtures("_hardware_with_bf16")
@pytest.mark.parametrize("device", [CPU, CUDA])
def test_precision_auto_is_fp32_where_bf16_was_seen_to_harm(device: torch.device) -> None:
    assert fastest_precision(device, batch_size=100, k=5) == "bf16"
    assert fastest_precision(device, batch_size=100, k=50) == "32"


@pytest.mark.usefixtures("_hardware_with_bf16")
def test_precision_auto_is_fp32_where_products_are_too_small_to_repay_bf16() -> None:
    assert fastest_precision(CPU, batch_size=40, k=5) == "bf16"
    assert fastest_precision(CPU, batch_size=20, k=5) == "32"


def test_precision_auto_is_fp32_where_a_processor_would_emulate_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    assert fastest_precision(CPU, batch_size=100, k=5) == "32"


@pytest.mark.parametrize("spec", ALL)
def test_in_bf16_gradients_point_where_those_of_fp32_do(spec: str) -> None:
    torch.manual_seed(0)
    model = HierarchicalModel([8, 4], [[16], [8]], mean_image=torch.rand(20))
    x = torch.bernoulli(torch.rand(30, 20))
    found = []
    for precision in ("32", "bf16"):
        model.zero_grad()
        torch.manual_seed(1)
        with autocast(CPU, precision):
            estimate = objective(spec)(model, x, 5)
        estimate.backward(model)
        found.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    assert torch.cosine_similarity(*found, dim=0) > 0.9


def test_in_bf16_joint_samples_are_drawn_in_fp32() -> None:
    """bf16 has so few numbers near zero that rare pixels would be lit three times as often."""
    model = HierarchicalModel([8, 4], [[16], [8]], mean_image=torch.full((500,), 0.001))
    with autocast(CPU, "bf16"):
        x, z = model.sample_joint(4000)
    assert {drawn.dtype for drawn in (x, *z)} == {torch.float32}
    assert 0.0008 < x.mean() < 0.0012


def test_convolutions_are_in_fp32_outside_training() -> None:
    ConvModel(2, [3], mean_image=torch.rand(4, 4))
    assert not torch.backends.cudnn.allow_tf32
    with products_for_training(torch.device("cuda")):
        assert torch.backends.cudnn.allow_tf32 and torch.backends.cuda.matmul.allow_tf32
    assert not torch.backends.cudnn.allow_tf32 and not torch.backends.cuda.matmul.allow_tf32
