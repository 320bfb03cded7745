"""Plans of public networks give what the stock model gives, in float32, on the kernels that users run."""

from __future__ import annotations

import pytest

from fastinpaint.acceleration import sandbox, search, select
from fastinpaint.acceleration.adapt import adapt_plan
from fastinpaint.acceleration.example import Example
from fastinpaint.acceleration.finals import Goal
from fastinpaint.acceleration.links import record
from fastinpaint.acceleration.plan import DEFAULT, LEAST, LOW, SUMS, Plan
from fastinpaint.acceleration.trial import Runner
from tests.strangers.networks import NETWORKS, made

FEW = {"mobilenet_v2", "shufflenet", "timm repvgg", "timm ghostnet", "nnunet in leakyrelu"}
FEW |= {"monai unet prelu", "unet3d group norm"}  # these run with every change


@pytest.mark.parametrize("name", NETWORKS)
def test_every_tier_gives_the_stock_results_and_gradients(name: str) -> None:
    net, x = made(name, FEW)
    with sandbox.sandbox(net):
        runner = Runner(net, Example((x.float(),), {}), True, "auto", int)
        runner.apply(Plan())
        runner.links = record(net, runner.forward)
        stocks, _ = search._stocks(runner, Goal("speed"))
        stock = stocks[True in stocks]
        like = Plan(stock.plan.channels_last, contiguous=True not in stocks)
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
