"""The good call of each command, to which one bad thing is done."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tools.verify.bad_inputs import material
from tools.verify.bad_inputs.calls import DONE, Call

SIZES = ("--frames", str(material.FRAMES), "--size", str(material.SIZE))
TINY = ("--width", material.WIDTH)


@dataclass(frozen=True)
class Bases:
    """Good command lines by command, for material in a folder.

    Attributes:
        material: the folder.
    """

    material: Path

    def at(self, name: str) -> str:
        """The path of a piece of material."""
        return str(self.material / name)

    def argv(self, command: str, **changed: str) -> tuple[str, ...]:
        """The good command line with a path of it changed: source, weights, data, mask, out, config, video.

        `evaluate` reads a data set, or the clip where ``video`` names one.
        """
        place = {
            "source": self.at(material.CLIPS if command == "prepare" else material.CLIP),
            "weights": self.at(material.WEIGHTS),
            "data": self.at(material.DATA),
            "out": "new.mp4" if command == "inpaint" else "new",
            **changed,
        }
        hole = ("--mask", place["mask"]) if "mask" in place else ("--box", "8,8,8,8")
        few = ("--strategy", "2dcn", "--steps", "1", "--device", "cpu", *TINY)
        measured: tuple[str, ...] = (place["weights"], "--data", place["data"])
        if "video" in place:
            measured = ("--video", place["video"], *SIZES)
        return {
            "prepare": (place["source"], "--out", place["out"], *SIZES),
            "train": (place["data"], "--out", place["out"], *few),
            "evaluate": (*measured, "--limit", "1", "--device", "cpu", "--no-rivals"),
            "inpaint": (place["source"], "-o", place["out"], "-w", place["weights"], *hole, "--device", "cpu"),
            "demo": ("--out", place["out"]),
            "bench": ("--frames", "1", "--size", "16", "--seconds", "0.1", "--contenders", "eager", *TINY),
            "tune": ("--frames", "1", "--size", "16", "--device", "cpu", *TINY),
            "info": (),
        }[command] + (("--config", place["config"]) if "config" in place else ())

    def resume(self, *more: str) -> tuple[str, ...]:
        """Going on with a run that stands in the call's own folder."""
        return (self.at(material.DATA), "--out", "run", "--resume", *more)

    def good(self) -> list[Call]:
        """The command lines as they are, all but the demo's, which takes minutes."""
        names = ("prepare", "train", "evaluate", "inpaint", "bench", "tune", "info")
        cache = {"FASTINPAINT_CACHE": "cache"}
        clip = self.argv("evaluate", video=self.at(material.CLIP))
        lines = [(name, self.argv(name)) for name in names] + [("evaluate", clip)]
        return [Call("good", name, argv, DONE, env=cache) for name, argv in lines]
