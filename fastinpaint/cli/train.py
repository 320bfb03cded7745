"""``fastinpaint train``: every field of `TrainConfig` and `ModelConfig` is an option."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

from fastinpaint.cli.options import path
from fastinpaint.environment import whole_number
from fastinpaint.errors import UserError
from fastinpaint.models import ModelConfig
from fastinpaint.training import TrainConfig, train
from fastinpaint.training.config import VARIANTS
from fastinpaint.training.run_folder import RunFolder, read_options

MODEL_HELP = {
    "width": "factor on the channels of every layer",
    "r": "how much smaller 3DCN's frames are",
    "skips": "concat or add",
    "guidance": "added after or before batch norm and ReLU",
    "deconv_time": "taps in time of 3DCN's deconvolutions",
    "time_stride": "stride in time of 3DCN's layers 2 and 4",
    "preset": "paper or chang2019, the way a public re-implementation builds the networks",
    "fill": "mean, as in the paper, or propagated: correct what fastinpaint.propagation filled",
    "composite_guidance": "give 3DCN's output its known pixels before it guides CombCN",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", metavar="DATA", type=path, help="folder made by `fastinpaint prepare`")
    parser.add_argument("--out", metavar="RUN", type=path, required=True, help="folder of the run, new or empty")
    parser.add_argument(
        "--config", metavar="FILE.yaml", type=path, help="file of options by name; the command line overrides it"
    )
    parser.add_argument("--resume", action="store_true", help="continue the run in RUN")
    options = parser.add_argument_group("training")
    for item in dataclasses.fields(TrainConfig):
        if item.name != "model":
            _add(options, item, item.metadata["help"], item.metadata["choices"])
    model = parser.add_argument_group("model")
    model.add_argument(
        "--variant", metavar="|".join(VARIANTS), help="the paper's ablations: v1 is r=4, v2 time_stride=2"
    )
    for item in dataclasses.fields(ModelConfig):
        _add(model, item, MODEL_HELP[item.name])


def run(args: argparse.Namespace) -> None:
    """Train; raises `UserError` for bad input and `KeyboardInterrupt` after Ctrl-C."""
    try:
        train(_config(args), args.data, args.out, args.resume)
    except (UserError, KeyboardInterrupt) as error:
        if whole_number("RANK", 0) != 0:  # rank 0 prints it
            raise SystemExit(2 if isinstance(error, UserError) else 130) from None
        raise


def _config(args: argparse.Namespace) -> TrainConfig:
    """The stored config if a run is resumed without --config, else the file's. The command line overrides both."""
    given = {name: value for name, value in vars(args).items() if value is not None}
    names = [item.name for item in dataclasses.fields(TrainConfig)] + ["variant"]
    values: dict[str, Any] = {name: given[name] for name in names if name in given}
    values["model"] = {item.name: given[item.name] for item in dataclasses.fields(ModelConfig) if item.name in given}
    if args.resume and args.config is None:
        base = RunFolder(args.out).stored_config()
    else:
        base = TrainConfig.from_dict(read_options(args.config) if args.config else {})
    return TrainConfig.from_dict(values, base)


def _add(
    group: argparse._ArgumentGroup, item: dataclasses.Field[Any], help: str, choices: tuple[str, ...] | None = None
) -> None:
    """One option for one field; values stay text, since `TrainConfig` checks them as it does those of a file."""
    flag, text = f"--{item.name.replace('_', '-')}", f"{help} (default: {item.default})"
    if item.type == "bool":
        group.add_argument(flag, action=argparse.BooleanOptionalAction, default=None, help=text)
    else:
        metavar = "|".join(choices) if choices else {"int": "N", "float": "X"}.get(str(item.type), "WORD")
        group.add_argument(flag, metavar=metavar, type=_weights if item.name == "start" else str, help=text)


def _weights(text: str) -> str:
    """A path to weights; an empty one is a mistake, where the field's own default means none."""
    return str(path(text))
