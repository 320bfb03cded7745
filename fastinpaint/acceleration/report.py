"""`Report`: what `fastinpaint.accelerate` chose for a model, what it gained, and what limits it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from fastinpaint.acceleration.kinds import FUSED, layer_class
from fastinpaint.acceleration.links import Links
from fastinpaint.acceleration.plan import STOCK
from fastinpaint.ops.dispatch import native_cpu

WIDTH = 100  # columns of a printed report
MOST_SMALLER = 3  # plans of fewer kept bytes that are printed
NAMED = 3  # layers named with a reason that they share
GAIN = 0.03  # relative gain of a part that is more than noise


@dataclass
class Layer:
    """One convolution or batch norm: the choice, its reason, and milliseconds if measured."""

    name: str
    kind: str
    choice: str
    why: str
    stock_ms: float | None = None
    fused_ms: float | None = None


@dataclass
class Report:
    """What `accelerate` did.

    Attributes:
        swapped: the layers that are fused now.
        left: layers of a supported kind that cannot be fused here, with the reason.
        notes: further remarks.
        objective: the objective of the call.
        how: how the choice was made: "measured", "remembered", "rules" or "fuse".
        layers: each layer's choice.
        stock: by layout, "ms" per step and "kept_bytes" of the stock model.
        before, after: the same figures of the better stock layout (named) and of the model now. With a budget
            "kept_bytes" are those between forward and backward, else the most that are kept and computed again at a
            time; after has the latter as "held_bytes" too.
        smaller: plans that were not chosen and keep fewer bytes: "plan", "ms" and "kept_bytes" of each.
        cost: the "steps" run to choose, and their "seconds".
        limit: what limits the gain, in one sentence.
    """

    swapped: list[str] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    objective: str = ""
    how: str = ""
    layers: list[Layer] = field(default_factory=list)
    stock: dict[str, dict[str, float]] = field(default_factory=dict)
    before: dict[str, Any] = field(default_factory=dict)
    after: dict[str, Any] = field(default_factory=dict)
    smaller: list[dict[str, Any]] = field(default_factory=list)
    cost: dict[str, float] = field(default_factory=dict)
    limit: str = ""

    def to_dict(self) -> dict[str, Any]:
        """All of it, for a program."""
        return asdict(self)

    @classmethod
    def from_dict(cls, known: Mapping[str, Any]) -> Report:
        """The inverse of `to_dict`."""
        return cls(**{**known, "layers": [Layer(**layer) for layer in known["layers"]]})

    def __str__(self) -> str:
        lines = [f"{len(self.swapped)} layers swapped, {len(self.left)} cannot be fused."]
        for reason in dict.fromkeys(self.left.values()):
            names = [name or "the model" for name, other in self.left.items() if other == reason]
            more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
            lines.append(f"  {', '.join(names[:NAMED])}{more}: {reason}")
        lines += [f"  {note}" for note in self.notes]
        if self.after:
            lines += ["", *self._gain(), "", *self._table()]
        if self.limit:
            lines += ["", self.limit]
        return "\n".join(line if len(line) <= WIDTH else f"{line[: WIDTH - 3]}..." for line in _folded(lines))

    def _gain(self) -> list[str]:
        rows = [("", "ms a step", "kept MiB")]
        named = [(f"stock, {name}", row) for name, row in self.stock.items()]
        named.append((f"now, {self.after['layout']}", self.after))
        named += [(f"not chosen: {row['plan']}", row) for row in self.smaller[:MOST_SMALLER]]
        rows += [(name, f"{row['ms']:.1f}", f"{row['kept_bytes'] / 2**20:.1f}") for name, row in named]
        width = max(32, *(len(name) for name, *_ in rows))
        table = [f"{name:<{width}}{ms:>12}{kept:>12}" for name, ms, kept in rows]
        if (held := self.after.get("held_bytes", 0)) > self.after["kept_bytes"]:
            table.append(f"with what backward computes again up to {held / 2**20:.1f} MiB at a time")
        return [*table, f"chosen in {self.cost['steps']} steps, {self.cost['seconds']:.1f} s"]

    def _table(self) -> list[str]:
        rows = [f"{'layer':<30} {'kind':<15} {'choice':<7} {'stock ms':>8} {'fused ms':>8}  why"]
        for layer in self.layers:
            stock, fused = (f"{ms:.2f}" if ms is not None else "" for ms in (layer.stock_ms, layer.fused_ms))
            name = layer.name if len(layer.name) <= 30 else f"...{layer.name[-27:]}"
            why = layer.why if layer.name not in self.left else "cannot be: see above"
            rows.append(f"{name:<30} {layer.kind[:15]:<15} {layer.choice:<7} {stock:>8} {fused:>8}  {why}")
        return rows


def _folded(lines: list[str]) -> list[str]:
    """Wrap sentences that are longer than the width. Rows of the table are cut instead."""
    folded: list[str] = []
    for line in lines:
        words = line.split(" ")
        if len(line) <= WIDTH or "" in words[1:]:
            folded.append(line)
            continue
        row = words[0]
        for word in words[1:]:
            if len(row) + 1 + len(word) > WIDTH:
                folded.append(row)
                row = f"  {word}"
            else:
                row += f" {word}"
        folded.append(row)
    return folded


def layers_of(
    model: nn.Module,
    tiers: Mapping[str, str],
    parts: Mapping[str, Mapping[str, float]],
    left: Mapping[str, str],
    links: Links,
) -> list[Layer]:
    """Every part's choice and its reason."""
    found, modules = [], dict(model.named_modules())
    fused = next((times for tier, times in parts.items() if tier != STOCK), {})
    for name in links.order:
        tier = tiers.get(name, STOCK)
        own = parts.get(tier, fused) if tier != STOCK else fused
        stock_ms, fused_ms = (1e3 * t[name] if name in t else None for t in (parts.get(STOCK, {}), own))
        if name in left:
            why = left[name]
        elif stock_ms is None or fused_ms is None:
            why = "not measured apart"
        elif tier == STOCK:
            gains = fused_ms < (1 - GAIN) * stock_ms
            why = "slower fused" if fused_ms > stock_ms else "the step gained nothing" if gains else "gains too little"
        else:
            why = "faster fused" if fused_ms < stock_ms else "keeps fewer bytes"
        found.append(Layer(name, layer_class(modules[name]).__name__, tier, why, stock_ms, fused_ms))
        joined = [layer for layer in links.unit(name)[1:] if isinstance(modules[layer], _ConvNd)]
        found += [Layer(layer, layer_class(modules[layer]).__name__, tier, "as the layer before") for layer in joined]
    return found


def limit_of(model: nn.Module, tiers: Mapping[str, str], stock: Mapping[str, float], links: Links) -> str:
    """What limits the gain, in one sentence that the user can act on."""
    total = sum(stock.values())
    if not total or not links.order:
        return "The model has no convolution, norm or linear layer that could be fused."
    shares, ends = Counter[str](), Counter[str]()
    modules = dict(model.named_modules())
    for name in links.order:
        kind = _kind(modules[name], tiers.get(name, STOCK))
        shares[kind] += stock.get(name, 0.0) / total  # type: ignore[assignment]
        for reader in links.readers.get(name, set()) - {kind.__name__ for kind in FUSED}:
            ends[reader] += 1
    kind, share = max(shares.items(), key=lambda item: item[1])
    advice = ADVICE[kind].format(share=f"{100 * share:.0f} %")
    if kind in ("fused", "1x1") and _could_use_bfloat16(model):
        advice += " This processor has bfloat16 units: torch.autocast makes them cheaper."
    reader, count = max(ends.items(), key=lambda item: item[1], default=("", 0))
    if count > len(links.order) / 4 and reader in UNFUSED:
        instead = UNFUSED[reader]
        return f"{advice} After {count} of {len(links.order)} comes {reader}, which is not fused; {instead} are."
    return advice


ACTIVATIONS, NORMS = "ReLU, LeakyReLU and SiLU", "batch, group and instance norm"
UNFUSED = dict.fromkeys(("RReLU", "CELU", "SELU", "LogSigmoid", "Softsign"), ACTIVATIONS) | dict.fromkeys(
    ("LayerNorm2d",), NORMS
)
ADVICE = {
    "fused": "{share} of the stock step is in layers that are fused now: what is left of it is the convolutions' own "
    "arithmetic, which fewer channels or a smaller input shrink.",
    "1x1": "{share} of the step is in 1x1 convolutions and what follows them, which gained nothing fused here.",
    "grouped": "{share} of the step is in grouped convolutions and what follows them, which gained nothing fused here; "
    "dense 3x3 ones gain most.",
    "norm": "{share} of the step is in norms that read no convolution's result, and gained nothing fused; norms after "
    "a convolution are fused with it.",
    "suited": "{share} of the step is in convolutions that suit the library's kernels, and gained nothing fused at "
    "this size; a larger batch or input gains more.",
    "linear": "{share} of the step is in linear layers after activations and layer norms. Fused they keep fewer bytes; "
    "they take no less time.",
    "other": "{share} of the step is in convolutions that gained nothing fused here; the library's kernels are fastest "
    "with channel counts that are multiples of 16, 3 taps a side and stride 1.",
}


def _could_use_bfloat16(model: nn.Module) -> bool:
    """Whether a step in float32 on the CPU could run on units for bfloat16."""
    kinds = {(p.device.type, p.dtype) for p in model.parameters()}
    autocast = torch.is_autocast_enabled("cpu")
    return kinds == {("cpu", torch.float32)} and not autocast and native_cpu.multiplies_bf16()


def _kind(module: nn.Module, tier: str) -> str:
    if isinstance(module, nn.Linear):
        return "linear"
    if tier != STOCK:
        return "fused"
    if not isinstance(module, _ConvNd):
        return "norm"
    if module.groups > 1:
        return "grouped"
    if max(module.kernel_size) == 1:
        return "1x1"
    regular = set(module.kernel_size) <= {1, 3} and set(module.stride) == {1} and not module.transposed
    return "suited" if regular and module.in_channels % 16 == module.out_channels % 16 == 0 else "other"
