"""A video filled: what a mask hides is taken from the other frames and from around the hole.

    python examples/fill_video.py

The example draws a short clip and a square that moves over it, so that it can say how far the fill is from the truth.
A file is filled by the command `fastinpaint inpaint video.mp4 --mask mask.mp4 --out filled.mp4`.
"""

import numpy as np

from fastinpaint.data.synthetic import synthetic_clip
from fastinpaint.propagation import propagate


def main(frames: int = 12, size: int = 64) -> tuple[float, float]:
    truth = synthetic_clip(seed=1, frames=frames, size=size)  # uint8 [T, H, W, 3]
    mask = np.zeros((frames, size, size), bool)
    for t in range(frames):
        mask[t, 20:40, 8 + 2 * t : 24 + 2 * t] = True
    video = np.where(mask[..., None], 0, truth).astype(np.uint8)

    filled = propagate(video, mask)

    def error(other: np.ndarray) -> float:
        return float(np.abs(other.astype(float) - truth)[mask].mean())

    gray = np.full_like(truth, truth[~mask].mean())
    print(f"mean error inside the hole, of 255: {error(filled.video):.1f}; gray would give {error(gray):.1f}")
    return error(filled.video), error(gray)


if __name__ == "__main__":
    main()
