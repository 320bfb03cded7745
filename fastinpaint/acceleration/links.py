"""Records the order of a model's layers, their input shapes, and which layer reads which result directly."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from fastinpaint.acceleration.kinds import is_fusable, torch_class
from fastinpaint.acceleration.swap import NORMS

CONVOLUTIONS = {"Conv2d", "Conv3d", "ConvTranspose2d", "ConvTranspose3d"}


@dataclass
class Links:
    """The record of one forward pass.

    Attributes:
        order: every convolution, every norm that reads no convolution's result, and every linear layer whose input it
            can compute again, in order of the first call. A convolution of 1x1 maps, as in squeeze-and-excitation, is
            in it only where nothing comes before.
        follows: {layer: the layer of `order` that it belongs to}: a norm to the convolution whose result it reads, and
            a convolution of 1x1 maps to the layer before it.
        norms, linears: the norms and linear layers in `order`.
        input_bytes: bytes of a layer's input at its first call.
        problems: a layer's repr with its input's shape.
        readers: type names of the modules that read the map of a convolution, its norm or activation.
    """

    order: list[str] = field(default_factory=list)
    follows: dict[str, str] = field(default_factory=dict)
    norms: set[str] = field(default_factory=set)
    linears: set[str] = field(default_factory=set)
    input_bytes: dict[str, int] = field(default_factory=dict)
    readers: dict[str, set[str]] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)

    def equal_layers(self) -> list[list[str]]:
        """The layers of `order`, grouped by equal problem and equal types of readers."""
        groups: dict[tuple[Any, ...], list[str]] = {}
        for name in self.order:
            key = (self.problems.get(name), frozenset(self.readers.get(name, ())), len(self.unit(name)))
            groups.setdefault(key, []).append(name)
        return list(groups.values())

    def unit(self, name: str) -> list[str]:
        """The layers that are always fused together with a layer of `order`."""
        return [name, *(layer for layer, owner in self.follows.items() if owner == name)]

    def is_bare(self, name: str) -> bool:
        """Whether others read a convolution's own result: no norm follows, and no other module but convolutions."""
        alone = name not in self.norms and len(self.unit(name)) == 1
        return alone and not self.readers.get(name, set()) - CONVOLUTIONS

    def join_small(self, small: set[str]) -> None:
        """Make each of these convolutions, with its norms, belong to the layer before it.

        What they cost depends on that layer's tier and not on theirs: where its map is fused, its product with their
        result is computed again in backward.
        """
        for name in [name for name in self.order[1:] if name in small]:
            owner = self.order[self.order.index(name) - 1]
            self.follows |= dict.fromkeys(self.unit(name), owner)
            self.order.remove(name)


# Layers whose nodes keep their input, so that a linear layer after them can compute its own again.
RECOMPUTED = tuple(
    getattr(nn, name)
    for name in ("GELU", "SiLU", "Mish", "Hardswish", "LeakyReLU", "ELU", "ReLU6", "Softplus", "LayerNorm")
)
Around = Callable[[str, nn.Module, Callable[..., Any]], Callable[..., Any]]


@contextmanager
def wrapped_forwards(modules: dict[str, nn.Module], around: Around) -> Iterator[None]:
    """Inside, replace each module's ``forward`` by ``around(name, module, forward)``.

    It is set on the instance. Unlike a hook, it does not make a layer hand out plain tensors.
    """
    before: dict[str, Any] = {name: vars(module).get("forward") for name, module in modules.items()}
    for name, module in modules.items():
        vars(module)["forward"] = around(name, module, module.forward)  # a class may refuse to set attributes
    try:
        yield
    finally:
        for name, module in modules.items():
            if before[name] is None:
                vars(module).pop("forward", None)
            else:
                vars(module)["forward"] = before[name]


def record(model: nn.Module, run: Callable[[], Any]) -> Links:
    """Record one forward pass of the stock model."""
    links = Links()
    made: dict[int, tuple[str, Tensor]] = {}  # {id of a map: (convolution or norm of its unit, the map)}
    cheap: dict[int, Tensor] = {}  # results of activations and layer norms
    small: set[str] = set()

    def around(name: str, module: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*args: Any, **kwargs: Any) -> Any:
            given = next((value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)), None)
            maker = made[id(given)][0] if id(given) in made else None
            if maker is not None:
                links.readers.setdefault(maker, set()).add(torch_class(module).__name__)
            result = forward(*args, **kwargs)
            if isinstance(module, _ConvNd) and given is not None and given.shape[2:].numel() == 1:
                small.add(name)
            if isinstance(result, Tensor):
                linear = torch_class(module) is nn.Linear and id(given) in cheap
                _note(links, made, name, module, given, maker, result, linear)
                if torch_class(module) in RECOMPUTED and not getattr(module, "inplace", False):
                    cheap[id(result)] = result
            return result

        return noted

    leaves = {
        name: m for name, m in model.named_modules() if name and (is_fusable(m) or not any(True for _ in m.children()))
    }
    if not leaves:
        leaves = {"": model}
    with wrapped_forwards(leaves, around):
        run()
    links.join_small(small)
    return links


def _note(
    links: Links,
    made: dict[int, tuple[str, Tensor]],
    name: str,
    module: nn.Module,
    given: Tensor | None,
    maker: str | None,
    result: Tensor,
    linear: bool,
) -> None:
    """Record that a leaf module has run; linear: whether it is a linear layer to be watched."""
    watched = linear or isinstance(module, (_ConvNd, *NORMS))
    if watched:
        links.problems.setdefault(name, f"{module} of {None if given is None else tuple(given.shape)}")
        links.input_bytes.setdefault(name, 0 if given is None else given.numel() * given.element_size())
    if isinstance(module, NORMS) and maker is not None and maker not in links.follows.values():
        links.follows.setdefault(name, maker)
        made[id(result)] = (maker, result)
    elif watched:
        if name not in links.order:
            links.order.append(name)
        if isinstance(module, NORMS):
            links.norms.add(name)
        if linear:
            links.linears.add(name)
        made[id(result)] = (name, result)
    elif maker is not None and (type(module) is nn.Identity or is_fusable(module)):
        made[id(result)] = (maker, result)
