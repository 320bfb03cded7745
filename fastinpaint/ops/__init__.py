"""Differentiable operations, one room each: `activation`, `batch_norm`, `conv_block`.

A backend is a module of the room, ``reference``, ``cpu``, ``cuda``, ``triton`` or ``library``, imported only when it is
asked for. It has reference's functions with reference's signatures, and

    why_not(...) -> str | None    why it cannot take these arguments, in one sentence, or None if it can. It is
                                  called before every call, looks at shapes, dtypes and devices only (the tensors may
                                  be fake) and never at strides: a backend takes every memory format.
    CHANNELS_LAST: bool           True: y and a are dense in channels-last (channels_last_3d for video), and a gradient
                                  of a map is dense in channels-last too. False: strides as torch's own operations
                                  give them. dweight is contiguous either way.

What the functions return never shares memory with what they were given, nor do two results overlap. A gradient that
was not asked for is None. The room's `checks` raise the caller's errors before.
"""
