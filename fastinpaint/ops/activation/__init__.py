"""`activation`: deferred activations as one plain tensor. See `reference` for the equations."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from fastinpaint.ops.activation import autograd, checks
from fastinpaint.ops.types import Source

__all__ = ["activation"]


def activation(sources: Source | Sequence[Source], *, backend: str | None = None) -> Tensor:
    """Batch norm, ReLU, addition and concatenation in one pass.

        a = concat_i( (relu(z_i) if relu_i else z_i) + addend_i ),   z_i = (x_i - mean_i) * scale_i + shift_i

    For backward only the raw maps x and the vectors are kept.

    Args:
        sources: one `Source` or several of the same N, T, H and W.
        backend: a name of `fastinpaint.ops.dispatch.registry.BACKENDS`; None for ``FASTINPAINT_BACKEND`` or auto.

    Returns:
        ``[N, sum C_i, *space]`` in the dtype of the sources.

    Raises:
        ValueError, TypeError: the sources do not fit together.
        NotImplementedError: the backend was asked for by name and cannot run this.
    """
    several = [sources] if isinstance(sources, Source) else list(sources)
    checks.check(several)
    return autograd.apply(several, backend)
