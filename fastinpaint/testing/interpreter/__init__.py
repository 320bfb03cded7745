"""Makes Triton's interpreter as strict as a GPU, and right for bfloat16.

``TRITON_INTERPRET=1`` runs a kernel program by program in numpy. Unmodified, it computes on the bit patterns of
bfloat16, truncates where a GPU rounds, accesses any address, fills masked lanes with zeros and runs programs in order.
After `install` every launch is checked:

    numerics   bfloat16 arithmetic, casts, products and reductions round to nearest; float32 products round their
               operands to tf32 unless the kernel requests ieee
    addresses  each unmasked lane lies inside a tensor argument and on a multiple of its item size (`OutOfBounds`)
    races      no program stores what another one loads or stores, except by atomics (`Race`)
    masks      lanes masked off without ``other=`` hold NaN or a large integer, as undefined as on a GPU
    order      programs run shuffled, by a seed

It cannot show races between threads of one program, errors in generated code, or speed. Results are "interpreted".
"""

from __future__ import annotations

import os

from fastinpaint.testing.interpreter.launch import Settings, install, launches, settings
from fastinpaint.testing.interpreter.memory import OutOfBounds, Race

__all__ = ["OutOfBounds", "Race", "Settings", "install", "interpreting", "launches", "settings"]


def interpreting() -> bool:
    """Whether this process runs Triton kernels in the interpreter."""
    return os.environ.get("TRITON_INTERPRET") == "1"
