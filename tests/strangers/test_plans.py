"""Plans of public networks give what the stock model gives, in float32, on the kernels that users run."""

from __future__ import annotations

import os

import pytest
import torch

from fastinpaint.acceleration import sandbox, search, select
from fastinpaint.acceleration.adapt import adapt_plan
from fastinpaint.acceleration.example import Example
from fastinpaint.acceleration.layout import overruns
from fastinpaint.acceleration.links import record
from fastinpaint.acceleration.plan import DEFAULT, LEAST, LOW, SUMS, Plan
from fastinpaint.acceleration.trial import Runner
from tests.strangers.networks import USUAL, example, more

NETWORKS = {**more(), **USUAL}
FEW = {"mobilenet_v2", "shufflenet", "timm repvgg", "timm ghostnet", "nnunet in leakyrelu"}
FEW |= {"monai unet prelu", "unet3d group norm"}  # these run with every change


@pytest.mark.parametrize("name", NETWORKS)
def test_every_tier_gives_the_stock_results_and_gradients(name: str) -> None:
    if name not in FEW and os.environ.get("STRANGERS") != "all":
        pytest.skip("runs with STRANGERS=all")
    build, shape = NETWORKS[name]
    torch.manual_seed(0)
    net, x = build().train(), example(shape).float()
    with sandbox.sandbox(net):
        runner = Runner(net, Example((x,), {}), True, "auto", int)
        runner.apply(Plan())
        runner.links = record(net, runner.forward)
        stock = None if any(map(overruns, net.modules())) else search._stock(runner, True)
        stock = stock or search._stock(runner, False)
        assert stock is not None
        like = Plan(stock.plan.channels_last, contiguous=not stock.plan.channels_last)
        for tier in (DEFAULT, SUMS, LOW, LEAST):
            trial, reason = adapt_plan(
                net,
                select.plan_of(dict.fromkeys(runner.links.order, tier), runner.links, like),
                lambda plan: runner.try_out(plan, backward=True),
                lambda trial: runner.changed(trial, stock),
            )
            assert reason == ""
            assert trial is not None
            assert trial.plan.fused
            assert trial.outcome.gradients
            assert len(trial.outcome.gradients) == sum(p.requires_grad for p in net.parameters())
