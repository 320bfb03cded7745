"""The reference trainer in plain PyTorch, following the paper's section "Training"."""

from __future__ import annotations

import logging
import math
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import LambdaLR

from fastinpaint import graph
from fastinpaint.data.dataset import VideoSamples
from fastinpaint.errors import UserError
from fastinpaint.models import TwoDCN, VideoCompletionNet
from fastinpaint.models.sizes import require_step
from fastinpaint.models.weights import save_weights
from fastinpaint.training.averaging import Averaged
from fastinpaint.training.backend import accelerate_model
from fastinpaint.training.batches import TrainBatches, load_steps, to_float, validation_batches
from fastinpaint.training.checkpoints import AVERAGED, WEIGHTS, load_checkpoint, replace_file, save_checkpoint
from fastinpaint.training.config import TrainConfig
from fastinpaint.training.curves import plot_curves
from fastinpaint.training.distributed import World, join_world
from fastinpaint.training.draws import DrawBatches, PropagatedDraws, validation_draws
from fastinpaint.training.logs import RunLog, tensorboard_writer
from fastinpaint.training.phases import Phase, PhaseLoss, begin_with, build_model, phases_of
from fastinpaint.training.run_folder import RunFolder
from fastinpaint.training.stop import StopRequest

logger = logging.getLogger(__name__)
AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


def train(config: TrainConfig, data: str | Path, out: str | Path, resume: bool = False) -> None:
    """Train on a prepared data set and write a run folder (see `RunFolder`) with the weights.

    The weights depend only on the config, the data and the step. On the CPU a run that was stopped, killed and resumed
    therefore ends with the same bits as an uninterrupted one. Under torchrun the processes share each step's batch and
    must see the same file system. Seeds torch's global random generators.

    Args:
        data: a folder written by ``fastinpaint prepare``, or for fill ``propagated`` one of draws (`PropagatedDraws`).
        out: the run's folder, new or empty; with ``resume`` the folder of the run to continue.

    Raises:
        UserError: bad input, a loss that is not finite, or a full disk. The last checkpoint is intact in every case.
        KeyboardInterrupt: stopped by Ctrl-C or SIGTERM after saving a checkpoint; the message says how to resume.
    """
    with join_world(config.device) as world, StopRequest() as stop, RunFolder(Path(out)) as folder:
        trainer = Trainer(config, Path(data), folder, world, stop)
        trainer.start(resume)
        try:
            trainer.run()
        finally:
            trainer.close()


class Trainer:
    """One process of a run."""

    def __init__(self, config: TrainConfig, data: Path, folder: RunFolder, world: World, stop: StopRequest) -> None:
        self.config, self.data, self.folder, self.world, self.stop = config, data, folder, world, stop
        if config.tensorboard:
            tensorboard_writer()  # fails before anything is written if TensorBoard is missing
        self.samples = self._samples("train")
        self.validation: Sequence[np.ndarray] = self._samples("val") if config.validate_every else []
        if isinstance(self.samples, PropagatedDraws):
            self.batches: TrainBatches = DrawBatches(self.samples, config, world)
        else:
            self.batches = TrainBatches(self.samples, config, world)
        self.phases = phases_of(config)
        self._require_memory()
        torch.manual_seed(config.seed)
        model = build_model(config)
        if config.start:
            begin_with(model, config.start)
        model.mean_pixel.copy_(torch.tensor(self.samples.mean_pixel))
        self.averaged = Averaged(model.to(world.device), config.average) if config.average else None
        self.model = accelerate_model(model.to(world.device), config.backend, config.memory, world.size > 1)
        self.graphed = config.graph and self._can_be_graphed()
        self.optimizer = self._new_optimizer()
        self.scaler = self._new_scaler()
        self.done = 0
        self.schedule = self._new_schedule()
        self.best: dict[str, Any] = {}
        self.losses: list[Tensor] = []
        self.log: RunLog | None = None

    def _samples(self, split: str) -> VideoSamples | PropagatedDraws:
        if not self.config.model.corrects:
            return VideoSamples(self.data, split)
        return PropagatedDraws(self.data, split, self.config.view_frames, self.config.view_size)

    def _require_memory(self) -> None:
        """Reject a step that cannot fit before anything is built.

        Plain layers keep the outputs of convolution and ReLU; fused layers keep the former or less.
        """
        batch = self.config.batch // (self.config.accumulate * self.world.size)
        shape = (batch, self.samples.frames, self.samples.size)
        precise = 4 if self.config.amp == "none" else 2
        copies = 2 if self.config.backend == "reference" else 1 if self.config.memory == "default" else 0.5
        if not self.config.steps:  # 3DCN alone has no estimate
            return
        images_only = self.config.strategy in ("2dcn", "t1")  # t1 keeps no map of 3DCN in this phase
        require_step("train", self.config.model, shape, self.world.device, images_only, precise * copies)

    def start(self, resume: bool) -> None:
        """Create or resume the run's folder. On resume the newest checkpoint is loaded before anything is changed."""
        if self.world.size > 1:
            dist.barrier()  # the main process may still be writing the results of a previous run
        if resume:
            self.folder.check(self.config)
        newest = self.folder.newest() if resume else None
        if newest is not None:
            self._restore(newest)
        if self.world.is_main:
            self.folder.resume(self.config) if resume else self.folder.create(self.config)
        if self.world.size > 1:
            dist.barrier()
        if newest is not None and self.world.is_main:
            self._publish(newest)
        if self.world.is_main:
            self.log = RunLog(self.folder.path, self.done, self.config.total, self.config.tensorboard)

    def run(self) -> None:
        """Run the remaining steps, phase by phase."""
        for phase in self.phases:
            if self.done < phase.end:
                self._run_phase(phase)

    def close(self) -> None:
        if self.log is not None:
            self.log.close()

    def _run_phase(self, phase: Phase) -> None:
        loss = PhaseLoss(self.model, phase, self.config.alpha, self.config.gradient)
        shared = DistributedDataParallel(loss) if self.world.size > 1 else None
        loss.train()
        steps = range(self.done, phase.end)
        step: graph.Step = partial(self._step, shared or loss, phase.loss_names)
        if self.graphed:
            device = self.world.device
            step = graph.GraphedStep(step, device, graph.CudaRecorder(device), self._reset_step)
        self.since = time.perf_counter()
        for videos, masks in load_steps(self.batches, steps, self.config.workers, self.world.device.type == "cuda"):
            torch.manual_seed(self.config.seed + self.done)  # so that no random state needs to be saved
            self.losses.append(step(videos, masks))
            self.done += 1
            self.schedule.step()
            if self.averaged is not None:
                self.averaged.update(self.model)
            self._after_step(phase, loss)

    def _step(
        self, loss: PhaseLoss | DistributedDataParallel, names: Sequence[str], videos: Tensor, masks: Tensor
    ) -> Tensor:
        """One step of Adam with the mean gradient over parts and processes. Returns the losses in order of `names`.

        It can be captured in a CUDA graph (see `graph`): it never waits for the device, and only its arguments and
        tensors updated in place change from step to step.
        """
        parts: list[Tensor] = []
        for part in range(self.config.accumulate):
            video, mask = self._to_float(videos[part], masks[part])
            is_last = part == self.config.accumulate - 1
            with loss.no_sync() if isinstance(loss, DistributedDataParallel) and not is_last else nullcontext():
                with self._autocast():
                    losses = loss(video, mask)
                self.scaler.scale(losses["total"] / self.config.accumulate).backward()
            parts.append(torch.stack([losses[name].detach() for name in names]))
        if self.config.clip:
            self.scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return torch.stack(parts).mean(0)

    def _after_step(self, phase: Phase, loss: PhaseLoss) -> None:
        """Log, validate and save when due; stop if requested."""
        ends = self.done == phase.end
        validates = bool(self.config.validate_every) and (ends or self.done % self.config.validate_every == 0)
        saves = ends or (self.config.save_every > 0 and self.done % self.config.save_every == 0)
        stops = self.stop.asked and self.world.size == 1
        if self.log is not None:
            self.log.progress(self.done)
        if validates or saves or stops or self.done % self.config.log_every == 0:
            stops = self._report(phase)
        if self.averaged is not None and (validates or saves or stops):
            self.averaged.estimate_statistics(self._statistics_batches())
        if validates:
            self._validate(phase, loss)
        if saves or stops:
            self._save()
        if stops and self.done < self.config.total:
            raise KeyboardInterrupt(
                f"stopped after step {self.done}, which is saved; go on with: "
                f"fastinpaint train {self.data} --out {self.folder.path} --resume"
            )
        if validates or saves:
            self.since = time.perf_counter()

    def _report(self, phase: Phase) -> bool:
        """Log the mean losses since the last report; returns whether any process was asked to stop."""
        names = phase.loss_names
        steps = (self.world.mean(torch.stack(self.losses)) * 255).tolist()
        seconds = (time.perf_counter() - self.since) / len(steps)
        first, self.losses, self.since = self.done - len(steps) + 1, [], time.perf_counter()
        for step, losses in enumerate(steps, first):
            if not all(map(math.isfinite, losses)):
                self._raise_not_finite(step, phase, dict(zip(names, losses, strict=True)))
        if self.log is not None:
            means = {name: sum(column) / len(steps) for name, *column in zip(names, *steps, strict=True)}
            self.log.train(self.done, phase.name, means, seconds, float(self.schedule.get_last_lr()[0]))
        if self.world.size == 1:
            return self.stop.asked
        asked = torch.tensor(float(self.stop.asked), device=self.world.device)
        return bool(self.world.mean(asked) > 0)

    def _raise_not_finite(self, step: int, phase: Phase, losses: dict[str, float]) -> None:
        newest = self.folder.newest()
        kept = f"the last good checkpoint is {newest}" if newest else "no checkpoint had been saved"
        figures = ", ".join(f"{name} {value}" for name, value in losses.items())
        raise UserError(f"the loss is not finite at step {step} of phase {phase.name} ({figures}); {kept}.")

    @torch.no_grad()
    def _validate(self, phase: Phase, loss: PhaseLoss) -> None:
        """Mean losses over the validation samples, which the processes share; saves the best weights."""
        if self.averaged is not None:
            loss = PhaseLoss(self.averaged.model, phase, self.config.alpha)
        sums = torch.zeros(1 + len(phase.losses), dtype=torch.float64)
        loss.eval()
        batches = validation_draws if self.config.model.corrects else validation_batches
        for videos, masks in batches(self.validation, self.config, self.world):
            with self._autocast():
                losses = loss(*self._to_float(videos, masks))
            sums += torch.tensor([1.0, *(float(losses[name]) * 255 for name in phase.losses)], dtype=torch.float64)
        loss.train()
        count, *totals = self.world.mean(sums.to(self.world.device)).tolist()
        means = {name: total / count for name, total in zip(phase.losses, totals, strict=True)}
        judged = means[phase.losses[-1]]
        is_best = self.best.get("phase") != phase.name or judged < self.best["loss"]
        if is_best:
            self.best = {"phase": phase.name, "step": self.done, "loss": judged}
        if self.log is not None:
            self.log.validation(self.done, phase.name, means, is_best)
            if is_best:
                save_weights(self.folder.best, self._shown_model(), self._facts())

    def _save(self) -> None:
        if not self.world.is_main:
            return
        state = {"best": self.best, "scaler": self.scaler.state_dict(), "data": self._data_facts()}
        path = save_checkpoint(
            self.folder.checkpoints,
            self.done,
            self.model,
            self.optimizer,
            state,
            self._facts(),
            self.config.keep,
            self.averaged.model if self.averaged else None,
        )
        self._publish(path)

    def _publish(self, checkpoint: Path) -> None:
        """Copy the newest weights and draw the curves into the run's folder."""
        newest = checkpoint / (WEIGHTS if self.averaged is None else AVERAGED)
        replace_file(self.folder.last, lambda path: shutil.copyfile(newest, path))
        plot_curves({self.folder.path.name: self.folder.log}, self.folder.curves)

    def _restore(self, checkpoint: Path) -> None:
        averaged = self.averaged.model if self.averaged else None
        state = load_checkpoint(checkpoint, self.model, self.optimizer, ("best", "scaler", "data"), averaged)
        best = state["best"]
        if best and not (isinstance(best.get("phase"), str) and isinstance(best.get("loss"), (int, float))):
            raise UserError(f"{checkpoint}: not a checkpoint of this run: its best validation is damaged.")
        if state["data"] != self._data_facts():
            raise UserError(f"{self.data}: not the data set that the run was begun with.")
        try:
            self.scaler.load_state_dict(state["scaler"])
        except (RuntimeError, KeyError):
            raise UserError(f"{checkpoint}: not a checkpoint of this run: the scaler's state does not fit.") from None
        self.done, self.best = state["step"], state["best"]
        self.schedule = self._new_schedule()
        if self.averaged is not None:
            self.averaged.resume(self.done)

    def _facts(self) -> dict[str, Any]:
        seen = {"frames": self.samples.frames, "size": self.samples.size}  # the training size
        return {"step": self.done, "recipe": self.config.recipe, "strategy": self.config.strategy, **seen}

    def _shown_model(self) -> VideoCompletionNet | TwoDCN:
        """What is validated and published: the averaged network if there is one."""
        return self.model if self.averaged is None else self.averaged.model

    def _statistics_batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Fills and doubts, or videos and masks, of some steps after the last."""
        steps = range(self.config.total, self.config.total + self.config.statistics)
        for videos, masks in load_steps(self.batches, steps, 0, False):
            for part in range(self.config.accumulate):
                video, mask = self._to_float(videos[part], masks[part])
                yield video[:, -3:], mask

    def _data_facts(self) -> dict[str, Any]:
        """Facts of the data set that must not change when a run is resumed."""
        samples = self.samples
        return {
            "samples": len(samples),
            "frames": samples.frames,
            "size": samples.size,
            "mean_pixel": list(samples.mean_pixel),
            **(samples.facts if isinstance(samples, PropagatedDraws) else {}),
        }

    def _to_float(self, videos: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        return to_float(videos, masks, self.world.device, 255 if self.config.model.corrects else 1)

    def _can_be_graphed(self) -> bool:
        """Whether steps may be captured as a CUDA graph; logs why not."""
        reason = graph.why_not(self.world.device, self.world.size)
        if reason is not None and self.world.is_main:
            logger.warning("graph: steps are launched one by one: %s", reason)
        return reason is None

    def _new_optimizer(self) -> torch.optim.Adam:
        """Adam. On a GPU all its changing values are on the device, including the learning rate, for CUDA graphs."""
        on_gpu = self.world.device.type == "cuda"
        in_place = on_gpu or self.graphed
        lr = torch.tensor(self.config.lr, device=self.world.device) if in_place else self.config.lr
        return torch.optim.Adam(
            self.model.parameters(), lr, weight_decay=self.config.weight_decay, fused=in_place, capturable=on_gpu
        )

    def _new_schedule(self) -> LambdaLR:
        """The learning rate after the steps done."""
        return LambdaLR(self.optimizer, partial(rate_factor, self.config), last_epoch=self.done - 1)

    def _new_scaler(self) -> torch.amp.GradScaler:
        return torch.amp.GradScaler(self.world.device.type, enabled=self.config.amp == "fp16")

    def _reset_step(self) -> None:
        """Discard what an aborted step left: gradients, and the scaler's state of this step."""
        self.optimizer.zero_grad(set_to_none=True)
        state, self.scaler = self.scaler.state_dict(), self._new_scaler()
        self.scaler.load_state_dict(state)

    def _autocast(self) -> torch.autocast:
        dtype = AUTOCAST.get(self.config.amp, torch.bfloat16)
        return torch.autocast(self.world.device.type, dtype, enabled=self.config.amp != "none")


def rate_factor(config: TrainConfig, step: int) -> float:
    """The learning rate of a step over `config.lr`: a linear rise, then 1, or half a cosine from 1 to 0."""
    if step < config.warmup:
        return (step + 1) / config.warmup
    if config.schedule == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (step - config.warmup) / max(1, config.total - config.warmup)))
