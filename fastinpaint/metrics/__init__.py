"""Evaluation of completed videos: measures, baselines without learning, and reports."""

from fastinpaint.metrics.baselines import BASELINES, navier_stokes, nearest_in_time, telea, temporal_median
from fastinpaint.metrics.evaluation import Evaluation, evaluate
from fastinpaint.metrics.measures import border_error, hole_l1, psnr, ssim, temporal_error, warping_error
from fastinpaint.metrics.report import save_report

__all__ = [
    "BASELINES",
    "Evaluation",
    "border_error",
    "evaluate",
    "hole_l1",
    "navier_stokes",
    "nearest_in_time",
    "psnr",
    "save_report",
    "ssim",
    "telea",
    "temporal_error",
    "temporal_median",
    "warping_error",
]
