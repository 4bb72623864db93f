"""Hugging Face Trainer: the same weights as the plain loop, with accumulation, clipping, a schedule and a restart."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sharpscope import SharpnessAware
from tests.integrations.small import BATCH, EPOCHS, EXAMPLES, RULES, data, distance, network, optimizer_of, plain_loop

transformers = pytest.importorskip(
    "transformers", reason="transformers is not installed: pip install 'sharpscope[transformers]'"
)
pytest.importorskip("accelerate", reason="accelerate is not installed: pip install 'sharpscope[transformers]'")
pytestmark = pytest.mark.filterwarnings("ignore")  # the libraries' own


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = network()

    def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        outputs = self.net(x)
        return {"loss": F.cross_entropy(outputs, labels), "logits": outputs}


class Rows(torch.utils.data.Dataset[dict[str, Tensor]]):
    def __init__(self) -> None:
        self.x, self.y = data()

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, row: int) -> dict[str, Tensor]:
        return {"x": self.x[row], "labels": self.y[row]}


def trainer_of(folder: Path, rule: str, model: nn.Module, base: Any = None, **options: Any) -> Any:
    from sharpscope.integrations.transformers import SharpnessAwareTrainer

    class InOrder(SharpnessAwareTrainer):
        def _get_train_sampler(self, *_: Any) -> Any:
            return torch.utils.data.SequentialSampler(self.train_dataset)

    usual = {
        "num_train_epochs": EPOCHS,
        "per_device_train_batch_size": BATCH,
        "learning_rate": 0.1,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "seed": 0,
        "dataloader_pin_memory": False,
    }
    arguments = transformers.TrainingArguments(str(folder), **(usual | options))
    base = base or torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    return InOrder(model, arguments, train_dataset=Rows(), rule=rule, sharpness={"seed": 2}, optimizers=(base, None))


def losses_of(trainer: Any) -> list[float]:
    return [row["loss"] for row in trainer.state.log_history if "loss" in row]


@pytest.mark.parametrize(("rule", "micro"), [*((rule, 2) for rule in RULES), ("gnr(0.1)", 1), ("gsam(0.1)", 4)])
def test_it_is_the_plain_loop(rule: str, micro: int, tmp_path: Path) -> None:
    steps = EPOCHS * EXAMPLES // (BATCH * micro)
    net, losses, optimizer = plain_loop(rule, micro, total=steps)
    trainer = trainer_of(tmp_path, rule, model := Net(), gradient_accumulation_steps=micro)
    trainer.train()
    assert trainer.state.global_step == steps
    assert distance(model.net, net) < 1e-12
    assert losses_of(trainer) == pytest.approx(losses, abs=2e-4)  # rounded by its log
    assert trainer.optimizer.optimizer.passes == optimizer.passes


@pytest.mark.parametrize("rule", ["sam(0.1)", "gnr(0.1)"])
def test_its_clipping_is_that_of_the_final_direction(rule: str, tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, rule, model := Net(), max_grad_norm=0.05)
    trainer.train()
    assert distance(model.net, plain_loop(rule, clip=0.05)[0]) < 1e-12
    norms = [row["grad_norm"] for row in trainer.state.log_history if "grad_norm" in row]
    assert norms == pytest.approx([0.05] * len(norms), rel=1e-3)


def test_a_last_step_of_fewer_batches_and_a_learning_rate_schedule(tmp_path: Path) -> None:
    """Three micro-batches to a step, four to an epoch: the second step of an epoch has one."""
    trainer = trainer_of(
        tmp_path, "gsam(0.1)", model := Net(), gradient_accumulation_steps=3, lr_scheduler_type="linear"
    )
    trainer.train()
    net, (x, y) = network(), data()
    optimizer = optimizer_of(net, "gsam(0.1)")
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / 4)
    torch.manual_seed(0)
    for _ in range(EPOCHS):
        for rows in ([0, 8, 16], [24]):

            def closure(rows: list[int] = rows) -> Tensor:
                optimizer.zero_grad()
                parts = [F.cross_entropy(net(x[r : r + 8]), y[r : r + 8]) / len(rows) for r in rows]
                torch.stack(parts).sum().backward()
                return torch.stack(parts).sum()

            optimizer.step(closure)
            scheduler.step()
    assert trainer.state.global_step == 4
    assert distance(model.net, net) < 1e-12


def test_a_restart_from_a_checkpoint_is_the_unbroken_training(tmp_path: Path) -> None:
    rule = "rst(ssam_d(0.2, every=2), p=0.6)"
    whole = trainer_of(tmp_path, rule, model := Net(), save_strategy="epoch")
    whole.train()
    again = trainer_of(tmp_path, rule, other := Net())
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert distance(other, model) == 0.0
    assert again.optimizer.optimizer.passes == whole.optimizer.optimizer.passes


def test_the_base_is_the_one_of_the_arguments(tmp_path: Path) -> None:
    from sharpscope.integrations.transformers import SharpnessAwareTrainer

    arguments = transformers.TrainingArguments(
        str(tmp_path), max_steps=1, optim="adamw_torch", learning_rate=0.01, report_to="none", use_cpu=True,
        disable_tqdm=True, save_strategy="no", dataloader_pin_memory=False,
    )  # fmt: skip
    trainer = SharpnessAwareTrainer(model := Net(), arguments, train_dataset=Rows(), rule="sam(0.1)")
    before = copy.deepcopy(model.state_dict())
    trainer.train()
    inner = trainer.optimizer.optimizer
    assert type(inner) is SharpnessAware
    assert type(inner.base) is torch.optim.AdamW
    assert inner.clip == 1.0  # max_grad_norm's default
    assert inner.steps == 1
    assert any(not torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_model_of_the_library_trains(tmp_path: Path) -> None:
    """A tiny BERT made from its configuration, in float32: the loss of the same batch falls, and equals SAM by hand."""
    from sharpscope.integrations.transformers import SharpnessAwareTrainer

    torch.set_default_dtype(torch.float32)
    config = transformers.BertConfig(
        vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=8, num_labels=2, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    torch.manual_seed(4)
    model = transformers.BertForSequenceClassification(config)
    twin = copy.deepcopy(model)
    rng = torch.Generator().manual_seed(5)
    words, labels = torch.randint(0, 20, (4, 6), generator=rng), torch.randint(0, 2, (4,), generator=rng)
    rows = [{"input_ids": words[row], "labels": labels[row]} for row in range(4)]
    arguments = transformers.TrainingArguments(
        str(tmp_path), max_steps=3, per_device_train_batch_size=4, learning_rate=0.05, optim="sgd", report_to="none",
        max_grad_norm=0.0, lr_scheduler_type="constant", use_cpu=True, disable_tqdm=True, save_strategy="no",
        dataloader_pin_memory=False,
    )  # fmt: skip
    SharpnessAwareTrainer(model, arguments, train_dataset=rows, rule="sam(0.1)").train()
    optimizer = SharpnessAware(torch.optim.SGD(twin.parameters(), lr=0.05), "sam(0.1)")
    twin.train()

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss: Tensor = twin(input_ids=words, labels=labels).loss
        loss.backward()
        return loss

    losses = [float(optimizer.step(closure)) for _ in range(3)]
    assert losses[-1] < losses[0]
    assert distance(model, twin) < 1e-6


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("fp16", lambda trainer: setattr(trainer.args, "fp16", True)),
        ("several devices", lambda trainer: setattr(trainer.args, "_n_gpu", 2)),
    ],
)
def test_what_would_not_be_the_rule_s_step_is_refused(what: str, change: Any, tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, "sam(0.1)", model := Net())
    change(trainer)
    with pytest.raises(ValueError, match=f"SharpnessAwareTrainer got {what}, expected one process on one device in"):
        trainer.training_step(model, {"x": data()[0], "labels": data()[1]})
    assert distance(model.net, network()) == 0.0


def test_an_optimizer_that_is_not_ours_is_refused(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, "sam(0.1)", model := Net())
    with pytest.raises(TypeError, match="SharpnessAwareTrainer got a SGD as optimizer, expected the one that it made"):
        trainer.training_step(model, {"x": data()[0], "labels": data()[1]})
