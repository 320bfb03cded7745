"""The paper's training strategies as phases: which networks are trained, with which losses."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from fastinpaint.errors import UserError
from fastinpaint.models import TwoDCN, VideoCompletionNet, predict_frames
from fastinpaint.models.preprocess import corrected
from fastinpaint.models.weights import load_weights
from fastinpaint.training.config import TrainConfig
from fastinpaint.training.losses import combcn_loss, gradient_loss, threedcn_loss, total_loss

PIXELS = 0.5
"""Weight of the error of a correction's own pixels, which would not learn while their share is small."""


@dataclass(frozen=True)
class Phase:
    """A range of steps that train the same networks with the same loss.

    Attributes:
        name: the name in logs and errors.
        first, end: its steps, ``range(first, end)``.
        trains: the sub-networks to train; the empty name is the whole model.
        losses: the losses to measure. The last one decides which validation is best.
        frozen: the sub-networks in eval mode and without gradients.
    """

    name: str
    first: int
    end: int
    trains: tuple[str, ...]
    losses: tuple[str, ...]
    frozen: tuple[str, ...] = ()

    @property
    def loss_names(self) -> tuple[str, ...]:
        """The names of the losses that `PhaseLoss` returns."""
        return (*self.losses, "total")


def phases_of(config: TrainConfig) -> list[Phase]:
    """The phases of the paper's section "Performance of variants of training strategy", in order.

    T-1 freezes the pre-trained 3DCN and its batch norm statistics, so it guides CombCN in training exactly as in use.
    """
    begin, end = config.pretrain_steps, config.pretrain_steps + config.steps
    pretrain = Phase("pretrain", 0, begin, ("threedcn",), ("3dcn",))
    both = ("threedcn", "combcn")
    return {
        "paper": [pretrain, Phase("joint", begin, end, both, ("3dcn", "combcn"))],
        "t1": [pretrain, Phase("fixed", begin, end, ("combcn",), ("3dcn", "combcn"), frozen=("threedcn",))],
        "t2": [Phase("joint", 0, config.steps, both, ("3dcn", "combcn"))],
        "2dcn": [Phase("2dcn", 0, config.steps, ("",), ("2dcn",))],
    }[config.strategy]


def build_model(config: TrainConfig) -> VideoCompletionNet | TwoDCN:
    """The plain network of the strategy."""
    return TwoDCN(config.model) if config.strategy == "2dcn" else VideoCompletionNet(config.model)


def begin_with(model: VideoCompletionNet | TwoDCN, path: str) -> None:
    """Give a model the weights of a file.

    Raises:
        UserError: they are of another network.
    """
    found = load_weights(path)
    if not isinstance(model, type(found)) or found.config != model.config:
        raise UserError(f"start: {path} holds another network than the run's ({found.config} and {model.config}).")
    model.load_state_dict(found.state_dict())


class PhaseLoss(nn.Module):
    """A model together with the losses of one phase. Only the phase's networks require gradients.

    It is a module, so that DistributedDataParallel can wrap model and loss together.
    """

    def __init__(self, model: VideoCompletionNet | TwoDCN, phase: Phase, alpha: float, gradient: float = 0.0) -> None:
        super().__init__()
        self.model, self.phase, self.alpha, self.gradient = model, phase, alpha, gradient
        model.requires_grad_(False)
        for name in phase.trains:
            model.get_submodule(name).requires_grad_(True)

    def train(self, mode: bool = True) -> PhaseLoss:
        super().train(mode)
        for name in self.phase.frozen:
            self.model.get_submodule(name).eval()
        return self

    def forward(self, video: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """Scalar losses for pixels in [0, 1]; ``total`` is to be minimised.

        Args:
            video: the complete video ``[N, 3, T, H, W]``, RGB in [0, 1]; with the config's fill ``propagated``
                ``[N, 6, T, H, W]``, followed by the propagated one.
            mask: ``[N, 1, T, H, W]``, 1 = hole, with at least one hole pixel per frame (see `make_holes`); with fill
                ``propagated`` the doubt, 1 - confidence, above 0 in holes.
        """
        model = self.model
        truth, seen, hole = (
            (video[:, :3], video[:, 3:], (mask > 0).float()) if model.config.corrects else (video, video, mask)
        )
        if isinstance(model, TwoDCN):
            output = predict_frames(model, seen, mask)
            completed, extra = self._judged(output, truth, seen, mask)
            loss = combcn_loss(completed, truth, hole, checked=True)
            return {"2dcn": loss, "total": loss + extra}
        if self.phase.name == "pretrain":
            loss = threedcn_loss(model.complete_coarse(seen, mask), truth, hole, model.config.r, checked=True)
            return {"3dcn": loss, "total": loss}
        output, coarse = model.predict(seen, mask)
        completed, extra = self._judged(output, truth, seen, mask)
        losses = total_loss(completed, coarse, truth, hole, model.config.r, self.alpha, checked=True)
        total = losses.combcn if "threedcn" in self.phase.frozen else losses.total
        return {"3dcn": losses.threedcn, "combcn": losses.combcn, "total": total + extra}

    def _judged(self, output: Tensor, truth: Tensor, seen: Tensor, mask: Tensor) -> tuple[Tensor, Tensor | float]:
        """The completed video of a network's output, and the loss's terms beside Eq. 3."""
        extra: Tensor | float = 0.0
        if self.model.config.corrects:
            extra = PIXELS * combcn_loss(output[:, :3], truth, (mask > 0).float(), checked=True)
            output = corrected(output, seen, mask)
        if self.gradient:
            extra = extra + self.gradient * gradient_loss(output, truth, mask)
        return output, extra
