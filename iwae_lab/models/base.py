"""Latent variable models with L stochastic layers, and their log importance weights. Torch only.

generative:  p(x, z) = p(z_L) p(z_{L-1} | z_L) … p(x | z_1)         parameters θ, `decoder`
inference:   q(z | x) = q(z_1 | x) q(z_2 | z_1) … q(z_L | z_{L-1})  parameters φ, `encoder`
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.func import functional_call

from iwae_lab.console.errors import UserError, require, require_one_of
from iwae_lab.models.distributions import Bernoulli, Distribution, Gaussian

__all__ = ["Draw", "LatentVariableModel", "Noise", "conditional", "fresh_noise"]

Noise = Callable[[Distribution, int, tuple[int, int, int]], Tensor]
"""(distribution, level, shape [k, batch, units]) -> the noise its `sample` takes."""

Gradient = Literal["total", "path", "score"]
GRADIENTS = get_args(Gradient)


def fresh_noise(distribution: Distribution, level: int, shape: tuple[int, int, int]) -> Tensor:
    """Noise from torch's global generator."""
    return distribution.noise(shape)


@dataclass(frozen=True)
class Draw:
    """k posterior samples per datum of a batch, and their log densities (nats)."""

    z: list[Tensor]
    """[k, batch, units], one per stochastic layer"""
    log_q: Tensor
    """log q(z | x) [k, batch]"""
    log_p: Tensor
    """log p(x, z) [k, batch]"""
    noise: list[Tensor]
    """of which z was made, [k, batch, units], one per stochastic layer"""
    path_parameters: list[Tensor] = field(default_factory=list)
    """with gradient="path": the parameters of each q at each sample, [k, batch, units], the only path from φ"""

    @property
    def log_w(self) -> Tensor:
        """log importance weights log p(x, z) − log q(z | x) [k, batch]."""
        return self.log_p - self.log_q

    def scale_inference_gradient(self, factor: Tensor) -> None:
        """Multiply each sample's path derivative in φ by `factor` [k, batch]; θ's gradient is unchanged.

        Needs `gradient="path"`. The factor is applied once per sample, at the parameters of each q, never
        to z itself: z_1's derivative also carries what came through q(z_2 | z_1). Raises `UserError` for another draw.
        """
        if not self.path_parameters:
            raise UserError('scale_inference_gradient: expected a draw with gradient="path"')
        for parameter in self.path_parameters:
            if parameter.requires_grad:  # the encoder may be frozen
                parameter.register_hook(lambda gradient: gradient * factor.unsqueeze(-1))


class LatentVariableModel(nn.Module, ABC):
    """What objectives and evaluation use of a model; subclasses provide `encoder`, `decoder` and `prior`."""

    encoder: nn.ModuleList
    """encoder[0]: x -> q(z_1 | x); encoder[l]: z_l -> q(z_{l+1} | z_l)"""
    decoder: nn.ModuleList
    """decoder[0]: z_1 -> p(x | z_1); decoder[l]: z_{l+1} -> p(z_l | z_{l+1})"""

    def __init__(self) -> None:
        super().__init__()
        torch.backends.cudnn.allow_tf32 = False  # convolutions are in fp32, as products are; training allows it again
        torch.backends.cudnn.deterministic = True  # so that a resumed run is the one not interrupted

    @abstractmethod
    def prior(self) -> Distribution:
        """p(z_L), of shape [units]."""

    def inference_parameters(self) -> list[nn.Parameter]:
        """φ."""
        return list(self.encoder.parameters())

    def generative_parameters(self) -> list[nn.Parameter]:
        """θ."""
        inference = {id(p) for p in self.inference_parameters()}
        return [p for p in self.parameters() if id(p) not in inference]

    def log_weights(self, x: Tensor, k: int, noise: Noise = fresh_noise) -> Tensor:
        """log w [k, batch], nats, of k samples for each row of x [batch, pixels]; the encoder sees x once."""
        return self.draw(x, k, noise=noise).log_w

    def draw(self, x: Tensor, k: int, gradient: Gradient = "total", noise: Noise = fresh_noise) -> Draw:
        """k samples for each row of x [batch, pixels], their log q and log p.

        `gradient` says what differentiating them gives, at the same values:
        "total": the derivative of reparameterised samples, in θ and φ.
        "path": φ enters through z alone: its parameters are frozen inside log q, z is live everywhere.
        "score": z is a constant: ∇_φ log q(z | x) and ∇_θ log p(x, z).

        Raises `UserError` if samples of discrete latents must be differentiated, for k < 1 and for another `gradient`.
        """
        require("k", repr(k), isinstance(k, int) and k >= 1, "an integer of at least 1")
        require_one_of("gradient", gradient, GRADIENTS)
        z, used, path_parameters = [], [], []
        log_q = x.new_zeros(())
        below = x
        for level, layer in enumerate(self.encoder):
            q = conditional(layer, below if gradient != "path" else below.detach())
            if gradient != "score" and isinstance(q, Bernoulli):
                if torch.is_grad_enabled():
                    self.require_continuous(q, gradient)
                gradient = "score"
            eps = noise(q, level, (k, len(x), q[0].shape[-1]))
            if gradient == "total":
                below = q.sample(eps)
                log_q = log_q + q.log_prob_of_sample(eps)
            elif gradient == "score":
                below = q.sample(eps).detach()
                log_q = log_q + q.log_prob(below)
            else:
                entries = [parameter.expand(eps.shape) for parameter in q]  # where φ enters sample i
                frozen = [p.detach() for p in q] if level == 0 else conditional(_frozen(layer), below)
                live = [f + (entry - entry.detach()) for f, entry in zip(frozen, entries, strict=True)]
                below = type(q)(*live).sample(eps)
                log_q = log_q + type(q)(*frozen).log_prob(below)
                path_parameters += entries
            z.append(below)
            used.append(eps)
        return Draw(z, log_q, self.log_joint(x, z), used, path_parameters)

    def require_continuous(self, q: Distribution, gradient: Gradient) -> None:
        """Raises `UserError` for discrete latents, whose samples have no such derivative."""
        if isinstance(q, Bernoulli):
            raise UserError(
                f"model={type(self).__name__}: expected continuous latents, as samples of discrete ones have no "
                f"{gradient} derivative, or an objective that needs none, such as vimco, rws or reinforce"
            )

    def log_joint(self, x: Tensor, z: list[Tensor]) -> Tensor:
        """log p(x, z) [k, batch], nats, of x [batch, pixels] and samples z, one [k, batch, units] per layer."""
        return self.log_prior(z) + conditional(self.decoder[0], z[0]).log_prob(x)

    def log_prior(self, z: list[Tensor]) -> Tensor:
        """log p(z) [k, batch], nats, of samples z, one [k, batch, units] per layer."""
        log_p = self.prior().log_prob(z[-1])
        for layer, below, above in zip(list(self.decoder)[1:], z, z[1:], strict=False):
            log_p = log_p + conditional(layer, above).log_prob(below)
        return log_p

    def log_posterior(self, x: Tensor, z: list[Tensor]) -> Tensor:
        """log q(z | x) [k, batch], nats, of x [batch, pixels] and samples z, one [k, batch, units] per layer."""
        log_q = x.new_zeros(())
        for layer, below, here in zip(self.encoder, [x, *z[:-1]], z, strict=True):
            log_q = log_q + conditional(layer, below).log_prob(here)
        return log_q

    def conditionals(self, x: Tensor, z: list[Tensor]) -> tuple[list[Distribution], list[Distribution]]:
        """Every layer's q(z_l | z_{l-1}) and p(z_l | z_{l+1}) at x [batch, pixels] and samples z [k, batch, units]."""
        q = [conditional(layer, below) for layer, below in zip(self.encoder, [x, *z[:-1]], strict=True)]
        p = [conditional(layer, above) for layer, above in zip(list(self.decoder)[1:], z[1:], strict=True)]
        return q, [*p, self.prior()]

    def posteriors(self, x: Tensor, k: int, noise: Noise = fresh_noise) -> list[Gaussian | Bernoulli]:
        """q(z_1 | x) with parameters [batch, units], then q(z_l | z_{l-1}) at k samples, [k, batch, units]."""
        conditionals: list[Gaussian | Bernoulli] = []
        below = x
        for level, layer in enumerate(self.encoder):
            q = conditional(layer, below)
            conditionals.append(q)
            if level + 1 < len(self.encoder):
                below = q.sample(noise(q, level, (k, len(x), q[0].shape[-1])))
        return conditionals

    def sample_joint(self, n: int) -> tuple[Tensor, list[Tensor]]:
        """n draws from p(x, z): images [n, pixels] and latents, one [1, n, units] per layer."""
        prior = self.prior()
        drawn = [prior.sample(prior.noise((n, *prior[0].shape)))]
        for layer in reversed(self.decoder):
            p = conditional(layer, drawn[0])
            drawn.insert(0, p.sample(p.noise(p[0].shape)))
        x, *z = drawn
        return x, [latent.unsqueeze(0) for latent in z]

    def sample_means(self, n: int) -> Tensor:
        """Pixel probabilities [n, pixels] of n draws from the generative network."""
        _, z = self.sample_joint(n)
        return self.decoder[0](z[0].squeeze(0)).mean

    def reconstruct(self, x: Tensor) -> Tensor:
        """Pixel probabilities [batch, pixels] given one sample of q(z_1 | x) for each row of x."""
        q = self.encoder[0](x)
        return self.decoder[0](q.sample(q.noise(q[0].shape))).mean


def conditional(layer: Any, h: Tensor) -> Any:
    """A layer's distribution given h [batch, units] or [k, batch, units], in the precision of h whatever autocast does.

    Images may be integers. Layers see 2-D rows, which are fast.
    """
    if not h.is_floating_point():
        h = h.to(next(layer.parameters()).dtype)
    given = layer(h.flatten(0, -2))
    return type(given)(*(parameter.to(h.dtype).unflatten(0, h.shape[:-1]) for parameter in given))


def _frozen(layer: nn.Module) -> Callable[[Tensor], Any]:
    """The layer with its parameters cut from the graph."""
    constants = {name: p.detach() for name, p in layer.named_parameters()}
    return lambda h: functional_call(layer, constants, (h,))
