"""Muon: the steps it claims to make."""

import pytest
import torch

from iwae_lab.errors import UserError
from iwae_lab.optimizer import Muon, orthogonalize


@pytest.mark.parametrize("shape", [(20, 60), (60, 20), (30, 30)])
def test_orthogonalize_maps_singular_values_by_the_five_quintic_steps(shape):
    torch.manual_seed(0)
    matrix = torch.randn(shape)
    u, s, vt = torch.linalg.svd(matrix.double(), full_matrices=False)
    s = s / s.norm()
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    torch.testing.assert_close(orthogonalize(matrix), (u * s @ vt).float(), rtol=0, atol=2e-5)
    assert ((s > 0.6) & (s < 1.3)).all()


def test_orthogonalize_of_nothing_is_nothing():
    assert not orthogonalize(torch.zeros(3, 5)).any()


def test_matrices_step_as_torchs_muon_and_vectors_as_adam():
    torch.manual_seed(0)
    start = [torch.randn(8, 20), torch.randn(20)]
    ours = [torch.nn.Parameter(p.clone()) for p in start]
    matrix, vector = (torch.nn.Parameter(p.clone()) for p in start)
    optimizers = [
        Muon(momentum=0.9, weight_decay=0.1).make(ours, 0.01),
        torch.optim.Muon([matrix], 0.01, 0.1, 0.9, adjust_lr_fn="match_rms_adamw"),
        torch.optim.Adam([vector], 0.01),
    ]
    for _ in range(5):
        gradients = [torch.randn_like(p) for p in start]
        for parameters in (ours, [matrix, vector]):
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient.clone()
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(ours[0], matrix, rtol=0, atol=2e-3)  # torch's rounds to bf16
    torch.testing.assert_close(ours[1], vector)


@pytest.mark.parametrize("wrong", [{"momentum": 1.0}, {"weight_decay": -0.1}])
def test_refuses(wrong):
    (name,) = wrong
    with pytest.raises(UserError, match=f"^{name}="):
        Muon(**wrong)
