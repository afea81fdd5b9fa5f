"""Training on several devices of one machine, a process each.

The process of the run has rank 0 and does all that it does with one device. Helper processes hold the same model and
compute their share of every batch, with noise of their own. Gradients are averaged here, once a step, and not by
torch's DistributedDataParallel: its hooks want one backward pass from one `forward` of the module it wraps, where
objectives call other methods of the model and may descend two losses, each in some of the parameters.
"""

import contextlib
import logging
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, distributed, nn

__all__ = ["OwnNoise", "all_reduce", "average_gradients", "broadcast", "rank", "shard", "workers", "world_size"]

PATIENCE = timedelta(hours=1)  # while rank 0 validates and saves


def world_size() -> int:
    """How many devices train together."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def rank() -> int:
    """This process's number among them; 0 is the run itself."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def broadcast(tensor: Tensor) -> Tensor:
    """Rank 0's values of `tensor`, on every device."""
    if world_size() > 1:
        distributed.broadcast(tensor, src=0)
    return tensor


def shard(batch: Tensor) -> Tensor:
    """This device's rows of a batch; none, where there are fewer rows than devices before it."""
    return batch[rank() :: world_size()]


def all_reduce(tensor: Tensor) -> Tensor:
    """The sum of `tensor` over all devices."""
    if world_size() > 1:
        distributed.all_reduce(tensor)
    return tensor


@torch.no_grad()
def average_gradients(module: nn.Module, images: int) -> None:
    """Replace gradients by their mean over the images of all devices, and buffers (running means) likewise.

    images: how many of them this device's gradients are the mean over. A parameter without a gradient counts as
    one whose gradient is zero.
    """
    if world_size() == 1:
        return
    tensors = [buffer for buffer in module.buffers() if buffer.is_floating_point()]
    for parameter in module.parameters():
        if parameter.requires_grad:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            tensors.append(parameter.grad)
    flat = torch.cat([tensor.flatten() for tensor in tensors] + [tensors[0].new_ones(1)])
    *means, weight = all_reduce(flat * images).split([tensor.numel() for tensor in tensors] + [1])
    for tensor, mean in zip(tensors, means, strict=True):
        tensor.copy_((mean / weight).view_as(tensor))


class OwnNoise(pl.Callback):
    """Gives a helper a stream of random numbers for each epoch, so that a run can resume after any of them."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        (stream,) = np.random.SeedSequence([self.seed, rank(), trainer.current_epoch]).generate_state(1)
        pl.seed_everything(int(stream), verbose=False)


@contextlib.contextmanager
def workers(devices: int, kind: str, work: Callable[..., None], *arguments: Any) -> Iterator[None]:
    """Run `work(*arguments)` in a process for each device but the first, beside what is done inside.

    kind: "cpu" or "cuda". CPU threads are divided. What is given must be picklable. Helpers get neither Ctrl-C nor
    SIGTERM, and end with this process. Raises `RuntimeError` with the reason if one fails.
    """
    if devices == 1:
        yield
        return
    threads = torch.get_num_threads()
    divided = max(1, threads // devices)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        running = [_start(folder, number, devices, kind, divided, work, arguments) for number in range(1, devices)]
        try:
            store = distributed.FileStore(str(folder / "store"), devices)
            while store.add("ready", 0) < devices - 1:
                _check(running, folder)
                time.sleep(0.01)
            _meet(store, 0, devices, kind)
            torch.set_num_threads(divided)
            try:
                yield
                _wait(running, folder, None)
            except RuntimeError:  # of a lost connection, where a helper has failed
                _wait(running, folder, 5.0)
                raise
        finally:
            torch.set_num_threads(threads)
            for helper in running:
                helper.kill()
                helper.communicate()
            if distributed.is_initialized():
                distributed.destroy_process_group()


def _start(folder: Path, number: int, *job: Any) -> subprocess.Popen[bytes]:
    """A process that does `_help`: not multiprocessing's, which asks much of `__main__` and fails inside joblib's."""
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})  # the helper inherits it
    try:
        with (folder / f"{number}.err").open("wb") as errors:
            helper = subprocess.Popen(
                [sys.executable, "-c", "from iwae_lab.training.distributed import _help; _help()"],
                env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=errors,
            )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    assert helper.stdin
    pickle.dump((folder, number, *job), helper.stdin)
    helper.stdin.flush()
    return helper


def _wait(running: list[subprocess.Popen[bytes]], folder: Path, timeout: float | None) -> None:
    for helper in running:
        with contextlib.suppress(subprocess.TimeoutExpired):
            helper.wait(timeout)
    _check(running, folder)


def _check(running: list[subprocess.Popen[bytes]], folder: Path) -> None:
    """Raise the error of a helper that has failed."""
    for number, helper in enumerate(running, 1):
        if helper.poll():
            said = (folder / f"{number}.err").read_text().strip() or f"exit code {helper.returncode}"
            raise RuntimeError(f"device {number} failed: {said.splitlines()[-1]}") from RuntimeError(said)


def _meet(store: distributed.Store, number: int, devices: int, kind: str) -> None:
    distributed.init_process_group(
        "nccl" if kind == "cuda" else "gloo",
        store=store,
        rank=number,
        world_size=devices,
        timeout=PATIENCE,
        device_id=torch.device(kind, number) if kind == "cuda" else None,
    )


def _help() -> None:
    """The life of a helper, which says nothing unless it fails."""
    folder, number, devices, kind, threads, work, arguments = pickle.load(sys.stdin.buffer)
    threading.Thread(target=_end_with_the_run, daemon=True).start()
    logging.disable()
    warnings.simplefilter("ignore")
    torch.set_num_threads(threads)
    store = distributed.FileStore(str(folder / "store"), devices)
    store.add("ready", 1)
    try:
        _meet(store, number, devices, kind)
        work(*arguments)
        distributed.destroy_process_group()
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)  # now: torch's threads would add words of their own to the reason


def _end_with_the_run() -> None:
    os.read(sys.stdin.fileno(), 1)  # waits until the run's end of the pipe is closed
    os._exit(1)
