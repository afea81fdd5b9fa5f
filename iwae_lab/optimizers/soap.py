"""SOAP: Adam in the eigenbasis of Shampoo's preconditioner."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from iwae_lab.errors import require
from iwae_lab.optimizers.base import MatrixOptimizer, OptimizerFactory, adam_step

__all__ = ["Soap"]


class Soap(OptimizerFactory):
    """Vyas et al. 2024 (arXiv 2409.11321, algorithm 3) for matrices; everything else gets Adam's steps.

    Adam runs on a gradient G in the eigenvectors of the running means of GGᵀ and GᵀG. Every
    `precondition_frequency` steps a step of the power method renews them; a side of more than `max_precond_dim`
    rows or columns keeps its own coordinates. beta1, beta2: decay of the running mean of G, and of those of its
    square and of GGᵀ and GᵀG. `weight_decay` is decoupled, for matrices.
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
    """A matrix's state: what Adam keeps, in the eigenvectors; by side, 0 of rows and 1 of columns, the running
    means of GGᵀ and GᵀG (`grams`) and their eigenvectors (`bases`)."""

    def step_matrix(self, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> Tensor:
        if not state:  # the first gradient gives the eigenvectors and no step
            sides = [side for side in (0, 1) if gradient.shape[side] <= group["max_precond_dim"]]
            state["grams"] = {side: _gram(gradient, side) for side in sides}
            state["bases"] = {side: torch.linalg.eigh(gram).eigenvectors for side, gram in state["grams"].items()}
            return torch.zeros_like(gradient)
        turned = _turn(gradient, state["bases"])
        step = _turn_back(adam_step(turned, state, group["beta1"], group["beta2"]), state["bases"])
        for side, gram in state["grams"].items():
            gram.lerp_(_gram(gradient, side), 1 - group["beta2"])
        if state["step"] % group["precondition_frequency"] == 0:
            _renew(state)
        return step


def _gram(gradient: Tensor, side: int) -> Tensor:
    return gradient @ gradient.T if side == 0 else gradient.T @ gradient


def _turn(matrix: Tensor, bases: dict[int, Tensor]) -> Tensor:
    """`matrix` in the eigenvectors."""
    turned = bases[0].T @ matrix if 0 in bases else matrix
    return turned @ bases[1] if 1 in bases else turned


def _turn_back(turned: Tensor, bases: dict[int, Tensor]) -> Tensor:
    matrix = bases[0] @ turned if 0 in bases else turned
    return matrix @ bases[1].T if 1 in bases else matrix


def _renew(state: dict[str, Any]) -> None:
    """A step of the power method towards the eigenvectors, in order of their eigenvalues (algorithm 4)."""
    bases = state["bases"]
    mean = _turn_back(state["mean"], bases)
    for side, gram in state["grams"].items():
        power = gram @ bases[side]
        order = (bases[side] * power).sum(0).argsort(descending=True)
        state["square"] = state["square"].index_select(side, order)
        bases[side] = torch.linalg.qr(power[:, order]).Q
    state["mean"] = _turn(mean, bases)
