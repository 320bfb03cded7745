"""TrainConfig: valid and invalid values, and what may change when a run is resumed."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import yaml

from fastinpaint.errors import UserError
from fastinpaint.models import ModelConfig
from fastinpaint.strict_yaml import read_yaml
from fastinpaint.training import TrainConfig
from fastinpaint.training.config import resumed


def test_values_go_over_the_base_and_stay_through_yaml(tmp_path: Path) -> None:
    base = TrainConfig.from_dict({"steps": 7, "model": {"width": 0.5}})
    config = TrainConfig.from_dict({"lr": "1e-4", "model": {"skips": "add"}}, base)
    assert config == TrainConfig(steps=7, lr=1e-4, model=ModelConfig(width=0.5, skips="add"))
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config.to_dict()))
    assert TrainConfig.from_dict(read_yaml(path)) == config


def test_text_of_a_command_line_becomes_the_fields_types() -> None:
    config = TrainConfig.from_dict(
        {"steps": "20", "flip": "true", "model": {"r": "4", "composite_guidance": "false", "width": "0.25"}}
    )
    assert (config.steps, config.flip, config.model.r, config.model.composite_guidance) == (20, True, 4, False)
    assert type(config.steps) is int
    assert type(config.model.width) is float


@pytest.mark.parametrize(
    ("variant", "r", "time_stride"), [("paper", 2, 1), ("v1", 4, 1), ("v2", 2, 2)], ids=lambda value: str(value)
)
def test_variants_of_the_paper(variant: str, r: int, time_stride: int) -> None:
    base = TrainConfig(model=ModelConfig(r=1))
    model = TrainConfig.from_dict({"variant": variant}, base).model
    assert (model.r, model.time_stride) == (r, time_stride)


def test_an_option_of_the_model_goes_over_the_variant() -> None:
    assert TrainConfig.from_dict({"variant": "v1", "model": {"r": 2}}).model.r == 2


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"step": 3}, ["unknown option 'step'", "pretrain_steps, steps,", "variant"]),
        ({"model": {"wide": 3}}, ["unknown option of the model 'wide'", "width, r, skips"]),
        ({"strategy": "t3"}, ["strategy", "'t3'", "paper, t1, t2, 2dcn"]),
        ({"variant": "v3"}, ["variant", "'v3'", "paper, v1, v2"]),
        ({"backend": "tpu"}, ["backend", "'tpu'", "reference, auto, cpu, cuda, triton, library"]),
        ({"holes": "round"}, ["holes", "'round'", "rectangle"]),
        ({"steps": 2.5}, ["steps", "a whole number", "2.5"]),
        ({"steps": "many"}, ["steps", "a whole number", "'many'"]),
        ({"steps": True}, ["steps", "a whole number", "True"]),
        ({"steps": None}, ["steps", "a whole number", "None"]),
        ({"lr": "fast"}, ["lr", "a number", "'fast'"]),
        ({"lr": float("nan")}, ["lr", "from 0", "nan"]),
        ({"steps": float("inf")}, ["steps", "a whole number", "inf"]),
        ({"batch": 0}, ["batch", "from 1", "0"]),
        ({"flip": "maybe"}, ["flip", "true or false", "'maybe'"]),
        ({"batch": 3, "accumulate": 2}, ["batch", "3", "2", "accumulate"]),
        ({"strategy": "t2", "steps": 0}, ["steps", "nothing to train"]),
        ({"model": 3}, ["model", "mapping", "3"]),
        ({"model": {"r": 3}}, ["r", "1, 2, 4", "3"]),
    ],
    ids=lambda value: "-".join(map(str, value)) if isinstance(value, dict) else "",
)
def test_wrong_values_are_named_in_one_line(values: dict[str, object], words: list[str]) -> None:
    with pytest.raises(UserError) as raised:
        TrainConfig.from_dict(values)
    assert "\n" not in str(raised.value)
    for word in words:
        assert word in str(raised.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [("- 1\n- 2\n", "mapping"), ("a: [1", "not YAML"), ("\xff", "mapping")],
    ids=["a list", "broken", "a word"],
)
def test_a_file_that_is_no_config(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=words) as raised:
        read_yaml(path)
    assert "\n" not in str(raised.value)


def test_a_config_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.yaml: No such file"):
        read_yaml(tmp_path / "nowhere.yaml")


PAPER = TrainConfig(pretrain_steps=10, steps=20)


@pytest.mark.parametrize(
    ("changes", "done"),
    [
        ({"steps": 40}, 30),
        ({"steps": 5}, 15),
        ({"keep": 9, "save_every": 3, "workers": 2, "log_every": 1}, 12),
        ({"pretrain_steps": 12}, 10),
    ],
    ids=["more steps", "fewer, not yet done", "what decides no weight", "longer pre-training, just reached"],
)
def test_a_resumed_run_may_change(changes: dict[str, object], done: int) -> None:
    asked = dataclasses.replace(PAPER, **changes)  # type: ignore[arg-type]
    assert resumed(PAPER, asked, done) == asked


@pytest.mark.parametrize(
    ("changes", "done", "words"),
    [
        ({"lr": 0.1, "seed": 5}, 3, ["lr (0.001 before, 0.1 now)", "seed (0 before, 5 now)"]),
        ({"model": ModelConfig(width=0.5)}, 3, ["model.width (1.0 before, 0.5 now)"]),
        ({"strategy": "t1"}, 3, ["strategy (paper before, t1 now)"]),
        ({"pretrain_steps": 12}, 11, ["pretrain_steps", "10", "12", "after 11 steps"]),
        ({"pretrain_steps": 5}, 8, ["pretrain_steps", "10", "5"]),
        ({"steps": 4}, 15, ["15 steps are done", "14 were asked"]),
    ],
    ids=["weights", "model", "strategy", "too late", "cut short", "fewer than done"],
)
def test_a_resumed_run_may_not_change(changes: dict[str, object], done: int, words: list[str]) -> None:
    with pytest.raises(UserError) as raised:
        resumed(PAPER, dataclasses.replace(PAPER, **changes), done)  # type: ignore[arg-type]
    for word in words:
        assert word in str(raised.value)
