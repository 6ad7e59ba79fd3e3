"""What a person looks at after training: tables of the DSC, training curves, predictions on their images."""

from monai_cobot.reports._overlay_sample import OverlaySample
from monai_cobot.reports.curves import EpochRecord, plot_training_curves
from monai_cobot.reports.dice import CaseScores, LabelSummary, dice_coefficient
from monai_cobot.reports.overlay import overlay_sheet
from monai_cobot.reports.tables import before_after_table, score_table, write_csv

__all__ = [
    "CaseScores",
    "EpochRecord",
    "LabelSummary",
    "OverlaySample",
    "before_after_table",
    "dice_coefficient",
    "overlay_sheet",
    "plot_training_curves",
    "score_table",
    "write_csv",
]
