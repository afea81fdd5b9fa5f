"""SOAP: Adam in the eigenbasis of Shampoo's preconditioner."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from iwae_lab.console.errors import require
from iwae_lab.training.optimizers.base import MatrixOptimizer, OptimizerFactory, adam_steps, gradient_of

__all__ = ["Soap"]


class Soap(OptimizerFactory):
    """Vyas et al. 2024 (arXiv 2409.11321, algorithm 3) for matrices; Adam for all other parameters.

    Adam runs on the gradient G in the basis of the eigenvectors of the running means of GGᵀ and GᵀG, which a step of
    the power method updates every `precondition_frequency` steps. A side of more than `max_precond_dim` rows or columns
    keeps its own basis. beta1: decay of the running mean of G; beta2: of those of its square, GGᵀ and GᵀG.
    `weight_decay` is decoupled, for matrices.
    """

    def __init__(
        self,
        beta1: float = 0.95,
        beta2: float = 0.99,
        weight_decay: float = 0.01,
        precondition_frequency: int = 20,
        max_precond_dim: int = 256,
    ) -> None:
        for name, value in (("beta1", beta1), ("beta2", beta2)):
            require(name, value, 0 <= value < 1, "a number from 0 to below 1")
        require("weight_decay", weight_decay, weight_decay >= 0, "a number of at least 0")
        for name, value in (("precondition_frequency", precondition_frequency), ("max_precond_dim", max_precond_dim)):
            require(name, value, value >= 1, "an integer of at least 1")
        self.settings = {
            "beta1": beta1,
            "beta2": beta2,
            "weight_decay": weight_decay,
            "precondition_frequency": precondition_frequency,
            "max_precond_dim": max_precond_dim,
        }

    def make(self, parameters: Iterable[nn.Parameter], learning_rate: float) -> torch.optim.Optimizer:
        return _Soap(parameters, learning_rate, **self.settings)


class _Soap(MatrixOptimizer):
    """Matrices of equal shape, up to transposition, are updated together as one stack [matrices, rows, columns].

    The state of a stack is kept under its first matrix: Adam's state in the eigenbasis, the running means of GGᵀ and
    GᵀG (`grams`) and their eigenvectors (`bases`), the latter two by side: -2 for rows, -1 for columns.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], learning_rate: float, **settings: float) -> None:
        super().__init__(parameters, learning_rate, **settings)
        self.period = int(self.defaults["precondition_frequency"])
        for group in self.param_groups:
            group["steps"] = -1  # the first gradient gives eigenvectors and no step

    def matrix_steps(self, matrices: list[nn.Parameter], group: dict[str, Any]) -> list[Tensor]:
        stacks: dict[tuple[int, ...], list[nn.Parameter]] = {}
        for matrix in matrices:
            stacks.setdefault(tuple(sorted(matrix.shape)), []).append(matrix)
        states = [self.state[stack[0]] for stack in stacks.values()]
        gradients = [torch.stack([_wide(gradient_of(matrix)) for matrix in stack]) for stack in stacks.values()]
        begun = all("bases" in state for state in states)
        if not begun:
            for gradient, state in zip(gradients, states, strict=True):
                sides = [side for side in (-2, -1) if gradient.shape[side] <= group["max_precond_dim"]]
                state["grams"] = {side: _gram(gradient, side) for side in sides}
                state["bases"] = {side: torch.linalg.eigh(gram).eigenvectors for side, gram in state["grams"].items()}
            return [torch.zeros_like(matrix) for matrix in matrices]
        turned = [_turn(gradient, state["bases"]) for gradient, state in zip(gradients, states, strict=True)]
        turned = adam_steps(turned, states, group["lr"], group["beta1"], group["beta2"])
        steps = {}
        for stack, gradient, step, state in zip(stacks.values(), gradients, turned, states, strict=True):
            for side, gram in state["grams"].items():
                gram.lerp_(_gram(gradient, side), 1 - group["beta2"])
            for matrix, wide in zip(stack, _turn_back(step, state["bases"]), strict=True):
                steps[matrix] = wide if wide.shape == matrix.shape else wide.mT
        return [steps[matrix] for matrix in matrices]

    @torch.no_grad()
    def refresh(self) -> None:
        for state in self.state.values():
            if "bases" in state and "mean" in state:
                _refresh_bases(state)


def _wide(matrix: Tensor) -> Tensor:
    return matrix if matrix.shape[0] <= matrix.shape[1] else matrix.mT


def _gram(gradients: Tensor, side: int) -> Tensor:
    return gradients @ gradients.mT if side == -2 else gradients.mT @ gradients


def _turn(matrices: Tensor, bases: dict[int, Tensor]) -> Tensor:
    """`matrices` in the eigenbasis."""
    turned = bases[-2].mT @ matrices if -2 in bases else matrices
    return turned @ bases[-1] if -1 in bases else turned


def _turn_back(turned: Tensor, bases: dict[int, Tensor]) -> Tensor:
    matrices = bases[-2] @ turned if -2 in bases else turned
    return matrices @ bases[-1].mT if -1 in bases else matrices


def _refresh_bases(state: dict[str, Any]) -> None:
    """A step of the power method towards the eigenvectors, in order of their eigenvalues (algorithm 4).

    Writes in place, since a CUDA graph reads these tensors.
    """
    bases = state["bases"]
    mean = _turn_back(state["mean"], bases)
    for side, gram in state["grams"].items():
        basis = bases[side].double()
        shift = 1e-12 * gram.diagonal(dim1=-2, dim2=-1).sum(-1)[:, None, None]  # so that no column vanishes
        power = gram.double() @ basis + shift * basis
        order = (basis * power).sum(-2).argsort(descending=True)
        bases[side].copy_(_orthonormal(power.gather(-1, order.unsqueeze(-2).expand_as(power))))
        square = state["square"]
        square.copy_(square.gather(side, order.unsqueeze(-3 - side).expand_as(square)))
    state["mean"].copy_(_turn(mean, bases))


def _orthonormal(columns: Tensor) -> Tensor:
    """Q of the QR decompositions of float64 matrices [matrices, n, n], up to the signs of its columns.

    Uses Cholesky decompositions, which a GPU computes for all matrices at once, unlike QR.
    """
    columns = columns / columns.norm(dim=-2, keepdim=True).clamp_min(1e-300)
    gram = columns.mT @ columns
    gram.diagonal(dim1=-2, dim2=-1).add_(1e-12)
    upper = torch.linalg.cholesky_ex(gram, upper=True).L
    return torch.linalg.solve_triangular(upper, columns, upper=True, left=False)
