"""What MONAI and ignite lack around a fine-tuning: DSC by case, its history, adapters on disk, progress, a report."""

from monai_cobot.handlers.case_dice import CaseDice
from monai_cobot.handlers.checkpoints import AdapterSaver, TrainingCheckpoint
from monai_cobot.handlers.epoch_seed import EpochSeed
from monai_cobot.handlers.evaluation_report import EvaluationReport
from monai_cobot.handlers.history import TrainingHistory, write_scores
from monai_cobot.handlers.mask_writer import MaskWriter
from monai_cobot.handlers.progress import TrainingProgress
from monai_cobot.handlers.report import TrainingReport
from monai_cobot.processes import join_processes, leave_processes, of_all_processes, place_of_process

__all__ = [
    "AdapterSaver",
    "CaseDice",
    "EpochSeed",
    "EvaluationReport",
    "MaskWriter",
    "TrainingCheckpoint",
    "TrainingHistory",
    "TrainingProgress",
    "TrainingReport",
    "join_processes",
    "leave_processes",
    "of_all_processes",
    "place_of_process",
    "write_scores",
]
