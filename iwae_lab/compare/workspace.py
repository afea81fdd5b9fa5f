"""The comparison as saved workspaces of a W&B project, one per protocol; needs the extra `workspace`."""

from typing import Any

import wandb

from iwae_lab.compare.tables import Table
from iwae_lab.console.errors import UserError
from iwae_lab.evaluation.keys import (
    EPOCH,
    TEST_ACTIVE_UNITS,
    TEST_NLL,
    TEST_NLL_SE,
    TRAIN_BOUND,
    VAL_ACTIVE_UNITS,
    VAL_BOUND,
    VAL_NLL,
    of_layer,
)
from iwae_lab.loggers.wandb_agent import DESCRIPTIVE, OVERRIDES

try:
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws
except ModuleNotFoundError:
    raise UserError("--workspace needs wandb-workspaces: pip install 'iwae-lab[workspace]'") from None

__all__ = ["make_workspace", "save_workspaces"]

_PICTURES = ("samples", "reconstructions", "log_variances")


def save_workspaces(path: str, tables: list[Table], chosen: bool) -> list[str]:
    """Save a workspace for each table in the project `path`, ENTITY/PROJECT; returns their addresses.

    chosen: show only the runs in the tables; otherwise later runs appear too.
    Raises `UserError` without credentials, or if W&B refuses.
    """
    entity, slash, project = path.partition("/")
    if not (entity and slash and project) or "/" in project:
        raise UserError(f"--workspace {path}: expected ENTITY/PROJECT")
    if not wandb.login(prompt=False, verify=False):
        raise UserError(f"--workspace {path}: expected credentials of W&B; `wandb login` stores them")
    addresses = []
    for table in tables:
        workspace = make_workspace(entity, project, table, chosen)
        try:
            addresses.append(workspace.save().url)
        except (wandb.Error, wandb.errors.CommError, KeyError, TypeError, ValueError) as error:
            raise UserError(f"--workspace {path}: W&B did not save {workspace.name} ({error})") from None
    return addresses


def make_workspace(entity: str, project: str, table: Table, chosen: bool) -> ws.Workspace:
    """The workspace for `table`, not yet saved."""
    filters: list[Any] = [ws.Config("protocol") == table.protocol, ws.Metric("State") == "finished"]
    if chosen:
        filters.append(ws.Config("run_id").isin(sorted(run.record.run_id for run in table.runs)))
    by = table.by if table.by in (*OVERRIDES, *DESCRIPTIVE) else f"parameters.{table.by}"
    layers = range(1, 1 + max(len(run.active_units) for run in table.runs))
    units = [of_layer(TEST_ACTIVE_UNITS, layer) for layer in layers]
    return ws.Workspace(
        entity=entity,
        project=project,
        name=f"comparison {table.protocol}",
        sections=[
            ws.Section(
                name=f"Test NLL and active units against {table.by}",
                panels=[_against(by, TEST_NLL, "test NLL (nats)"), *(_against(by, key, key) for key in units)],
                is_open=True,
            ),
            ws.Section(name="Training", panels=_curves([of_layer(VAL_ACTIVE_UNITS, n) for n in layers]), is_open=True),
            ws.Section(
                name="Images",
                panels=[wr.MediaBrowser(title=name, media_keys=[f"figures/{name}"]) for name in _PICTURES],
                is_open=True,
            ),
            ws.Section(name="Configurations", panels=[wr.RunComparer(diff_only="split")]),
        ],
        runset_settings=ws.RunsetSettings(
            filters=ws.And(*filters),
            groupby=[ws.Config(key) for key in dict.fromkeys(("model", "objective", by))],
            order=[ws.Ordering(ws.Summary(TEST_NLL), ascending=True)],
            pinned_columns=[f"summary:{key}" for key in (TEST_NLL, TEST_NLL_SE, *units)],
        ),
    )


def _against(by: str, key: str, title: str) -> wr.ScatterPlot:
    return wr.ScatterPlot(title=title, x=wr.Config(by), y=wr.SummaryMetric(key), log_x=by == "k")


def _curves(units: list[str]) -> list[Any]:
    plots: dict[str, list[Any]] = {
        "validation bound (nats)": [VAL_BOUND],
        "training bound (nats)": [TRAIN_BOUND],
        "validation NLL (nats)": [VAL_NLL],
        "active units": units,
    }
    return [wr.LinePlot(title=title, x=EPOCH, y=keys) for title, keys in plots.items()]
