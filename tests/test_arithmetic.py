"""Which arithmetic `precision=auto` chooses."""

import pytest
import torch

from iwae_lab.arithmetic import fastest_precision


def test_precision_auto_is_fp32_where_bf16_was_seen_to_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    assert fastest_precision(torch.device("cuda"), batch_size=100, k=5) == "bf16"
    assert fastest_precision(torch.device("cuda"), batch_size=100, k=50) == "32"
    assert fastest_precision(torch.device("cpu"), batch_size=100, k=50) == "32"
