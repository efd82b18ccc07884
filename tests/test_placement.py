"""Precisions are chosen by what the device has."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from monai_ddad.placement import choose_precision, set_tf32
from monai_ddad.training import EnsembleTrainer, resumable


@pytest.mark.parametrize("ability", ["avx512_bf16", "amx_bf16", "bf16", "avx512_f", None])
def test_auto_is_bfloat16_where_a_processor_has_instructions_for_it(monkeypatch, ability):
    monkeypatch.setattr(
        torch.cpu, "get_capabilities", lambda: {"avx512_bf16": False} | ({ability: True} if ability else {})
    )
    assert choose_precision("auto", "cpu") == (
        "bfloat16" if ability in ("avx512_bf16", "amx_bf16", "bf16") else "float32"
    )


@pytest.mark.parametrize("precision", ["float32", "tf32", "bfloat16"])
def test_what_is_asked_for_is_taken(precision):
    assert choose_precision(precision, "cpu") == precision


def test_a_trainer_says_what_it_chose(make_discrepancy, make_dataset, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    trainer = EnsembleTrainer("cpu", 1, make_discrepancy(), make_dataset(), torch.optim.Adam, precision="auto")
    assert trainer.precision == trainer.fingerprint["precision"] == "float32"


@pytest.mark.parametrize("precision", ["float32", "tf32", "bfloat16"])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_tf32_is_for_gpus_and_its_own_precision(device, precision):
    matmul, convolution = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, convolution.allow_tf32
    try:
        matmul.allow_tf32 = convolution.allow_tf32 = precision != "tf32"
        set_tf32(torch.device(device), precision)
        assert matmul.allow_tf32 == convolution.allow_tf32 == ((precision == "tf32") == (device == "cuda"))
    finally:
        matmul.allow_tf32, convolution.allow_tf32 = before


def test_every_epoch_begins_with_the_precision_of_its_trainer(make_discrepancy, make_dataset, monkeypatch):
    asked: list[tuple[str, str]] = []
    monkeypatch.setattr(resumable, "set_tf32", lambda device, precision: asked.append((device.type, precision)))
    adam = partial(torch.optim.Adam, lr=1e-3)
    EnsembleTrainer("cpu", 2, make_discrepancy(), make_dataset(), adam, batch_size=4, precision="tf32").run()
    assert asked == [("cpu", "tf32")] * 2
