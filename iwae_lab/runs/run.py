"""run(cfg): a whole job, from the composed configuration to the record."""

import contextlib
import copy
import dataclasses
import logging
import math
import shlex
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf

from iwae_lab.console.atomic import remove_partial_files, writable, write_atomically
from iwae_lab.console.errors import Diverged, UserError, require
from iwae_lab.console.explain import explain
from iwae_lab.console.logs import log_file, log_to_console
from iwae_lab.console.signals import interrupt_on_signals
from iwae_lab.evaluation.kept import Kept
from iwae_lab.evaluation.keys import AIS_NLL, DIAGNOSTICS_ESS, GAPS_AMORTIZATION, TEST_NLL, VAL_NLL
from iwae_lab.loggers.base import RunLogger, log_finished
from iwae_lab.models.base import LatentVariableModel
from iwae_lab.models.check import check_model
from iwae_lab.runs.experiment import Experiment, resolve
from iwae_lab.runs.folder import (
    claimed,
    earlier_metrics,
    earlier_record,
    read_checkpoint,
    write_figures,
    write_per_image,
)
from iwae_lab.runs.interrupted_evaluation import resumable
from iwae_lab.runs.launch import sweep_name
from iwae_lab.runs.measure import measure, require_measurable
from iwae_lab.runs.record import Record, now, read_record
from iwae_lab.runs.stack import require_stackable, train_stack
from iwae_lab.runs.summary import print_record
from iwae_lab.training.checkpoints import part_of
from iwae_lab.training.figures.result import result_figures
from iwae_lab.training.fit import TrainingResult, fit
from iwae_lab.training.gradients import Gradients

__all__ = ["run"]

log = logging.getLogger("iwae_lab")


def run(cfg: DictConfig, on_start: Callable[[Path], None] = lambda log_path: None) -> Record:
    """Train and evaluate the model that `cfg` describes, in a folder of its own; returns the record.

    A finished run is only shown, and an interrupted one resumes from its last checkpoint. If `init_from` describes a
    first stage, that is run first, unless it is finished. on_start: called with the path of the run's log, unless the
    run is finished already. Raises `UserError`, before anything is written, for a configuration that can't be run.
    """
    experiment = resolve(cfg)
    interrupt_on_signals()
    log_to_console()
    experiment.prepare_cpu()
    return _run(experiment, on_start)


def _run(experiment: Experiment, on_start: Callable[[Path], None]) -> Record:
    folder, runs_dir = experiment.folder, experiment.config.runs_dir
    known = None if experiment.config.force else earlier_record(folder)
    finished = known is not None and known.status == "finished"
    if not finished:
        _require_runnable(experiment)
    require("runs_dir", runs_dir, writable(Path(runs_dir)), "a directory that can be written")
    if experiment.first is not None and not finished:
        _run(experiment.first, on_start)
    with claimed(folder, experiment.config.force):
        earlier = earlier_record(folder)
        again = "force=true" if experiment.config.stack == 1 else "moving its folder away"
        if earlier and earlier.status == "finished":
            log.info("this run is finished; %s runs it again", again)
            _tell_what_is_not_measured(experiment, earlier)
            sweep = sweep_name()
            log_finished(experiment.trackers(earlier, sweep))
            if sweep is None:  # a multirun ends with a table of its own
                print_record(earlier, folder)
            return earlier
        if earlier and earlier.status == "diverged":
            raise UserError(
                f"{folder}: {earlier.error}; the same would happen again: expected other settings, such as a lower "
                f"schedule.learning_rate, or {again} to train it from the start"
            )
        record = experiment.record(earlier.precision if earlier else experiment.precision)  # a resumed run keeps it
        trackers = experiment.trackers(record, sweep_name())
        folder.mkdir(exist_ok=True)
        remove_partial_files(folder)
        on_start(folder / "log.txt")
        with log_file(folder / "log.txt"), _recorded(record, folder, experiment.training_folder):
            write_atomically(folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(record.config)))
            log.info("%s", folder)
            if experiment.config.stack > 1:
                train_stack(experiment, record)
            with _started(trackers, earlier_metrics(folder)) as started:
                trained = _train(experiment, record.precision, started)
                with resumable(folder, experiment.config) as kept:
                    record = _measure(experiment, record, trained, started, kept)
        print_record(record, folder)
        return record


def _require_runnable(experiment: Experiment) -> None:
    """Raise `UserError`, before anything is written, if data, model, objective and evaluation don't go together."""
    with torch.random.fork_rng(devices=[]):
        images = next(n for n in range(3, 100) if experiment.config.k % n)  # else [batch, k] could pass for [k, batch]
        model, x = experiment.model(), experiment.data.val[:images].float()
        check_model(model, x)
        _require_same_model(experiment, model)
        require_measurable(model, experiment.data, experiment.config)
        objective = copy.deepcopy(experiment.objective)
        before = objective.attributes()
        Gradients(model, objective, experiment.config.k)(x)
        changed = [name for name, value in objective.attributes().items() if before.get(name) != value]
        if objective.compilable and changed:
            name = type(objective).__name__
            raise UserError(f"objective={name}: expected compilable = False, since a call changes {changed[0]}")
        if experiment.config.stack > 1:
            require_stackable(experiment, model, x)


def _require_same_model(experiment: Experiment, model: LatentVariableModel) -> None:
    """Raise `UserError` if `init_from` is or would be a run without weights that fit the model.

    Warns if that run is on other images.
    """
    if experiment.init_from is None:
        return
    try:
        if experiment.first is not None:
            first, state = experiment.first.identity, experiment.first.model().state_dict()
        else:
            first = read_record(experiment.init_from).identity
            state = part_of(read_checkpoint(experiment.init_from)["state_dict"], "model.")
        model.load_state_dict(state)
    except UserError as error:
        raise UserError(f"init_from: {error}") from None
    except RuntimeError:
        raise UserError(
            f"init_from: expected weights of model={experiment.config.model['name']} and its keys, found those of "
            f"model={first['model']['name']}, which don't fit ({experiment.init_from})"
        ) from None
    own, others = ((data["name"], data.get("content")) for data in (experiment.identity["dataset"], first["dataset"]))
    if own != others:
        log.warning(
            "init_from: trained on other images (%s, not %s): one may have trained on what the other tests on",
            *(" ".join(filter(None, data)) for data in (others, own)),
        )


def _tell_what_is_not_measured(experiment: Experiment, finished: Record) -> None:
    """Name the commands that add what the configuration asks for and the finished record lacks."""
    asked, where = experiment.config.evaluation, shlex.quote(str(experiment.folder))
    if experiment.config.diagnostics and DIAGNOSTICS_ESS not in finished.metrics:
        log.info("not measured: python -m iwae_lab.evaluate %s diagnostics=true", where)
    for key, node, metric in (("ais", asked.ais, AIS_NLL), ("gaps", asked.gaps, GAPS_AMORTIZATION)):
        if node.images and metric not in finished.metrics:
            changed = vars(node).items() - vars(type(node)()).items()
            overrides = " ".join(f"evaluation.{key}.{name}={value}" for name, value in sorted(changed))
            log.info("not measured: python -m iwae_lab.evaluate %s %s", where, overrides)


def _train(experiment: Experiment, precision: str, trackers: Sequence[RunLogger]) -> TrainingResult:
    batch_size, images = experiment.schedule.batch_size, len(experiment.data.train)
    if batch_size > images:
        log.warning(
            "schedule.batch_size=%d: more than the %d training images, so an epoch is one step", batch_size, images
        )
    training = experiment.training(precision, experiment.config.seed)
    return fit(training, experiment.images(), experiment.device.type, trackers, experiment.folder)


def _measure(
    experiment: Experiment, record: Record, trained: TrainingResult, trackers: Sequence[RunLogger], kept: Kept
) -> Record:
    """Measure the trained model and write the finished record, per-image results and figures; trackers get them too."""
    config, data, device = experiment.config, experiment.data, experiment.device
    model = trained.model.to(device)
    measurements = measure(model, data, config, device, kept=kept)
    metrics = trained.metrics() | measurements.metrics()
    for key in (VAL_NLL, TEST_NLL):
        if not math.isfinite(metrics[key]):
            raise Diverged(f"{key} of the trained model is {metrics[key]}")
    write_per_image(experiment.folder, measurements.per_image())
    figures = result_figures(model, data, measurements.standard.units, metrics, trained.curve)
    write_figures(experiment.folder, figures)
    finished = dataclasses.replace(
        record,
        status="finished",
        steps=trained.steps,
        train_seconds=trained.seconds,
        images_per_second=trained.images_per_second,
        metrics=metrics,
        finished=now(),
    )
    for tracker in trackers:
        tracker.log_result(finished, figures)
    finished.write(experiment.folder)
    return finished


@contextlib.contextmanager
def _started(trackers: list[RunLogger], rows: list[dict[str, float]]) -> Iterator[list[RunLogger]]:
    """Start the trackers after `rows`, the metrics of earlier epochs, and close them when the run ends or fails."""
    with contextlib.ExitStack() as opened:
        for tracker in trackers:
            tracker.start(rows)
            opened.push(lambda kind, *_, tracker=tracker: tracker.close(failed=kind is not None))
        yield trackers


@contextlib.contextmanager
def _recorded(record: Record, folder: Path, training_folder: Path) -> Iterator[None]:
    """Write the record of a running run, and if the run fails or is interrupted before its result, the reason."""
    record.write(folder)

    def end(status: str, error: str | None = None, finished: str | None = None) -> None:
        with contextlib.suppress(OSError, UserError):  # the disk may be the reason
            if read_record(folder).status != "finished":  # else it was a tracker
                dataclasses.replace(record, status=status, error=error, finished=finished).write(folder)

    try:
        yield
    except Exception as error:
        end("diverged" if isinstance(error, Diverged) else "failed", error=explain(error), finished=now())
        log.debug("%s", traceback.format_exc())  # to the file; the terminal gets one line
        raise
    except BaseException as stop:  # Ctrl-C, or SIGTERM, after which Lightning would exit with code 0
        end("interrupted")
        saved = any(path for where in (folder, training_folder) for path in where.glob("checkpoints/*.ckpt"))
        log.warning("interrupted; the same command %s", "resumes where this one was" if saved else "starts again")
        raise stop if isinstance(stop, SystemExit) else SystemExit(130) from None  # submitit: queued again
