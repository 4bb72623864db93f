"""Lightning: clipping acts once, logs are L(w), and the weights are those of the plain loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader

from tests.integrations.small import BATCH, EPOCHS, RULES, dataset, distance, network, optimizer_of, plain_loop

lightning = pytest.importorskip("lightning", reason="lightning is not installed: pip install 'sharpscope[lightning]'")
pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's own
QUIET = {
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "enable_checkpointing": False,
    "logger": False,
    "accelerator": "cpu",
}


def module_of(rule: str, manual: bool = False, base: Any = None, **options: Any) -> Any:
    from sharpscope.integrations.lightning import SharpnessAwareModule

    class Automatic(base or SharpnessAwareModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.net, self.seen, self.means = network(), [], []

        def training_step(self, batch: Any, index: int) -> Tensor:
            loss = F.cross_entropy(self.net(batch[0]), batch[1])
            self.log("loss", loss, on_step=True, on_epoch=True)
            return loss

        def configure_optimizers(self) -> Any:
            self.kept = optimizer_of(self.net, rule, **options)
            return self.kept

        def on_train_batch_end(self, *_: Any) -> None:
            self.seen.append(float(self.trainer.callback_metrics["loss_step"]))

        def on_train_epoch_end(self) -> None:
            self.means.append(float(self.trainer.callback_metrics["loss_epoch"]))

    class Manual(Automatic):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch: Any, index: int) -> None:
            optimizer = self.optimizers()

            def closure() -> Tensor:
                optimizer.zero_grad()
                loss = F.cross_entropy(self.net(batch[0]), batch[1])
                self.manual_backward(loss)
                return loss

            self.log("loss", optimizer.step(closure), on_step=True, on_epoch=True)

    return Manual() if manual else Automatic()


def fit(module: Any, folder: Path, **options: Any) -> None:
    torch.manual_seed(0)
    trainer = lightning.Trainer(max_epochs=EPOCHS, default_root_dir=folder, **QUIET, **options)
    trainer.fit(module, DataLoader(dataset(), batch_size=BATCH))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("manual", [False, True], ids=["automatic", "manual"])
def test_it_is_the_plain_loop(rule: str, manual: bool, tmp_path: Path) -> None:
    net, losses, optimizer = plain_loop(rule)
    module = module_of(rule, manual, base=lightning.LightningModule if manual else None)
    fit(module, tmp_path)
    assert distance(module.net, net) == 0.0
    assert module.kept.passes == optimizer.passes
    assert module.seen == pytest.approx(losses, abs=1e-14)
    half = len(losses) // 2
    assert module.means == pytest.approx([sum(losses[:half]) / half, sum(losses[half:]) / half], abs=1e-12)


@pytest.mark.parametrize("rule", ["sam(0.1)", "gnr(0.1)", "gsam(0.1)"])
def test_the_trainer_s_clipping_is_that_of_the_final_direction(rule: str, tmp_path: Path) -> None:
    net, _, _ = plain_loop(rule, clip=0.05)
    module = module_of(rule)
    fit(module, tmp_path, gradient_clip_val=0.05)
    assert distance(module.net, net) == 0.0
    assert distance(net, plain_loop(rule)[0]) > 1e-3


def test_without_the_mixin_every_pass_would_be_clipped(tmp_path: Path) -> None:
    """What the mixin is for; should Lightning change, it may go."""
    module = module_of("gnr(0.1)", base=lightning.LightningModule)
    fit(module, tmp_path, gradient_clip_val=0.05)
    assert distance(module.net, plain_loop("gnr(0.1)", clip=0.05)[0]) > 1e-6
    assert module.seen != pytest.approx(plain_loop("gnr(0.1)")[1], abs=1e-9)


def test_clipping_by_value_is_refused(tmp_path: Path) -> None:
    module = module_of("sam(0.1)")
    with pytest.raises(ValueError, match="SharpnessAwareModule got gradient_clip_algorithm='value', expected 'norm'"):
        fit(module, tmp_path, gradient_clip_val=0.05, gradient_clip_algorithm="value")
    assert distance(module.net, network()) < 1.0  # and no step was half taken
    assert torch.equal(module.net[1].weight, network()[1].weight)


def test_another_optimizer_is_not_clipped_in_silence(tmp_path: Path) -> None:
    module = module_of("sam(0.1)")
    module.configure_optimizers = lambda: torch.optim.SGD(module.net.parameters(), lr=0.1)
    with pytest.raises(
        TypeError, match="SharpnessAwareModule got a SGD to clip, expected a SharpnessAware: return one"
    ):
        fit(module, tmp_path, gradient_clip_val=0.05)


def test_accumulated_batches_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="got gradients from before it that the closure does not clear"):
        fit(module_of("sam(0.1)"), tmp_path, accumulate_grad_batches=2)
