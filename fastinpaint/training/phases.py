"""The paper's training strategies as phases: which networks move, and by which loss."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from fastinpaint.models import TwoDCN, VideoCompletionNet, complete_frames
from fastinpaint.training.config import TrainConfig
from fastinpaint.training.losses import combcn_loss, threedcn_loss, total_loss


@dataclass(frozen=True)
class Phase:
    """Steps that train the same networks by the same loss.

    Attributes:
        name: in logs and errors.
        first, end: the steps of the run that belong to it, ``range(first, end)``.
        trains: the sub-networks whose weights move; the empty name is the whole model.
        losses: what is measured; by the last one a validation is the best so far or not.
        frozen: the sub-networks that work with their running statistics and get no gradient.
    """

    name: str
    first: int
    end: int
    trains: tuple[str, ...]
    losses: tuple[str, ...]
    frozen: tuple[str, ...] = ()

    @property
    def totalled(self) -> tuple[str, ...]:
        """The names of what `PhaseLoss` returns."""
        return (*self.losses, "total")


def phases_of(config: TrainConfig) -> list[Phase]:
    """The phases of the section "Performance of variants of training strategy", in order.

    T-1 keeps the pre-trained 3DCN as it is: its weights do not move and its batch norm uses and keeps the statistics
    it learnt, so it guides CombCN in training exactly as it will afterwards.
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
    """The plain network that the strategy trains."""
    return TwoDCN(config.model) if config.strategy == "2dcn" else VideoCompletionNet(config.model)


class PhaseLoss(nn.Module):
    """A model with the losses of one phase around it; only what the phase trains asks for gradients.

    A module, so that DistributedDataParallel can wrap model and loss as one.
    """

    def __init__(self, model: VideoCompletionNet | TwoDCN, phase: Phase, alpha: float) -> None:
        super().__init__()
        self.model, self.phase, self.alpha = model, phase, alpha
        model.requires_grad_(False)
        for name in phase.trains:
            model.get_submodule(name).requires_grad_(True)

    def train(self, mode: bool = True) -> PhaseLoss:
        super().train(mode)
        for name in self.phase.frozen:
            self.model.get_submodule(name).eval()
        return self

    def forward(self, video: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """Losses of pixels in [0, 1], scalars; ``total`` is the one to minimise.

        Args:
            video: the complete video ``[N, 3, T, H, W]``, RGB in [0, 1].
            mask: ``[N, 1, T, H, W]``, 1 = hole; at least one hole pixel a frame, as `make_holes` draws them.
        """
        model = self.model
        if isinstance(model, TwoDCN):
            loss = combcn_loss(complete_frames(model, video, mask), video, mask, checked=True)
            return {"2dcn": loss, "total": loss}
        if self.phase.name == "pretrain":
            loss = threedcn_loss(model.complete_coarse(video, mask), video, mask, model.config.r, checked=True)
            return {"3dcn": loss, "total": loss}
        completed, coarse = model(video, mask)
        losses = total_loss(completed, coarse, video, mask, model.config.r, self.alpha, checked=True)
        total = losses.combcn if "threedcn" in self.phase.frozen else losses.total
        return {"3dcn": losses.threedcn, "combcn": losses.combcn, "total": total}
