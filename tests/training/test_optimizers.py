"""Optimizers: the steps they claim to make."""

import pytest
import torch

from iwae_lab.console.errors import UserError
from iwae_lab.training.optimizers.adam import Adam
from iwae_lab.training.optimizers.muon import Muon, orthogonalize
from iwae_lab.training.optimizers.soap import Soap


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


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon")
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


def steps(factory, start, gradients, resumed_after=None):
    """Where `factory`'s optimizer takes `start` with these gradients, one a step."""
    parameter = torch.nn.Parameter(start.clone())
    optimizer = factory.make([parameter], 0.01)
    for step, gradient in enumerate(gradients):
        if step == resumed_after:
            state = optimizer.state_dict()
            optimizer = factory.make([parameter], 0.01)
            optimizer.load_state_dict(state)
        parameter.grad = gradient.clone()
        optimizer.step()
    return parameter.detach()


def some_gradients(*shape):
    torch.manual_seed(0)
    return torch.randn(12, *shape, dtype=torch.float64)


@pytest.mark.parametrize("factory", [Adam(), Muon(), Soap(precondition_frequency=3)], ids=lambda f: type(f).__name__)
@pytest.mark.parametrize("shape", [(4, 6), (5,)])
def test_steps_continue_from_a_saved_state(factory, shape):
    start, gradients = torch.ones(shape, dtype=torch.float64), some_gradients(*shape)
    expected = steps(factory, start, gradients)
    assert torch.equal(steps(factory, start, gradients, resumed_after=5), expected)
    assert not torch.equal(expected, start)


@pytest.mark.parametrize(("shape", "turned"), [((6, 6), (0, 1)), ((4, 9), (0,)), ((9, 4), (1,))])
def test_soap_steps_alike_in_turned_coordinates(shape, turned):
    """As Adam does not: rows and columns may be rotated, but for sides above `max_precond_dim`."""
    gradients, start = some_gradients(*shape), torch.zeros(shape, dtype=torch.float64)
    left, right = (
        torch.linalg.qr(torch.randn(n, n, dtype=torch.float64)).Q if side in turned else torch.eye(n).double()
        for side, n in enumerate(shape)
    )
    for factory, alike in (
        (Soap(weight_decay=0.1, precondition_frequency=3, max_precond_dim=6), True),
        (Adam(), False),
    ):
        expected = left @ steps(factory, start, gradients) @ right
        found = steps(factory, start, left @ gradients @ right)
        assert torch.allclose(found, expected, rtol=0, atol=1e-9) == alike


def test_soap_of_large_matrices_is_adam_from_the_second_gradient():
    gradients, start = some_gradients(5, 7), torch.zeros(5, 7, dtype=torch.float64)
    found = steps(Soap(0.9, 0.99, weight_decay=0, max_precond_dim=4), start, gradients)
    torch.testing.assert_close(found, steps(Adam(0.9, 0.99, 1e-8), start, gradients[1:]))


def test_soap_steps_matrices_of_one_shape_or_its_transpose_as_it_would_alone():
    torch.manual_seed(0)
    shapes = [(5, 5), (4, 6), (5, 5), (6, 4), (3, 9), (4,)]
    gradients = [torch.randn(12, *shape, dtype=torch.float64) for shape in shapes]
    factory = Soap(precondition_frequency=3, max_precond_dim=6)
    together = [torch.nn.Parameter(torch.ones(shape, dtype=torch.float64)) for shape in shapes]
    optimizer = factory.make(together, 0.01)
    for step in range(12):
        for parameter, gradient in zip(together, gradients, strict=True):
            parameter.grad = gradient[step].clone()
        optimizer.step()
    for parameter, gradient in zip(together, gradients, strict=True):
        alone = steps(factory, torch.ones_like(parameter), gradient)
        if parameter.dim() == 1 or parameter.shape[0] == parameter.shape[1]:  # else eigenvectors of 0 may be any
            torch.testing.assert_close(parameter.detach(), alone)
        assert (parameter - alone).abs().max() < 0.01


def test_soap_as_algorithm_3():
    """Written anew with the moments in the matrix's own coordinates, for two sides and two renewals."""
    beta1, beta2, decay = 0.9, 0.95, 0.1
    first, *gradients = some_gradients(5, 5)
    grams = [first @ first.T, first.T @ first]
    q = [torch.linalg.eigh(gram).eigenvectors for gram in grams]
    matrix = torch.ones(5, 5, dtype=torch.float64) * (1 - 0.01 * decay)  # the first gradient only decays it
    mean = square = torch.zeros(5, 5, dtype=torch.float64)
    for t, gradient in enumerate(gradients, 1):
        mean = beta1 * mean + (1 - beta1) * gradient
        square = beta2 * square + (1 - beta2) * (q[0].T @ gradient @ q[1]) ** 2
        turned = (q[0].T @ mean @ q[1]) / (1 - beta1**t)
        step = q[0] @ (turned / ((square / (1 - beta2**t)).sqrt() + 1e-8)) @ q[1].T
        matrix = matrix * (1 - 0.01 * decay) - 0.01 * step
        for gram, new in zip(grams, (gradient @ gradient.T, gradient.T @ gradient), strict=True):
            gram.mul_(beta2).add_(new, alpha=1 - beta2)
        if t % 5 == 0:
            orders = [(b.T @ gram @ b).diagonal().argsort(descending=True) for b, gram in zip(q, grams, strict=True)]
            square = square[orders[0]][:, orders[1]]
            q = [torch.linalg.qr(g @ b[:, order]).Q for g, b, order in zip(grams, q, orders, strict=True)]
    factory = Soap(beta1, beta2, weight_decay=decay, precondition_frequency=5)
    found = steps(factory, torch.ones(5, 5, dtype=torch.float64), [first, *gradients])
    torch.testing.assert_close(found, matrix, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("factory", "wrong"),
    [
        (Muon, {"momentum": 1.0}),
        (Muon, {"weight_decay": -0.1}),
        (Soap, {"beta2": 1.0}),
        (Soap, {"weight_decay": -0.1}),
        (Soap, {"precondition_frequency": 0}),
        (Soap, {"max_precond_dim": 0}),
    ],
)
def test_refuses(factory, wrong):
    (name,) = wrong
    with pytest.raises(UserError, match=f"^{name}="):
        factory(**wrong)
