"""U-statistics of the importance weighted bound."""

import functools
import itertools
import math

import torch
from torch import Tensor

from iwae_lab.bounds import iwae_bound
from iwae_lab.console.errors import UserError, require
from iwae_lab.models.base import LatentVariableModel
from iwae_lab.objectives.base import Estimate, ImportanceWeighted

__all__ = ["UStatistic"]


class UStatistic(ImportanceWeighted):
    """Mean of L̂_k over overlapping sets of k of groups·k samples   (Burroni et al. 2023, arXiv 2302.13918).

    The bound L_k, as `miwae`, from as many samples at a lower variance. Incomplete: each of `permutations` random
    orders of the samples, the first as drawn, is cut into sets of k. Complete, with permutations=null: all sets of
    k samples, of which there may be at most 10,000.
    """

    compilable = True
    MOST_SETS = 10_000

    def __init__(self, groups: int = 5, permutations: int | None = 20) -> None:
        super().__init__()
        require("groups", groups, groups >= 2, "an integer of at least 2")
        valid = permutations is None or permutations >= 1
        require("permutations", permutations, valid, "null or an integer of at least 1")
        self.groups = groups
        self.permutations = permutations

    def forward(self, model: LatentVariableModel, x: Tensor, k: int) -> Estimate:
        n = self.groups * k
        if self.permutations is None and math.comb(n, k) > self.MOST_SETS:
            raise UserError(
                f"k={k}: expected at most {self.MOST_SETS} sets of k of groups·k samples, which are "
                f"{math.comb(n, k)}, or permutations=20"
            )
        log_w = model.log_weights(x, n)
        bounds = iwae_bound(log_w[self._sets(n, k, x.device)])  # [sets, batch]
        return Estimate(-bounds.mean(), log_w.view(k, -1))

    def _sets(self, n: int, k: int, device: torch.device) -> Tensor:
        """The samples of each set, [k, sets]."""
        if self.permutations is None:
            return _all_sets(n, k, device)
        orders = torch.rand(self.permutations - 1, n, device=device).argsort(1)
        orders = torch.cat([torch.arange(n, device=device).unsqueeze(0), orders])
        return orders.view(-1, k, self.groups).transpose(0, 1).flatten(1)


@torch.compiler.assume_constant_result
@functools.cache
def _all_sets(n: int, k: int, device: torch.device) -> Tensor:
    """[k, sets]; kept, since listing them takes time and a copy to the device, which a CUDA graph can't hold."""
    return torch.tensor(list(itertools.combinations(range(n), k)), device=device).T
