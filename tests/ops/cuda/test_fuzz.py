"""The fuzzer of `conv_block` on the CUDA kernels, emulated: it makes its tensors on the CPU."""

from __future__ import annotations

import pytest
import torch

from fastinpaint.testing import fuzz
from tools.verify import emulated


@pytest.mark.slow
def test_fuzzed_convolutions_keep_the_rule_emulated() -> None:
    with emulated.installed():
        ran, wrong, _ = fuzz.fuzz(3, 40, "cuda", (torch.float32, torch.bfloat16, torch.float16))
    assert ran > 10
    assert not wrong, "\n".join(wrong)
