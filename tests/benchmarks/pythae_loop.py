"""The training loop of plain_loop.py around pythae's IWAE, with the networks of the paper, in eager fp32.

    python tests/benchmarks/pythae_loop.py train 1 K BATCH   prints images per second

Needs pythae. Its loss is not L_k (it weighs KL divergences, with the sign reversed): only its speed is compared.
"""

import sys

import torch
from plain_loop import GaussianLayer, median_seconds, tanh_network
from pythae.models import IWAE, IWAEConfig
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from torch import Tensor, nn


class Encoder(BaseEncoder):
    def __init__(self) -> None:
        super().__init__()
        self.q1 = GaussianLayer(784, 200, 50)

    def forward(self, x: Tensor) -> ModelOutput:
        mean, log_std = self.q1(x)
        return ModelOutput(embedding=mean, log_covariance=2 * log_std)


class Decoder(BaseDecoder):
    def __init__(self) -> None:
        super().__init__()
        self.pixels = nn.Sequential(tanh_network(50, 200), nn.Linear(200, 784), nn.Sigmoid())

    def forward(self, z: Tensor) -> ModelOutput:
        return ModelOutput(reconstruction=self.pixels(z))


def train(k: int, batch: int) -> float:
    config = IWAEConfig(input_dim=(784,), latent_dim=50, number_samples=k, reconstruction_loss="bce")
    model, images = IWAE(config, Encoder(), Decoder()), torch.rand(20_000, 784)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)

    def step() -> None:
        x = torch.bernoulli(images[torch.randint(0, len(images), (batch,))])
        optimizer.zero_grad()
        model({"data": x}).loss.backward()
        optimizer.step()

    return batch / median_seconds(step)


if __name__ == "__main__":
    torch.set_num_threads(2)
    kind, layers, k, batch = sys.argv[1:]
    if (kind, layers) != ("train", "1"):
        sys.exit("pythae's IWAE is timed in training, with one layer")
    print(train(int(k), int(batch)))
