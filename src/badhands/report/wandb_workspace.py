"""The W&B page on which runs of badhands are compared, as a saved layout.

    python -m badhands.report.wandb_workspace                        write outputs/wandb_workspace.json, no network
    python -m badhands.report.wandb_workspace entity=me save=true    save it as a view (after wandb login)

The layout is built by `wandb-workspaces` (extra `badhands[wandb]`), which can build it without a network and needs one
to save it. docs/trackers.md walks through the same page by hand.
"""

import json
from pathlib import Path
from typing import Any

import wandb
from omegaconf import DictConfig

from badhands.home import OUTPUTS, command

COLUMNS = (
    "run:displayName",
    "config:choices.value.model",
    "config:choices.value.capture",
    "config:choices.value.probe",
    "config:data.value.images",
    "summary:best_cell",
    "summary:best_auroc",
    "summary:best_p",
    "summary:direction_loss",
    "summary:d_b_peak_cell",
)
"""Pinned in the table of runs: what differs between them, then what came out."""


def workspace(entity: str, project: str, name: str = "badhands: runs side by side") -> Any:
    """The layout as a `wandb_workspaces.workspaces.Workspace`; nothing is sent.

    Raises:
        ValueError: wandb-workspaces is not installed.
    """
    try:
        import wandb_workspaces.reports.v2 as wr
        import wandb_workspaces.workspaces as ws
    except ModuleNotFoundError:
        raise ValueError("the layout needs wandb-workspaces: pip install 'badhands[wandb]'") from None

    return ws.Workspace(
        entity=entity,
        project=project,
        name=name,
        settings=ws.WorkspaceSettings(
            x_axis="step", smoothing_type="none", max_runs=20, tooltip_number_of_runs="all_runs"
        ),
        runset_settings=ws.RunsetSettings(
            groupby=[ws.Metric("Group")],
            order=[ws.Ordering(ws.Summary("best_auroc"), ascending=False)],
            pinned_columns=list(COLUMNS),
        ),
        sections=_sections(wr, ws),
    )


def _sections(wr: Any, ws: Any) -> list[Any]:
    """From which run to which cell to what it looks like."""

    def lines(title: str, curve: str, y: str) -> Any:
        """One line a block and run over the step: W&B overlays the runs that are switched on at the left."""
        pattern = f"^curve/{curve}/(double|single)\\..*$"
        return wr.LinePlot(title=title, x="step", metric_regex=pattern, title_x="step (0: pure noise)", title_y=y)

    def bars(title: str, metric: str) -> Any:
        return wr.BarPlot(title=title, metrics=[metric], orientation="h")

    layout = ws.SectionLayoutSettings(columns=2, rows=2)
    return [
        ws.Section(
            name="Which run sees it best?",
            is_open=True,
            layout_settings=layout,
            panels=[
                bars("image AUROC of the best cell, out of fold", "best_auroc"),
                bars("its p against the largest of everything tested under shuffled labels", "best_p"),
                bars("image AUROC of the best cell in the first fifth of the steps", "early_auroc"),
                bars("AUROC that one shared direction loses to each cell's own probe", "direction_loss"),
            ],
        ),
        ws.Section(
            name="Where and when?",
            is_open=True,
            layout_settings=layout,
            panels=[
                lines("image AUROC per block", "auroc", "AUROC"),
                lines("D_B, corrected for bias", "d_b_corrected", "D_B"),
                lines("D_B, plug-in", "d_b", "D_B"),
                wr.RunComparer(diff_only=True),
            ],
        ),
        ws.Section(
            name="What it looks like",
            is_open=True,
            layout_settings=layout,
            panels=[
                wr.MediaBrowser(title="overlay on fresh images", media_keys=["watch/strips"]),
                wr.MediaBrowser(title="labelled images", media_keys=["data/sheet_good", "data/sheet_bad"]),
            ],
        ),
        ws.Section(
            name="Numbers",
            panels=[wr.WeavePanelSummaryTable(table_name="cells")],
        ),
    ]


def layout(space: Any) -> dict[str, Any]:
    """The view as W&B stores it (its `spec`, with names), as plain JSON values."""
    return json.loads(space._to_model().model_dump_json(by_alias=True))


def write_layout(entity: str, project: str, out: Path) -> Path:
    """Write the layout as JSON; nothing is sent.

    Raises:
        ValueError: wandb-workspaces is not installed.
    """
    view = layout(workspace(entity, project))
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(view, indent=1) + "\n")
    return out


def save_view(entity: str, project: str) -> str:
    """Save the layout as a view of the project; returns its address.

    Raises:
        ValueError: not logged in, or wandb-workspaces is not installed.
    """
    space = workspace(entity, project)
    if not wandb.login(prompt=False, verify=False):
        raise ValueError("saving to W&B needs a login: run `wandb login`, or leave out save=true")
    space.save()
    return space.url


@command("wandb_workspace")
def main(cfg: DictConfig) -> None:
    if cfg.save:
        print(save_view(cfg.entity, cfg.project))
        return
    path = write_layout(cfg.entity, cfg.project, Path(cfg.out) if cfg.out else OUTPUTS / "wandb_workspace.json")
    print(f"layout: {path} (nothing was sent; save=true saves it to W&B)")


if __name__ == "__main__":
    main()
