"""Which layers of a row one node of the graph can hold: see `fastinpaint.ops.conv_block.chain`."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fastinpaint.nn.activations import _Activation
from fastinpaint.nn.batch_norm import _Norm
from fastinpaint.nn.convolution import _Conv
from fastinpaint.nn.layers import ReLU
from fastinpaint.nn.observed import own_observer
from fastinpaint.nn.pending_conv import PendingConv
from fastinpaint.nn.plans import Plan
from fastinpaint.nn.raw import Mode, part_of
from fastinpaint.ops.conv_block import cpu, torch_library
from fastinpaint.ops.conv_block.chain import Link, can_join
from fastinpaint.ops.conv_block.torch_library import Call
from fastinpaint.ops.dispatch import registry
from fastinpaint.ops.norm_act import RELU
from fastinpaint.ops.types import Source

CONVS = ("default", "sums")  # tiers of memory that keep every convolution's result


def is_bare(row: nn.Module) -> bool:
    """Whether the row has no hooks but the border's two, and these have nothing to do inside its model."""
    own = row.__dict__
    hooks = len(own["_forward_hooks"]) + len(own["_forward_pre_hooks"])
    if hooks != 2 or len(own.get("_fastinpaint_borders", ())) != 2 or own["_backward_hooks"]:
        return False
    if own["_backward_pre_hooks"] or "forward" in own or row._compiled_call_impl is not None:
        return False
    return "_fastinpaint_plain" not in own and "fastinpaint_report" not in own


def open_rows(layers: list[Any], place: int) -> bool:
    """Put the layers of a bare row where the row is, until none is there; returns whether there was one."""
    opened = False
    while place < len(layers) and isinstance(row := layers[place], nn.Sequential):
        if not getattr(row, "_fastinpaint_row", False) or not is_bare(row):
            break
        layers[place : place + 1] = row._modules.values()
        opened = True
    return opened


class Ahead(NamedTuple):
    """A map that a chain will make, as far as layers look at it to say what they would do with it."""

    shape: torch.Size
    dtype: torch.dtype
    device: torch.device
    mode: Mode
    x: None = None


class Joint(NamedTuple):
    """A link, the place behind its layers, and its batch norm."""

    link: Link
    end: int
    layer: _Norm
    shape: torch.Size


def joints(layers: list[Any], place: int, pending: PendingConv) -> list[Joint]:
    """The links that can follow a convolution whose batch norm is in front of `place`, each with its batch norm."""
    found: list[Joint] = []
    if pending.options.memory not in CONVS or pending.device.type != "cpu":
        return found
    settings = *registry.settings(), *cpu.settings()
    ahead: Any = Ahead(pending.shape, pending.dtype, pending.device, pending.mode)
    while _is_there(layers, place):
        code, following = 0, layers[place]
        if type(following) is ReLU or isinstance(following, _Activation):
            act = RELU if type(following) is ReLU else following._act()  # type: ignore[operator]
            if act is None or own_observer(following):
                break
            code, place = act.code, place + 1
        if not _is_there(layers, place) or not _is_there(layers, place + 1):
            break
        conv, norm = layers[place], layers[place + 1]
        if not isinstance(conv, _Conv) or not isinstance(norm, _Norm) or own_observer(conv) or own_observer(norm):
            break
        plan = conv.plan_for(part_of((ahead, None, None, None, False, None, None)))
        if plan is None or plan.of_vectors or conv._fastinpaint.memory not in CONVS:
            break
        weight: Any = conv._parameters["weight"]
        bias = conv._parameters["bias"]
        call = _call(plan, weight, ahead, (code, conv._fastinpaint.backend, *settings))
        if call is None or (bias is not None and bias.dtype != ahead.dtype):  # a cast is a node of its own
            break
        ahead = Ahead(plan.shape, ahead.dtype, ahead.device, ahead.mode)
        own = norm.joined(ahead)
        if own is None:
            break
        place += 2
        found.append(Joint(Link(call, weight, bias, own), place, norm, plan.shape))
    return found


def _is_there(layers: list[Any], place: int) -> bool:
    """Whether there is such a place, in rows that are bare or above them."""
    if place < len(layers) and isinstance(layers[place], nn.Sequential):
        open_rows(layers, place)
    return place < len(layers)


def _call(plan: Plan, weight: Tensor, ahead: Ahead, form: tuple[Any, ...]) -> Call | None:
    """The call of a convolution that loads the map ahead, normalised and with an activation.

    form: the activation's code, the backend, and all else that the answer depends on. None where the convolution's
    kernels do not load such a map, or where something else is faster.
    """
    question = (ahead.dtype, weight.dtype, weight.stride(), *form)
    if question not in plan.chained:
        plan.chained[question] = _new_call(plan, weight, ahead, *form[:2])
    return plan.chained[question]


def _new_call(plan: Plan, weight: Tensor, ahead: Ahead, code: int, backend: str) -> Call | None:
    if registry.requested(backend) not in ("auto", "cpu"):
        return None
    if weight.dtype != ahead.dtype and (weight.dtype, ahead.dtype) != (torch.float32, torch.bfloat16):
        return None  # a cast is a node of its own
    x, vector = torch.empty(ahead.shape, dtype=ahead.dtype), torch.empty(ahead.shape[1])  # no value is read
    sources = [Source(x, vector, vector, vector, code)]
    if code > 1 and not cpu.loads_activations(sources, weight, plan.geometry):
        return None
    if x.numel() >= cpu.LEAST_PLAIN and not cpu.normalises(sources, weight, plan.geometry):
        return None
    call = torch_library.call_of(sources, weight, plan.geometry, True, backend)
    return call if can_join(call) else None
