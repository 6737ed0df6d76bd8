"""ProbeBank: the probes of all cells as one LightningModule, and the stream of cells that feeds it."""

import logging
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import lightning
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchmetrics.functional.classification import binary_auroc

from badhands.cells import Cell
from badhands.probes.kinds import KINDS
from badhands.probes.nested import CellFit, fit_cell
from badhands.probes.readout import Readout
from badhands.probes.settings import ProbeSettings
from badhands.probes.standardise import working_dtype
from badhands.probes.training_rows import TrainingRows
from badhands.stats.threads import spread, together

ON_GPU = 8
"""Cells fitted at once on a GPU."""

Read = Callable[[Cell], Tensor]
"""Rows of a `TrainingRows` from one cell, [n, d]."""


class CellStream(Dataset[Any]):
    """Items of `together` cells: their indices and, of each, the [n, d] activations of those rows."""

    def __init__(self, cells: Sequence[Cell], read: Read, together: int = 1):
        self.cells, self.read, self.together = tuple(cells), read, together

    def __len__(self) -> int:
        return -(-len(self.cells) // self.together)

    def __getitem__(self, item: int) -> tuple[list[int], list[Tensor]]:
        indices = list(range(len(self.cells))[item * self.together : (item + 1) * self.together])
        return indices, spread(lambda i: self.read(self.cells[i]), indices, len(indices))


class CellData(lightning.LightningDataModule):
    """The cache as a stream of cells. No workers: a worker would copy each cell once more through a pipe."""

    def __init__(self, cells: Sequence[Cell], read: Read, together: int = 1):
        super().__init__()
        self.stream = CellStream(cells, read, together)

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.stream, batch_size=None, shuffle=False, num_workers=0)


class ProbeBank(lightning.LightningModule):
    """Linear (or one-hidden-layer) readouts of all cells: one per held-out fold and, last, one on all images.

    One epoch is the whole training: a batch is as many cells as there are threads (eight on a GPU), and a cell's rows
    are read once and serve all folds and penalties (see `solver`). Cells share rows, labels and folds, and nothing
    else; trained together they equal each trained alone.

    Weights are buffers in raw activation coordinates: `weight` [cells, folds + 1, d] (mlp: [..., h], with
    `hidden_weight` [cells, folds + 1, h, d] and `hidden_bias`), `bias` [cells, folds + 1] and
    `platt` [cells, folds + 1, 2].
    """

    weight: Tensor
    bias: Tensor
    platt: Tensor
    penalty: Tensor
    logit: Tensor
    """[cells, n] out of fold."""
    probability: Tensor
    """[cells, n] out of fold, calibrated, of the positive class."""
    token_auroc: Tensor
    """[cells] out of fold."""
    gradient: Tensor
    passes: Tensor
    hidden_weight: Tensor
    hidden_bias: Tensor

    def __init__(self, cells: Sequence[Cell], width: int, training: TrainingRows, settings: ProbeSettings):
        super().__init__()
        self.automatic_optimization = False
        self.cells, self.width, self.trained_on, self.settings = tuple(cells), width, training, settings
        c, models, n = len(self.cells), training.n_folds + 1, len(training.rows)
        self.has_hidden, self.uses_bfloat16 = KINDS[settings.kind].hidden, False
        inner = settings.hidden if self.has_hidden else width
        for name, shape in {
            "weight": (c, models, inner),
            "bias": (c, models),
            "platt": (c, models, 2),
            "penalty": (c, models),
            "logit": (c, n),
            "probability": (c, n),
            "token_auroc": (c,),
            "gradient": (c,),
            "passes": (c,),
        }.items():
            self.register_buffer(name, torch.full(shape, torch.nan))
        if self.has_hidden:
            self.register_buffer("hidden_weight", torch.full((c, models, inner, width), torch.nan))
            self.register_buffer("hidden_bias", torch.full((c, models, inner), torch.nan))
        self.unused = nn.Parameter(torch.zeros(()), requires_grad=False)

    def configure_optimizers(self) -> None:
        """None: the solver is in `training_step`."""

    def training_step(self, batch: tuple[list[int], list[Tensor]], batch_index: int) -> None:
        indices, raws = batch

        def fitted(raw: Tensor) -> CellFit:
            return fit_cell(raw, self.trained_on, self.settings)

        def on_a_stream(raw: Tensor) -> CellFit:
            stream = torch.cuda.Stream(raw.device)
            stream.wait_stream(torch.cuda.default_stream(raw.device))  # on which the rows arrive
            with torch.cuda.stream(stream):
                done = fitted(raw)
            stream.synchronize()
            return done

        # On a CPU each cell is one thread's work: sharing out the small products of one cell would cost more waiting.
        # On a GPU they are so quick that one thread cannot ask for them fast enough.
        fits = spread(on_a_stream if raws[0].is_cuda else fitted, raws, len(raws))
        for index, raw, done in zip(indices, raws, fits, strict=True):
            self._keep(index, raw, done)

    def _keep(self, index: int, raw: Tensor, done: CellFit) -> None:
        self.uses_bfloat16 = working_dtype(self.settings.precision, raw.dtype, self.width) == torch.bfloat16
        self.weight[index], self.bias[index] = done.weight, done.bias
        self.platt[index], self.penalty[index] = done.platt.to(self.platt), done.penalty.to(self.penalty)
        self.logit[index], self.probability[index] = done.logit, done.probability
        self.gradient[index], self.passes[index] = done.gradient, done.passes
        if done.hidden is not None:
            self.hidden_weight[index], self.hidden_bias[index] = done.hidden
        y = torch.from_numpy(self.trained_on.y).to(done.logit.device, torch.long)
        self.token_auroc[index] = binary_auroc(done.logit, y, validate_args=False)
        self.log("token_auroc", self.token_auroc[index], prog_bar=True, batch_size=len(y))

    @property
    def converged(self) -> Tensor:
        """bool[cells]; closed forms always are, an mlp never says.

        In bfloat16 rounding hides small gradients (see `solver.FLAT`): there, that no fit ran out of passes.
        """
        return (
            self.passes < self.settings.max_passes if self.uses_bfloat16 else self.gradient <= self.settings.tolerance
        )

    def readout(self, cell: Cell, model: int = -1) -> Readout:
        """The model on all images (or the one that did not see fold `model`), as a value that needs no bank."""
        i = self.cells.index(cell)
        hidden = (self.hidden_weight[i, model].clone(), self.hidden_bias[i, model].clone()) if self.has_hidden else None
        slope, offset = self.platt[i, model].tolist()
        return Readout(self.weight[i, model].clone(), self.bias[i, model].item(), (slope, offset), hidden)


def train_bank(
    cells: Sequence[Cell],
    width: int,
    training: TrainingRows,
    settings: ProbeSettings,
    read: Read,
    trainer: Callable[[], lightning.Trainer] | None = None,
) -> ProbeBank:
    """Fit a bank on cells of one width.

    Args:
        read: cell -> [n, d] activations of `training.rows`.
        trainer: makes a fresh Trainer of one epoch; None: on the CPU, silent.
    """
    bank = ProbeBank(cells, width, training, settings)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)  # device lists and tips, once a bank
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*configure_optimizers.*")
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        warnings.filterwarnings("ignore", message=".*has no parameters.*|.*LeafSpec.*|.*torch.jit.*")
        runner = (trainer or quiet_trainer)()
        on_cpu = runner.strategy.root_device.type == "cpu"
        at_once = together(len(training.rows) * width * 4) if on_cpu else ON_GPU
        runner.fit(bank, CellData(cells, read, at_once))
    return bank.cpu()


def quiet_trainer() -> lightning.Trainer:
    """One epoch on the CPU, no files, no bars."""
    return lightning.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
