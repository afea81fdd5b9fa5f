"""The Lightning module that trains a model by an objective, and its progress bar."""

import functools
import logging
import time
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from iwae_lab.console.errors import Diverged
from iwae_lab.console.progress import Meter
from iwae_lab.evaluation import keys
from iwae_lab.evaluation.active_units import active_units
from iwae_lab.evaluation.diagnostics import SNR_IMAGES, diagnose, gradient_snr
from iwae_lab.evaluation.likelihood import likelihood
from iwae_lab.evaluation.standard import VAL_K
from iwae_lab.loggers.base import RunLogger
from iwae_lab.models.base import LatentVariableModel
from iwae_lab.objectives.base import Objective
from iwae_lab.training.batches import ImageData
from iwae_lab.training.checkpoints import part_of
from iwae_lab.training.figures.samples import model_figures
from iwae_lab.training.gradients import Gradients
from iwae_lab.training.optimizers.base import OptimizerFactory
from iwae_lab.training.schedules import Schedule
from iwae_lab.training.stacked import StackedGradients
from iwae_lab.training.step import Step
from iwae_lab.training.steps import Steps

__all__ = ["Training", "TrainingProgress"]

log = logging.getLogger("iwae_lab")


class Training(pl.LightningModule):
    """Trains `model` by `objective` with k samples; every bound it logs is computed from log-weights.

    Logs once per epoch: train/bound (mean L̂_k over the images of the epoch), train/loss (the loss that was
    differentiated), train/ess (mean effective sample size, 1 to k), learning_rate, images_per_second, minutes (of
    training so far, without validation). At the schedule's evaluation epochs it also logs, on validation images that
    are binarized once: val/bound (L̂_k), val/nll (−L̂_100), val/active_units/1, … and, for trackers, figures; with
    `diagnostics` also diagnostics/ess (1 to k), diagnostics/kl/1, … (nats per layer), diagnostics/snr/generative and
    …/inference (the gradient's signal-to-noise ratio in θ and φ). Bounds, losses and NLL are in nats.
    """

    def __init__(
        self,
        model: LatentVariableModel,
        objective: Objective,
        optimizer: OptimizerFactory,
        schedule: Schedule,
        k: int,
        compile: str = "auto",
        precision: str = "32",
        diagnostics: bool = False,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.diagnostics = diagnostics
        self.model = model
        self.objective = objective
        self.optimizer = optimizer
        self.schedule = schedule
        self.k = k
        self.mode = compile if objective.compilable else "false"
        if compile == "true" and not objective.compilable:
            log.info("compile=true: not with objective=%s, which is not compilable", type(objective).__name__)
        self.add_gradients = Gradients(model, objective, k, precision)
        self.others = nn.ModuleList()  # see `stack_with`
        self.steps_per_epoch = self.steps = 0  # optimizer steps, by epoch and in total; known once training starts
        self.step = 0  # the current one; on CUDA, with graphs, that of the last group of batches
        self.seconds = 0.0
        self.images_seen = 0
        self.curve: list[dict[str, float]] = []  # the metrics of each epoch
        self.initial_optimizer: dict[int, Any] = {}  # state of the optimizer by the parameter's index

    def stack_with(self, others: Sequence["Training"]) -> None:
        """Train others, which differ in their seeds alone, at the same steps; batches are then [models, batch, pixels].

        Logs are of this one's model. Each has its `curve`, but one that diverges ends the training of all.
        """
        self.others.extend(others)

    @property
    def members(self) -> list["Training"]:
        """This one, and those trained with it."""
        return [self, *self.others]

    def start_from(self, checkpoint: dict[str, Any], alike: Collection[str]) -> None:
        """Start from another run's weights and, as far as its settings are the same, from its other state.

        This is the second stage of Burda et al. 2016, section 5.2. alike: which of "objective" and "optimizer" have
        that run's option and keys; the state of others would not suit them. Exported weights have no other state.
        """
        state = checkpoint["state_dict"]
        self.model.load_state_dict(part_of(state, "model."))
        of_objective = part_of(state, "objective.")
        if "objective" in alike and of_objective:
            self.objective.load_state_dict(of_objective)
        if "optimizer_states" not in checkpoint:
            return
        if "optimizer" not in alike:
            log.info("init_from: that run's optimizer has other settings; this one starts without its state")
            return
        initial = checkpoint["optimizer_states"][0]["state"]
        if not initial:
            log.info("init_from: that run, of a stack, left no state of its optimizer")
        modules = [self.model, *([self.objective] if "objective" in alike else [])]
        known = sum(len(list(module.parameters())) for module in modules)
        self.initial_optimizer = {index: entry for index, entry in initial.items() if index < known}

    def configure_optimizers(self) -> Any:
        modules = [module for one in self.members for module in (one.model, one.objective)]
        parameters = [parameter for module in modules for parameter in module.parameters()]
        optimizer = self.optimizer.make(parameters, self.schedule.learning_rate)
        if self.initial_optimizer:
            optimizer.load_state_dict({**optimizer.state_dict(), "state": self.initial_optimizer})
        return optimizer

    def setup(self, stage: str) -> None:
        for one in self.members:
            one.trainer = self.trainer
            one.steps_per_epoch = self.trainer.datamodule.train_dataloader().batches  # type: ignore[attr-defined]
        self.steps = self.schedule.epochs * self.steps_per_epoch

    def on_train_start(self) -> None:
        optimizer = self.optimizers(use_pl_optimizer=False)
        assert isinstance(optimizer, torch.optim.Optimizer)
        graphs = self.device.type == "cuda" and self.objective.compilable
        each = [one.add_gradients for one in self.members]
        step = Step(StackedGradients(each) if self.others else self.add_gradients, optimizer)
        self.execute = Steps(step, self.mode, graphs=graphs, after_call=self.after_call)

    def on_train_end(self) -> None:
        del self.execute  # graphs hold memory

    def on_train_epoch_start(self) -> None:
        for one in self.members:
            one.add_gradients.start_sums(self.device)
            one.objective.begin_epoch(self.current_epoch)
        self.epoch_images = 0
        self.epoch_start = time.monotonic()

    def training_step(self, batches: tuple[Tensor, ...], index: int) -> None:
        """Take one optimizer step per batch."""
        self.step = done = self.global_step
        rates = [self.rate_of(done + i) for i in range(1, len(batches) + 1)]
        self.execute(batches, rates, self.steps - done)
        self.epoch_images += sum(x.shape[-2] for x in batches)
        progress = self.trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress
        for _ in batches:  # counts as Lightning's optimizer wrapper does
            progress.increment_ready()
            progress.increment_completed()

    def rate_of(self, step: int) -> float:
        """The learning rate of a step, counted from 1 (`param_groups` holds that of the last captured CUDA graph)."""
        return self.schedule.rate((step - 1) / self.steps_per_epoch)

    def after_call(self, loss: Tensor) -> None:
        """On a CPU, raises `Diverged` if the step's loss is not finite; elsewhere that is checked once per epoch."""
        self.step += 1
        if self.device.type == "cpu" and not loss.isfinite().all():
            raise self.diverged(f"the loss is {loss.sum().item()}", self.step)

    def train_bound(self) -> float:
        """Mean L̂_k of the epoch so far (waits for the device)."""
        return self.add_gradients.sums[0].item() / max(1, self.epoch_images)

    def on_train_epoch_end(self) -> None:
        means = torch.stack([one.add_gradients.sums for one in self.members]) / self.epoch_images
        each = means.tolist()  # waits for the device
        seconds = time.monotonic() - self.epoch_start
        for one, (bound, loss, ess) in zip(self.members, each, strict=True):
            one.end_epoch(bound, loss, ess, self.epoch_images, seconds)
        metrics = self.curve[-1]
        for logger in self.loggers:  # now, before the epoch is checkpointed: Lightning would log it afterwards
            logger.log_metrics(metrics, self.global_step)
            logger.save()

    def end_epoch(self, bound: float, loss: float, ess: float, images: int, seconds: float) -> None:
        """Append an epoch's means and other metrics to `curve`; its steps took `seconds`. Raises `Diverged`."""
        for name, mean in (("loss", loss), ("bound", bound)):
            if not np.isfinite(mean):
                raise self.diverged(f"the mean {name} of the epoch is {mean}", self.global_step)
        if not torch.stack([parameter.isfinite().all() for parameter in self.parameters()]).all():
            raise self.diverged("a weight is not finite", self.global_step)
        self.seconds += seconds
        self.images_seen += images
        metrics = {
            keys.EPOCH: float(self.current_epoch + 1),
            keys.TRAIN_BOUND: bound,
            keys.TRAIN_LOSS: loss,
            keys.TRAIN_ESS: ess,
            keys.LEARNING_RATE: self.rate_of(self.global_step),
            keys.IMAGES_PER_SECOND: images / max(seconds, 1e-9),  # the clock is coarse
            keys.MINUTES: self.seconds / 60,
        }
        if self.current_epoch + 1 in self.schedule.evaluation_epochs():
            metrics |= self.validate()
        self.curve.append(metrics)

    def diverged(self, what: str, step: int) -> Diverged:
        """An error that names the step, the learning rate and the first parameter that is not finite."""
        blame = "every parameter and gradient is finite"
        for of, tensors in (
            ("value", self.named_parameters()),
            ("gradient", ((name, p.grad) for name, p in self.named_parameters())),
        ):
            first = next((name for name, tensor in tensors if tensor is not None and not tensor.isfinite().all()), None)
            if first is not None:
                blame = f"first non-finite {of}: {first}"
                break
        when = f"step {step} (epoch {self.current_epoch + 1}, learning rate {self.rate_of(step):.3g})"
        return Diverged(f"training diverged: {what} at {when}; {blame}")

    def validate(self) -> dict[str, float]:
        """Measure the model and draw figures on the validation images; training's random numbers don't change."""
        data: ImageData = self.trainer.datamodule  # type: ignore[attr-defined]
        images = data.val
        units = active_units(self.model, images)
        draw = functools.cache(lambda: model_figures(self.model, images, data.shape, units))
        for logger in self.loggers:
            if isinstance(logger, RunLogger):
                logger.log_figures(draw, self.global_step)
        metrics = {
            keys.VAL_BOUND: -likelihood(self.model, images, self.k).nll,
            keys.VAL_NLL: likelihood(self.model, images, VAL_K).nll,
            **{keys.of_layer(keys.VAL_ACTIVE_UNITS, level): float(n) for level, n in enumerate(units.counts, 1)},
        }
        if self.diagnostics:
            diagnostics = diagnose(self.model, images, self.k)
            snr = gradient_snr(self.objective, self.model, images[:SNR_IMAGES].float(), self.k)
            metrics |= {
                keys.DIAGNOSTICS_ESS: diagnostics.ess.mean().item(),
                **{
                    keys.of_layer(keys.DIAGNOSTICS_KL, level): kl.sum().item()
                    for level, kl in enumerate(diagnostics.kl, 1)
                },
                keys.SNR_GENERATIVE: snr.generative.overall,
                keys.SNR_INFERENCE: snr.inference.overall,
            }
        return metrics

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["precision"] = self.add_gradients.precision
        checkpoint["so_far"], *others = [[one.seconds, one.images_seen, one.curve] for one in self.members]
        if others:
            checkpoint["others_so_far"] = others

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        so_far = [checkpoint["so_far"], *checkpoint.get("others_so_far", [])]
        for one, (seconds, images, curve) in zip(self.members, so_far, strict=True):
            one.seconds, one.images_seen, one.curve = seconds, images, curve


class TrainingProgress(pl.Callback):
    """Shows the epoch, the bound and the rate while training."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, Training)
        self.first_step, self.start = trainer.global_step, time.monotonic()
        self.meter = Meter("training", trainer.global_step / pl_module.steps)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not self.meter.due():
            return
        assert isinstance(pl_module, Training)
        steps_a_second = (trainer.global_step - self.first_step) / (time.monotonic() - self.start)
        self.meter.show(
            trainer.global_step / pl_module.steps,
            f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}  bound {pl_module.train_bound():.2f}  "
            f"{steps_a_second * pl_module.schedule.batch_size:,.0f} images/s",
        )

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.meter.close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        if hasattr(self, "meter"):
            self.meter.close()
