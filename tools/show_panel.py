"""Draw the panel of SlicerCOBOT without 3D Slicer: ``python tools/show_panel.py``, with PySide6 installed.

Slicer's and CTK's own widgets are drawn by stand-ins of about their size; all others are Qt's. It writes
``slicer_panel.png``.
"""

import argparse
import os
from pathlib import Path

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
os.environ.setdefault("QT_SCALE_FACTOR", "2")

from PySide6.QtCore import Property, QBuffer, QSize, Qt
from PySide6.QtGui import QPainter
from PySide6.QtUiTools import QUiLoader
from PySide6.QtWidgets import (
    QAbstractButton,
    QApplication,
    QComboBox,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QStyle,
    QStyleOptionButton,
    QToolButton,
    QWidget,
)

PANEL = Path(__file__).resolve().parents[1] / "SlicerCOBOT" / "Resources" / "UI" / "COBOT.ui"
WIDTH = 440  # pixels, as Slicer's module panel has it on a screen of 1920


class CollapsibleButton(QAbstractButton):
    """A ``ctkCollapsibleButton``: a header that folds what is below it."""

    HEADER = 26

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._collapsed = False

    def collapsed(self) -> bool:
        return self._collapsed

    def setCollapsed(self, collapsed: bool) -> None:  # noqa: N802 - Qt's names
        self._collapsed = collapsed

    collapsed = Property(bool, collapsed, setCollapsed)

    def fold(self) -> None:
        """Give the header its room, and the content none where it is folded."""
        margins = self.layout().contentsMargins()
        margins.setTop(margins.top() + self.HEADER)
        self.layout().setContentsMargins(margins)
        if self._collapsed:
            for child in self.findChildren(QWidget):
                child.hide()
            self.setFixedHeight(self.HEADER)

    def sizeHint(self) -> QSize:  # noqa: N802
        return self.layout().sizeHint()

    def paintEvent(self, event: object) -> None:  # noqa: N802
        painter, style = QPainter(self), self.style()
        header = QStyleOptionButton()
        header.initFrom(self)
        header.rect.setHeight(self.HEADER)
        style.drawPrimitive(QStyle.PrimitiveElement.PE_PanelButtonCommand, header, painter, self)
        arrow = QStyleOptionButton(header)
        arrow.rect = header.rect.adjusted(8, 8, 0, -8)
        arrow.rect.setWidth(arrow.rect.height())
        down = QStyle.PrimitiveElement.PE_IndicatorArrowDown
        right = QStyle.PrimitiveElement.PE_IndicatorArrowRight
        style.drawPrimitive(right if self._collapsed else down, arrow, painter, self)
        painter.drawText(header.rect.adjusted(26, 0, 0, 0), Qt.AlignmentFlag.AlignVCenter, self.text())


class PathLineEdit(QWidget):
    """A ``ctkPathLineEdit``: a line, and a button that opens a file dialog."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        browse = QToolButton()
        browse.setText("...")
        self.line = QLineEdit()
        row.addWidget(self.line)
        row.addWidget(browse)


class SegmentEditor(QLabel):
    """In place of ``qMRMLSegmentEditorWidget``, which only the application has."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__("Segment Editor of 3D Slicer\n(list of segments, effects, masking)", parent)
        self.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self.setStyleSheet("border: 1px dashed gray; color: gray")
        self.setMinimumHeight(90)


STAND_INS = {
    "qMRMLWidget": QWidget,
    "qMRMLNodeComboBox": QComboBox,
    "qMRMLSegmentEditorWidget": SegmentEditor,
    "ctkCollapsibleButton": CollapsibleButton,
    "ctkPathLineEdit": PathLineEdit,
}


# as COBOT.py has them while something runs on this computer
DISABLED = (
    "setupGroup",
    "inputGroup",
    "sliceButton",
    "regionButton",
    "propagateButton",
    "undoButton",
    "redoButton",
    "acceptButton",
    "submitButton",
    "trainButton",
    "stopTrainingButton",
)


class Loader(QUiLoader):
    """Reads a ``.ui`` file with stand-ins."""

    def createWidget(self, name: str, parent: QWidget | None = None, object_name: str = "") -> QWidget:  # noqa: N802
        if name not in STAND_INS:
            return super().createWidget(name, parent, object_name)
        widget = STAND_INS[name](parent)
        widget.setObjectName(object_name)
        return widget


def load() -> QWidget:
    """The panel as it is while an object is being segmented."""
    panel = Loader().load(str(PANEL))
    for group in panel.findChildren(CollapsibleButton):
        group.fold()
    for name, text in {
        "volumeSelector": "CT abdomen",
        "segmentationSelector": "Organs",
        "adapterComboBox": "spleen_lora",
        "boxSelector": "COBOT box",
    }.items():
        panel.findChild(QComboBox, name).addItem(text)
    panel.findChild(QLineEdit, "serverLineEdit").setText("http://127.0.0.1:8000")
    for name in DISABLED:
        panel.findChild(QWidget, name).setEnabled(False)
    panel.findChild(PathLineEdit, "adaptersPathLineEdit").line.setText("adapters")
    panel.findChild(QLabel, "statusLabel").setText("Segmenting...")
    progress = panel.findChild(QWidget, "progressBar")
    progress.setRange(0, 60)
    progress.setValue(24)
    return panel


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--to", type=Path, default=Path("docs/pictures"), help="folder of the picture")
    folder = parser.parse_args().to
    QApplication.setStyle("Fusion")
    application = QApplication([])
    panel = load()
    panel.resize(WIDTH, panel.heightForWidth(WIDTH) if panel.hasHeightForWidth() else panel.sizeHint().height())
    panel.show()
    application.processEvents()
    buffer = QBuffer()
    panel.grab().save(buffer, "PNG")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "slicer_panel.png").write_bytes(bytes(buffer.data()))


if __name__ == "__main__":
    main()
