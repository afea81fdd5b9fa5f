"""Loading and binarizing take no part of a run's time that one would notice."""

import time
from collections.abc import Callable

import pytest
import torch

from iwae_lab.data.binarize import resample
from iwae_lab.data.mnist import MNIST
from iwae_lab.data.mnist_5k import MNIST5k
from iwae_lab.data.protocol import content_hash, prepare
from iwae_lab.models.hierarchical import HierarchicalModel
from iwae_lab.objectives.iwae import IWAE
from iwae_lab.training.optimizers.adam import Adam

pytestmark = pytest.mark.benchmark
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def seconds(work: Callable[[], object], repeats: int) -> float:
    """Of the fastest of `repeats` calls."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return min(times)


def test_loading(real_data, tmp_path):
    data = prepare(MNIST(), real_data, 5000, None)
    full = seconds(lambda: prepare(MNIST(), real_data, 5000, None), 3)
    small = seconds(lambda: prepare(MNIST5k(), tmp_path, 5000, None), 3)
    splits = MNIST().load(real_data)
    hashing = seconds(lambda: content_hash(splits), 3)
    mean = seconds(data.mean_image, 3)
    print(f"\nmnist {full:.2f} s, mnist_5k {small:.2f} s, content hash {hashing:.3f} s, mean image {mean:.3f} s")
    assert full < 2
    assert small < 1
    assert hashing < 0.3


@pytest.mark.parametrize("batch_size", [20, 100])
def test_binarizing_a_batch(batch_size, tmp_path):
    grey = MNIST5k().load(tmp_path).train[:batch_size]
    images = torch.from_numpy(grey.copy()).to(DEVICE)
    model = HierarchicalModel([50], [[200, 200]], mean_image=images.float().mean(0).cpu() / 255).to(DEVICE)
    optimizer = Adam(0.9, 0.999, 1e-4).make(list(model.parameters()), 1e-3)
    x = resample(images)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        IWAE()(model, x, 50).loss.backward()
        optimizer.step()

    step()
    training, binarizing = seconds(step, 20), seconds(lambda: resample(images), 200)
    share = binarizing / training
    print(
        f"\nk=50, batch {batch_size}: step {training * 1e3:.2f} ms, binarizing {binarizing * 1e3:.3f} ms: {share:.1%}"
    )
    assert share < 0.1
