"""As the optimizer that a Lightning module returns, with automatic optimization."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from sharpscope import SharpnessAware

lightning = pytest.importorskip("lightning", reason="lightning is not installed")


@pytest.mark.filterwarnings("ignore")  # Lightning's own
@pytest.mark.parametrize("rule", ["sgd()", "sam(0.1)", "rst(ssam_d(0.1, every=2, total=8), p=0.5)"])
def test_automatic_optimization_is_the_plain_loop(rule: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    rng = torch.Generator().manual_seed(1)
    x, y = torch.randn(32, 4, generator=rng), torch.randint(0, 2, (32,), generator=rng)

    class Module(lightning.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
            self.net.load_state_dict(plain.state_dict())

        def training_step(self, batch: Any, index: int) -> Tensor:
            return F.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            base = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)
            self.kept = SharpnessAware(base, rule, seed=2, model=self.net)
            return {"optimizer": self.kept, "lr_scheduler": torch.optim.lr_scheduler.StepLR(self.kept, 1)}

    module = Module()
    quiet = {
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "logger": False,
    }
    trainer = lightning.Trainer(max_epochs=2, accelerator="cpu", default_root_dir=tmp_path, **quiet)
    trainer.fit(module, DataLoader(TensorDataset(x, y), batch_size=8))
    base = torch.optim.SGD(plain.parameters(), lr=0.1, momentum=0.9)
    optimizer = SharpnessAware(base, rule, seed=2, model=plain)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    for _ in range(2):
        for rows in range(0, 32, 8):

            def closure(rows: int = rows) -> Tensor:
                optimizer.zero_grad()
                loss = F.cross_entropy(plain(x[rows : rows + 8]), y[rows : rows + 8])
                loss.backward()
                return loss

            optimizer.step(closure)
        schedule.step()
    assert module.kept.passes == optimizer.passes
    assert all(
        torch.equal(a, b) for a, b in zip(module.net.state_dict().values(), plain.state_dict().values(), strict=True)
    )
