"""The passes of one convolution, prepared: of a later call only addresses are filled in, and it calls C once.

A `Call` holds the `Passes` of its sources' shapes, dtypes and forms. They have the functions of the `cuda` module.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fastinpaint.ops.batch_norm import cuda as batch_norm
from fastinpaint.ops.batch_norm.reference import Norm, Normed, normed_of
from fastinpaint.ops.conv_block.cuda.abi import GRADIENT, SOURCE, CConv, CSourceGradient, describe
from fastinpaint.ops.conv_block.geometry import output_shape
from fastinpaint.ops.dispatch import native_cuda as native
from fastinpaint.ops.dispatch.fast_path import tf32_convolutions
from fastinpaint.ops.layout import FORMATS
from fastinpaint.ops.types import Geometry, Source, SourceGrad, source_grad_of

OP = "conv_block"
ADDRESSES = struct.Struct("@5P")  # of a `CSource`, and of a `CSourceGradient`
RESULTS = struct.Struct("@4P")  # bias, y, mean, var
G_SOURCE, RESULT = CConv.gradient.offset, CConv.bias.offset
SOURCE_SIZE, GRADIENT_SIZE = native.C_SOURCE.size, ctypes.sizeof(CSourceGradient)
BYTES_ALIGNED = 16  # what kernels read in one access
NO_GRAD = SourceGrad()


class Passes:
    """fwd, fwd_norm, bwd and bwd_norm of sources, a weight and a geometry like those that it is made of.

    Like: of the same shapes, dtypes and strides of the weight, with the same relus, vectors and addends. No map is
    empty.
    """

    CHANNELS_LAST = True
    FRESH_GRADIENTS = True  # none shares memory with another one or with dy
    NORM_NEEDS_BYPASS = True  # `fwd_norm` gives var, which no registered operator can return
    UNGUARDED = True  # it calls nothing that autograd or autocast would change

    def __init__(self, sources: Sequence[Source], weight: Tensor, geometry: Geometry) -> None:
        x = sources[0].x
        self.device, self.axes, self.geometry = x.device, FORMATS[x.dim()], geometry
        self.shape = torch.Size(output_shape(x.shape, weight.shape, geometry))
        self.strides = torch.empty(self.shape, device="meta", memory_format=self.axes).stride()
        self.channels = self.shape[1]
        self.values = self.shape.numel() // self.channels
        self.room = -(-4 * self.channels // BYTES_ALIGNED) * BYTES_ALIGNED  # bytes of a vector
        self.wide = x.dtype == torch.float32
        self._fixed = [self._filled(sources, weight, tf32) for tf32 in ((False, True) if self.wide else (False,))]
        self._sizes: dict[Any, int] = {}

    def _filled(self, sources: Sequence[Source], weight: Tensor, tf32: bool) -> bytes:
        """A `CConv` without addresses."""
        conv = describe(sources, weight, self.geometry, self.shape, tf32)
        for source in conv.source[: len(sources)]:
            source.x = source.addend = source.mean = source.scale = source.shift = None
        conv.gradient.channels, conv.weight = self.channels, None
        conv.gradient.scale_factor, conv.gradient.shift_factor = 2.0 / self.values, 1.0 / self.values
        return bytes(conv)

    def _conv(self, sources: Sequence[Source], weight: Tensor) -> tuple[CConv, list[Any]]:
        """The convolution of these sources, and their maps made dense, which must outlive the launches."""
        conv = CConv.from_buffer_copy(self._fixed[self.wide and tf32_convolutions()])
        axes, at, alive = self.axes, SOURCE, list[Any]()
        for x, mean, scale, shift, _, addend in sources:
            x, vectors = x.contiguous(memory_format=axes), (0, 0, 0)
            if mean is not None and scale is not None and shift is not None:
                mean, scale, shift = mean.contiguous(), scale.contiguous(), shift.contiguous()
                vectors = (mean.data_ptr(), scale.data_ptr(), shift.data_ptr())
            if addend is not None:
                addend = addend.contiguous(memory_format=axes)
            alive.append((x, mean, scale, shift, addend))
            ADDRESSES.pack_into(conv, at, x.data_ptr(), 0 if addend is None else addend.data_ptr(), *vectors)
            at += SOURCE_SIZE
        conv.weight = weight.data_ptr()
        return conv, alive

    def _workspace(self, conv: CConv, kind: Any, ask: Callable[[CConv], list[int]], room: int = 0) -> Tensor:
        """Uninitialised memory for the launches, and `room` bytes after it.

        kind: what its size depends on besides the shapes. ask: what each launch needs.
        """
        kind = conv.dtype, kind  # tf32 or not
        size = self._sizes.get(kind)
        if size is None:
            sizes = ask(conv)
            if min(sizes) < 0:
                raise NotImplementedError(f"{OP}: {native.STATUS[min(sizes)]}.")
            size = self._sizes[kind] = -(-max(sizes) // BYTES_ALIGNED) * BYTES_ALIGNED
        space = torch.empty(size + room, dtype=torch.uint8, device=self.device)
        conv.workspace = space.data_ptr()
        return space

    def fwd(
        self, sources: Sequence[Source], weight: Tensor, bias: Tensor | None, geometry: Geometry, stats: bool
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """See `fastinpaint.ops.conv_block.cuda.fwd`."""
        conv, _alive = self._conv(sources, weight)
        y = sources[0].x.new_empty_strided(self.shape, self.strides)
        mean = native.vector(y, self.channels) if stats else None
        var = native.vector(y, self.channels) if stats else None
        bias = None if bias is None else bias.contiguous()
        conv.bias, conv.y, conv.mean, conv.var = map(native.address, (bias, y, mean, var))
        space = self._workspace(conv, stats, _fwd_sizes)
        native.call(OP, "fi_conv_fwd", space, ctypes.byref(conv))
        return y, mean, var

    def fwd_norm(
        self, sources: Sequence[Source], weight: Tensor, bias: Tensor | None, geometry: Geometry, norm: Norm
    ) -> tuple[Tensor, Normed]:
        """y as in `fwd`, and what the batch norm that follows makes of its statistics."""
        conv, _alive = self._conv(sources, weight)
        y = sources[0].x.new_empty_strided(self.shape, self.strides)
        mean = torch.empty(self.channels, dtype=torch.float32, device=self.device)
        var, scale, shift = torch.empty_like(mean), torch.empty_like(mean), torch.empty_like(mean)
        places = (mean.data_ptr(), var.data_ptr(), scale.data_ptr(), shift.data_ptr())
        bias = None if bias is None else bias.contiguous()
        RESULTS.pack_into(conv, RESULT, 0 if bias is None else bias.data_ptr(), y.data_ptr(), *places[:2])
        space = self._workspace(conv, True, _fwd_sizes)
        packed, dense = batch_norm.pack_fwd(norm, self.values, self.channels, *places)
        native.call(OP, "fi_conv_norm_fwd", space, ctypes.byref(conv), packed)
        batch_norm.put_back(norm.running, dense)
        return y, normed_of((mean, scale, shift, None, None, var, norm.eps, None))

    def bwd(
        self,
        dy: Tensor,
        dmean: Tensor | None,
        dvar: Tensor | None,
        y: Tensor | None,
        mean: Tensor | None,
        sources: Sequence[Source],
        weight: Tensor,
        geometry: Geometry,
        needs: Sequence[bool],
        needs_weight: bool,
        needs_bias: bool,
    ) -> tuple[list[SourceGrad], Tensor | None, Tensor | None]:
        """See `fastinpaint.ops.conv_block.cuda.bwd`."""
        conv, alive = self._conv(sources, weight)
        dy = dy.contiguous(memory_format=self.axes)
        if y is None or mean is None or dmean is None or dvar is None:
            ADDRESSES.pack_into(conv, G_SOURCE, dy.data_ptr(), 0, 0, 0, 0)
        else:
            y = y.contiguous(memory_format=self.axes)
            mean, dvar, dmean = mean.float().contiguous(), dvar.float().contiguous(), dmean.float().contiguous()
            places = (mean.data_ptr(), dvar.data_ptr(), dmean.data_ptr())
            ADDRESSES.pack_into(conv, G_SOURCE, y.data_ptr(), dy.data_ptr(), *places)
        found, dbias, space = self._results(conv, alive, weight, needs, needs_weight, needs_bias)
        native.call(OP, "fi_conv_bwd", space, ctypes.byref(conv), None, native.pointer(dbias))
        return *found, None if dbias is None else dbias.to(weight.dtype)

    def bwd_norm(
        self,
        dy: Tensor,
        dmean: Tensor | None,
        dscale: Tensor | None,
        y: Tensor,
        normed: Normed,
        norm_weight: Tensor | None,
        sources: Sequence[Source],
        weight: Tensor,
        geometry: Geometry,
        needs: Sequence[bool],
        needs_weight: bool,
        needs_bias: bool,
    ) -> tuple[list[SourceGrad], Tensor | None, Tensor | None, Tensor | None]:
        """As `bwd`, given the gradient of the scale in place of dvar; also the gradient of norm_weight."""
        if dscale is None and dmean is None:
            found = self.bwd(dy, None, None, None, None, sources, weight, geometry, needs, needs_weight, needs_bias)
            return *found, None
        conv, alive = self._conv(sources, weight)
        mean, var, eps = normed.mean, normed.var, normed.eps
        assert var is not None
        dmean = torch.zeros_like(mean) if dmean is None else dmean.contiguous()
        dscale = torch.zeros_like(mean) if dscale is None else dscale.contiguous()
        dy, y = dy.contiguous(memory_format=self.axes), y.contiguous(memory_format=self.axes)
        places = (mean.data_ptr(), mean.data_ptr(), dmean.data_ptr())  # in the middle, until the workspace has dvar's
        ADDRESSES.pack_into(conv, G_SOURCE, y.data_ptr(), dy.data_ptr(), *places)
        (grads, dweight), dbias, space = self._results(conv, alive, weight, needs, needs_weight, needs_bias)
        dvar = space.data_ptr() + space.numel() - self.room
        packed, dnorm_weight, _alive = batch_norm.pack_bwd(
            dscale, var, normed.weight, norm_weight is not None, eps, dvar
        )
        conv.gradient.scale = dvar
        native.call(OP, "fi_conv_bwd", space, ctypes.byref(conv), packed, native.pointer(dbias))
        return grads, dweight, None if dbias is None else dbias.to(weight.dtype), dnorm_weight

    def _results(
        self,
        conv: CConv,
        alive: Sequence[Any],
        weight: Tensor,
        needs: Sequence[bool],
        needs_weight: bool,
        needs_bias: bool,
    ) -> tuple[tuple[list[SourceGrad], Tensor | None], Tensor | None, Tensor]:
        """Uninitialised gradients of the sources and the weight; of the bias, float32; and the workspace.

        conv has G's addresses already.
        """
        grads, at = list[SourceGrad](), GRADIENT
        for (x, mean, _, _, addend), needed in zip(alive, needs, strict=True):
            if needed:
                dx, daddend, places = torch.empty_like(x), None, (0, 0, 0)
                dmean = dscale = dshift = None
                if mean is not None:
                    dmean, dscale, dshift = torch.empty_like(mean), torch.empty_like(mean), torch.empty_like(mean)
                    places = (dmean.data_ptr(), dscale.data_ptr(), dshift.data_ptr())
                if addend is not None:
                    daddend = torch.empty_like(x)
                ADDRESSES.pack_into(conv, at, dx.data_ptr(), 0 if daddend is None else daddend.data_ptr(), *places)
                grads.append(source_grad_of((dx, dmean, dscale, dshift, daddend)))
            else:
                grads.append(NO_GRAD)
            at += GRADIENT_SIZE
        dweight = dbias = None
        if needs_weight:
            dweight = torch.empty_like(weight, memory_format=torch.contiguous_format)
            conv.dweight = dweight.data_ptr()
        if needs_bias:
            dbias = native.vector(alive[0][0], self.channels)
        kind = (*needs, needs_weight, needs_bias, conv.gradient.addend is None)  # the plan counts maps that it reads
        return (grads, dweight), dbias, self._workspace(conv, kind, self._bwd_sizes, self.room)

    def _bwd_sizes(self, conv: CConv) -> list[int]:
        """Bytes of workspace of each launch of backward, or a negative status."""
        library, sizes = native.library(), [0]
        if conv.source_gradient[0].dx or conv.source_gradient[1].dx:
            sizes.append(library.fi_conv_workspace(ctypes.byref(conv), 1))
        if conv.dweight:
            sizes.append(library.fi_conv_wgrad_workspace(ctypes.byref(conv)))
        sizes.append(library.fi_channel_workspace(native.size(self.values), self.channels))
        return sizes


def _fwd_sizes(conv: CConv) -> list[int]:
    """Bytes of workspace of forward, or a negative status."""
    return [native.library().fi_conv_workspace(ctypes.byref(conv), 0)]


_made: dict[tuple[Any, ...], Passes] = {}
MOST = 1024  # remembered


def passes_of(sources: Sequence[Source], weight: Tensor, geometry: Geometry) -> Passes:
    """The passes of such sources, made once."""
    x = sources[0].x
    key: tuple[Any, ...] = (
        x.device, native.DTYPES[x.dtype], weight.shape, weight.stride(), geometry, native.shared_limit(x),
        native.hopper(x), native.emulated,
    )  # fmt: skip
    for source in sources:
        key += (source.x.shape, source.relu, source.mean is None, source.addend is None)
    found = _made.get(key)
    if found is None:
        if len(_made) >= MOST:
            _made.clear()
        found = _made[key] = Passes(sources, weight, geometry)
    return found
