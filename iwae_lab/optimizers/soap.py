"""SOAP: Adam in the eigenbasis of Shampoo's preconditioner."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from iwae_lab.optimizers.base import MatrixOptimizer, OptimizerFactory, require

__all__ = ["Soap"]


class Soap(OptimizerFactory):
    """Vyas et al. 2024 (arXiv 2409.11321, algorithm 3) for matrices; everything else gets Adam's steps.

    Adam runs on a gradient G in the eigenvectors of the running means of GGᵀ and GᵀG, which are renewed every
    `renew_every` steps by a step of the power method; a side of more than `largest` rows or columns keeps its own
    coordinates. beta1, beta2: decay of the running mean of G, and of those of its square and of GGᵀ and GᵀG.
    `weight_decay` is decoupled, for matrices.
    """

    def __init__(
        self,
        beta1: float = 0.95,
        beta2: float = 0.99,
        weight_decay: float = 0.01,
        renew_every: int = 20,
        largest: int = 256,
    ) -> None:
        for name, value in (("beta1", beta1), ("beta2", beta2)):
            require(name, value, 0 <= value < 1, "a number from 0 to below 1")
        require("weight_decay", weight_decay, weight_decay >= 0, "a number of at least 0")
        for name, value in (("renew_every", renew_every), ("largest", largest)):
            require(name, value, value >= 1, "an integer of at least 1")
        self.settings = {
            "beta1": beta1,
            "beta2": beta2,
            "weight_decay": weight_decay,
            "renew_every": renew_every,
            "largest": largest,
        }

    def make(self, parameters: Iterable[nn.Parameter], learning_rate: float) -> torch.optim.Optimizer:
        return _Soap(parameters, learning_rate, **self.settings)


class _Soap(MatrixOptimizer):
    """Of each matrix: its step, `mean` and `square` of gradients in the eigenvectors, and for each side that has
    them `gram.0` or `gram.1` (running means of GGᵀ and GᵀG) and their eigenvectors `basis.0` and `basis.1`."""

    def step_matrix(self, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> Tensor:
        sides = [side for side in (0, 1) if gradient.shape[side] <= group["largest"]]
        if not state:  # the first gradient gives the eigenvectors and no step
            for side in sides:
                state[f"gram.{side}"] = _gram(gradient, side)
                state[f"basis.{side}"] = torch.linalg.eigh(state[f"gram.{side}"]).eigenvectors
            state |= {"step": 0, "mean": torch.zeros_like(gradient), "square": torch.zeros_like(gradient)}
            return torch.zeros_like(gradient)
        state["step"] += 1
        beta1, beta2 = group["beta1"], group["beta2"]
        turned = _turn(gradient, state)
        mean = state["mean"].lerp_(turned, 1 - beta1)
        square = state["square"].lerp_(turned.square_(), 1 - beta2)
        mean_scale, square_scale = (1 - beta ** state["step"] for beta in (beta1, beta2))
        step = mean / square.sqrt().mul_(mean_scale / square_scale**0.5).add_(self.EPSILON * mean_scale)
        step = _turn_back(step, state)
        for side in sides:
            state[f"gram.{side}"].lerp_(_gram(gradient, side), 1 - beta2)
        if state["step"] % group["renew_every"] == 0:
            _renew(state, sides)
        return step


def _gram(gradient: Tensor, side: int) -> Tensor:
    return gradient @ gradient.T if side == 0 else gradient.T @ gradient


def _turn(matrix: Tensor, state: dict[str, Any]) -> Tensor:
    """In the eigenvectors."""
    turned = state["basis.0"].T @ matrix if "basis.0" in state else matrix.clone()
    return turned @ state["basis.1"] if "basis.1" in state else turned


def _turn_back(turned: Tensor, state: dict[str, Any]) -> Tensor:
    matrix = state["basis.0"] @ turned if "basis.0" in state else turned
    return matrix @ state["basis.1"].T if "basis.1" in state else matrix


def _renew(state: dict[str, Any], sides: list[int]) -> None:
    """A step of the power method towards the eigenvectors, in order of their eigenvalues (algorithm 4)."""
    mean = _turn_back(state["mean"], state)
    for side in sides:
        basis = state[f"basis.{side}"]
        power = state[f"gram.{side}"] @ basis
        order = (basis * power).sum(0).argsort(descending=True)
        state["square"] = state["square"].index_select(side, order)
        state[f"basis.{side}"] = torch.linalg.qr(power[:, order]).Q
    state["mean"] = _turn(mean, state)
