"""What a person looks at after training: tables of the DSC, training curves, predictions on their images."""

from monai_cobot.reports._overlay_sample import OverlaySample
from monai_cobot.reports.curves import EpochRecord, plot_training_curves
from monai_cobot.reports.dice import CaseScores, LabelSummary, dice_coefficient, mask_dice
from monai_cobot.reports.mask_scores import MEASURES, MaskScores, distance_unit, score_mask
from monai_cobot.reports.overlay import overlay_sheet
from monai_cobot.reports.relation import plot_relation_matrices
from monai_cobot.reports.scores import plot_mask_scores
from monai_cobot.reports.tables import dice_table, write_csv
from monai_cobot.reports.widths import plot_widths

__all__ = [
    "MEASURES",
    "CaseScores",
    "EpochRecord",
    "LabelSummary",
    "MaskScores",
    "OverlaySample",
    "dice_coefficient",
    "dice_table",
    "distance_unit",
    "mask_dice",
    "overlay_sheet",
    "plot_mask_scores",
    "plot_relation_matrices",
    "plot_training_curves",
    "plot_widths",
    "score_mask",
    "write_csv",
]
