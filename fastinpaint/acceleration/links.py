"""Which layers a model runs, in order, on maps of which shapes, and which layer reads another's result directly."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from fastinpaint.acceleration.swap import FUSED, NORMS


@dataclass
class Links:
    """What one run showed.

    Attributes:
        order: every convolution, and every norm that does not read a convolution's result, as first called.
        follows: norms and the convolutions whose results they read.
        result_bytes: of a layer's result at its first call.
        calls: how often each layer was called.
        problems: a layer's own description, with its input's shape.
        readers: by the type's name, the modules that read the map of a convolution, its norm or activation.
    """

    order: list[str] = field(default_factory=list)
    follows: dict[str, str] = field(default_factory=dict)
    result_bytes: dict[str, int] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=dict)
    readers: dict[str, set[str]] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)

    def alike(self) -> list[list[str]]:
        """The layers of `order`, those together that have the same problem and the same kinds of readers."""
        groups: dict[tuple[Any, ...], list[str]] = {}
        for name in self.order:
            key = (self.problems.get(name), frozenset(self.readers.get(name, ())), len(self.unit(name)))
            groups.setdefault(key, []).append(name)
        return list(groups.values())

    def unit(self, name: str) -> list[str]:
        """The layers that are chosen together with a layer of `order`."""
        return [name, *(norm for norm, conv in self.follows.items() if conv == name)]


Around = Callable[[str, nn.Module, Callable[..., Any]], Callable[..., Any]]


@contextmanager
def wrapped(modules: dict[str, nn.Module], around: Around) -> Iterator[None]:
    """Inside, each module's ``forward`` is what `around` makes of its name, the module and its own forward.

    It stands on the instance: unlike a hook, no layer takes it for somebody who looks at its tensors.
    """
    before: dict[str, Any] = {name: vars(module).get("forward") for name, module in modules.items()}
    for name, module in modules.items():
        module.forward = around(name, module, module.forward)
    try:
        yield
    finally:
        for name, module in modules.items():
            if before[name] is None:
                vars(module).pop("forward", None)
            else:
                module.forward = before[name]


def record(model: nn.Module, run: Callable[[], Any]) -> Links:
    """What one forward pass of the stock model shows."""
    links = Links()
    made: dict[int, tuple[str, Tensor]] = {}  # by a map's id: the convolution or norm whose unit it belongs to

    def around(name: str, module: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*args: Any, **kwargs: Any) -> Any:
            given = next((value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)), None)
            maker = made[id(given)][0] if id(given) in made else None
            if maker is not None:
                links.readers.setdefault(maker, set()).add(type(module).__name__)
            result = forward(*args, **kwargs)
            if isinstance(result, Tensor):
                _note(links, made, name, module, given, maker, result)
            return result

        return noted

    leaves = {name: m for name, m in model.named_modules() if not any(True for _ in m.children()) and name}
    if not leaves:
        leaves = {"": model}
    with wrapped(leaves, around):
        run()
    return links


def _note(
    links: Links,
    made: dict[int, tuple[str, Tensor]],
    name: str,
    module: nn.Module,
    given: Tensor | None,
    maker: str | None,
    result: Tensor,
) -> None:
    """A leaf module has run."""
    watched = isinstance(module, (_ConvNd, *NORMS))
    if watched:
        links.calls[name] = links.calls.get(name, 0) + 1
        links.problems.setdefault(name, f"{module} of {None if given is None else tuple(given.shape)}")
        links.result_bytes.setdefault(name, result.numel() * result.element_size())
    if isinstance(module, NORMS) and maker is not None and maker not in links.follows.values():
        links.follows.setdefault(name, maker)
        made[id(result)] = (maker, result)
    elif watched:
        if name not in links.order:
            links.order.append(name)
        made[id(result)] = (name, result)
    elif maker is not None and (type(module) is nn.Identity or type(module) in FUSED):
        made[id(result)] = (maker, result)
