"""Measures one model under several plans: seconds per step, seconds per part, and bytes kept for backward."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from fastinpaint.acceleration import layout, stopwatch
from fastinpaint.acceleration.agreement import Outcome, difference, disagreement, sampled
from fastinpaint.acceleration.example import Example, float_tensors
from fastinpaint.acceleration.kept import KeptBytes, RecomputedBytes
from fastinpaint.acceleration.links import Links
from fastinpaint.acceleration.plan import Plan
from fastinpaint.acceleration.sandbox import all_modules, attributes, carries_graph, clear_casts, random_states
from fastinpaint.acceleration.stopwatch import Watch, wait_for
from fastinpaint.acceleration.swap import swap, unswap
from fastinpaint.nn.raw import version
from fastinpaint.ops.dispatch.autotune import median

Found = TypeVar("Found")
logger = logging.getLogger(__name__)
ONE_BY_ONE = "accelerate: new Triton kernels compile one after another, which takes minutes: %s"


@dataclass
class Trial:
    """The measurements of a model under a plan.

    Attributes:
        seconds: time of one step.
        parts: seconds from the entry of each watched layer to the entry of the next one, forward plus backward.
        forward: seconds of each part's forward.
        kept: bytes that autograd keeps between forward and backward. Where the runner counts what backward holds, the
            same as `held`.
        kept_by: bytes that autograd keeps, by part.
        held: the most bytes that autograd keeps and backward recomputes at a time.
        outcome: what the model's first step gave, for comparison.
    """

    plan: Plan
    seconds: float = float("inf")
    parts: dict[str, float] = field(default_factory=dict)
    forward: dict[str, float] = field(default_factory=dict)
    kept: int = 0
    kept_by: dict[str, int] = field(default_factory=dict)
    held: int = 0
    outcome: Outcome = field(default_factory=Outcome)


class Runner:
    """Runs steps of a model in a sandbox.

    Args:
        model: inside a `sandbox`.
        example: the arguments of its calls.
        training: whether a step has a backward pass.
        backend: the backend of the fused layers.
        tick: called after every step.
    """

    def __init__(
        self, model: nn.Module, example: Example, training: bool, backend: str, tick: Callable[[], object]
    ) -> None:
        self.model, self.example, self.training, self.backend, self.tick = model, example, training, backend, tick
        self.steps, self._began = 0, stopwatch.clock()
        self.counts_held = True  # whether a trial's kept bytes are the most at a time
        self.changes_inputs = False  # whether a call changes a tensor that it was given
        self.links = Links()
        self._channels_last = False
        self._gradients: dict[tuple[int, ...], Tensor] = {}
        self._held: tuple[Tensor | None, ...] = ()  # the last step's gradients of the weights
        self._modules = all_modules(model)
        self._put_back_attributes, self._put_back_random_states = attributes(self._modules), random_states()
        self._others: dict[bool | None, Outcome] = {}  # by layout, see `_otherwise`
        self._recurrent = False  # whether a call reads the graph of the call before, which backward has freed
        kept = [
            (module._buffers, name, buffer) for module in model.modules() for name, buffer in module._buffers.items()
        ]
        self._buffers = [(own, name, buffer, buffer.clone()) for own, name, buffer in kept if buffer is not None]
        devices = {t.device for t in [*model.parameters(), *example.tensors()]}
        self.device = next((d for d in devices if d.type == "cuda"), torch.device("cpu"))

    def elapsed(self) -> float:
        """Seconds since this runner was made."""
        return stopwatch.clock() - self._began

    def apply(self, plan: Plan) -> None:
        """Change the model to the plan."""
        unswap(self.model)
        self._channels_last = bool(plan.channels_last)
        if plan.channels_last is not None:
            layout.set_weights(self.model, plan.channels_last)
        swap(self.model, plan, self.backend)

    def forward(self) -> tuple[Any, list[Tensor]]:
        """Run forward: returns the model's results, and the copies of its inputs that require gradients."""
        clear_casts()
        args, kwargs, taking = self.example.fresh()
        if self._channels_last:
            args, kwargs = layout.to_channels_last((args, kwargs))
        given = Example(args, kwargs).tensors()
        before = [(version(t), t.requires_grad) for t in given]
        results = self.model(*args, **kwargs)
        self.changes_inputs |= before != [(version(t), t.requires_grad) for t in given]
        return results, taking

    def step(self, watch: Watch | None = None) -> float:
        """Seconds of one step: forward and, in training, backward from random gradients of all results."""
        if self._recurrent:
            self._put_back_attributes()
        wait_for(self.device)
        start = stopwatch.clock()
        if watch is not None:
            watch.begin_step()
        results, taking = self.forward()
        if self.training:
            self._backward(results, taking, watch)
        if watch is not None:
            watch.end_step()
        wait_for(self.device)
        self.steps += 1
        self.tick()
        return stopwatch.clock() - start

    def _backward(self, results: Any, taking: list[Tensor], watch: Watch | None) -> None:
        if watch is not None:
            watch.begin_backward()
        ends = [t for t in float_tensors(results) if t.requires_grad]
        variables = [*(p for p in self.model.parameters() if p.requires_grad), *taking]
        if ends and variables:
            # Held over the next step: else the freed heap goes back to the system, and that step takes it page by page.
            self._held = torch.autograd.grad(ends, variables, [self._gradient(t) for t in ends], allow_unused=True)

    def _gradient(self, like: Tensor) -> Tensor:
        """A random gradient of a result, the same in every step, from its own generator."""
        key = (*like.shape, *like.stride())
        if key not in self._gradients:
            drawn = torch.randn(like.shape, generator=torch.Generator().manual_seed(0))
            self._gradients[key] = torch.empty_like(like.detach()).copy_(drawn)
        return self._gradients[key].to(like.dtype)

    def measure(self, plan: Plan, runs: int) -> Trial:
        """Apply a plan, warm up, and time its parts: the minimum over runs, then the median over equal layers.

        The step that warms up is the one whose kept bytes are counted.
        """
        watch = Watch(self.model, self.links.order, self.device)
        trial = self.try_out(plan, watch, backward=True)
        if self.training and not trial.held:
            trial.held = trial.kept + self._recomputed()
        trial.kept = trial.held if self.counts_held else trial.kept
        with watch.watching():
            seconds, parts = [], []
            for _ in range(runs):
                seconds.append(self.step(watch))
                parts.append(watch.parts())
        trial.seconds, trial.forward = median(seconds), watch.parts(backward=False)
        trial.parts = {name: min(part.get(name, 0.0) for part in parts) for name in {n for part in parts for n in part}}
        for names in self.links.equal_layers():  # so that one disturbance has no effect
            usual = median(trial.parts.get(name, 0.0) for name in names)
            trial.parts.update(dict.fromkeys(names, usual))
        return trial

    def try_out(self, plan: Plan, watch: Watch | None = None, backward: bool = False) -> Trial:
        """Apply a plan and run forward once, or a step, to get the results and the kept bytes."""
        self.apply(plan)
        self.restore()
        state, kept, trial = self._random_state(), KeptBytes(self.model.parameters()), Trial(plan)
        watch = Watch(self.model, [], self.device) if watch is None else watch
        with kept.counting(), watch.watching(kept):
            with kept.saving() if self.training else nullcontext():
                results, taking = self.forward()
            self._recurrent = self.training and carries_graph(self._modules)
            drew = not torch.equal(state, self._random_state())
            drawn = [t.detach().clone() for t in float_tensors(results)]
            trial.kept, trial.kept_by = kept.saved, dict(kept.by)
            self._held = ()
            ran = backward and self._ends(results, taking)
        trial.held = max(trial.kept, kept.most) if ran else 0
        gradients = self._sampled() if ran and self.training else None
        trial.outcome = Outcome(drawn, drawn, gradients)
        if drew:
            trial.outcome.results = self._evaluated(lambda: [t.clone() for t in float_tensors(self.forward()[0])])
        return trial

    def _ends(self, results: Any, taking: list[Tensor]) -> bool:
        """End a step by its backward pass; False where it does not run with its saved tensors counted.

        Checkpoints of a function that reads a deferred map do not run under another's hooks.
        """
        try:
            if self.training:
                self._backward(results, taking, None)
        except RuntimeError:  # torch.utils.checkpoint.CheckpointError
            return False
        self.steps += 1
        self.tick()
        return True

    def _sampled(self) -> dict[str, Tensor | None]:
        """Values of the last step's gradients, by the name of a parameter or input."""
        names = [name for name, p in self.model.named_parameters() if p.requires_grad]
        inputs = [f"input {i}" for i in range(len(self._held) - len(names))]
        return dict(zip([*names, *inputs], map(sampled, self._held), strict=False))

    def _recomputed(self) -> int:
        """The most bytes of maps that a step's backward recomputes and holds at a time."""
        again = RecomputedBytes()
        with again.counting():
            self.step()
        return again.most

    def changed(self, trial: Trial, stock: Trial) -> str | None:
        """What a trial gave that the stock model does not, by more than rounding, as the object of a sentence."""
        ours, right = trial.outcome, stock.outcome
        if ours.gradients is not None and difference(ours.drawn, right.drawn) is not None:  # another dropout's pattern
            for each in (trial, stock):
                if each.outcome.evaluated is None:
                    self.apply(each.plan)
                    each.outcome.evaluated = self._evaluated(self._eval_gradients)
        return disagreement(ours, right) and disagreement(ours, right, self._otherwise(stock.plan))

    def _otherwise(self, plan: Plan) -> Outcome:
        """What the stock model gives without autocast; where none is enabled, from inputs moved by rounding."""
        if plan.channels_last not in self._others:
            kinds = [kind for kind in ("cpu", "cuda") if torch.is_autocast_enabled(kind)]
            with ExitStack() as stack:
                for kind in kinds:
                    stack.enter_context(torch.autocast(kind, enabled=False))
                self.example.moved = not kinds
                stack.callback(setattr, self.example, "moved", False)
                found = self._others[plan.channels_last] = self.try_out(plan, backward=True).outcome
                if found.results is not found.drawn:
                    found.evaluated = self._evaluated(self._eval_gradients)
        return self._others[plan.channels_last]

    def restore(self) -> None:
        """Restore buffers, plain attributes and random states, so that plans can be compared."""
        self._put_back_random_states()
        self._put_back_attributes()
        with torch.no_grad():
            for own, name, buffer, value in self._buffers:
                own[name] = buffer  # a call may have put another one in its place
                buffer.copy_(value)

    def _random_state(self) -> Tensor:
        states = [torch.get_rng_state()]
        if self.device.type == "cuda":
            states.append(torch.cuda.get_rng_state(self.device))
        return torch.cat(states)

    def _evaluated(self, run: Callable[[], Found]) -> Found:
        """What `run` gives in evaluation mode without gradients, because dropout's pattern depends on the layout."""
        self.restore()
        modes = [(module, module.training) for module in self.model.modules()]
        self.model.eval()
        try:
            with torch.no_grad():
                return run()
        finally:
            for module, mode in modes:
                module.training = mode

    @torch.enable_grad()
    def _eval_gradients(self) -> dict[str, Tensor | None] | None:
        """The gradients of a step, None where there is none: cuDNN's recurrent layers have no backward in this mode."""
        self._held = ()
        try:
            self._backward(*self.forward(), None)
        except RuntimeError:
            return None
        return self._sampled()

    def alternate(self, plans: Sequence[Plan], turns: int, within: int = 1) -> list[list[float]]:
        """Seconds per step of each plan in alternating turns. Every second turn runs in reverse order."""
        taken: list[list[float]] = [[0.0] * turns for _ in plans]
        for turn in range(turns):
            order = range(len(plans)) if turn % 2 == 0 else reversed(range(len(plans)))
            for place in order:
                self.apply(plans[place])
                taken[place][turn] = min(self.step() for _ in range(within))
        return taken


def compile_ahead(runner: Runner, plan: Plan) -> None:
    """Compile the Triton kernels of a plan's step in several processes. None is launched; a failure is logged."""
    from fastinpaint.ops.conv_block.triton import ahead

    if not ahead.can_collect():
        return
    try:
        runner.apply(plan)
        with ahead.collecting() as launches:
            runner.step()
        runner.restore()
        if failed := ahead.compile_new(launches):
            logger.warning("accelerate: %d of %d Triton kernels were not compiled ahead.", failed, len(launches))
    except Exception as error:  # the model's own call raises what is its own
        logger.warning(ONE_BY_ONE, str(error).partition("\n")[0])
