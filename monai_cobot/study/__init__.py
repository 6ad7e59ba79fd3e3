"""Comparing methods: trainings of the bundle from one file, shared by several processes, and what they amount to."""

from monai_cobot.study.description import Study, read_study
from monai_cobot.study.execution import run_study
from monai_cobot.study.plan import Plan, Run, make_plan
from monai_cobot.study.report import draw_relations, write_report

__all__ = ["Plan", "Run", "Study", "draw_relations", "make_plan", "read_study", "run_study", "write_report"]
