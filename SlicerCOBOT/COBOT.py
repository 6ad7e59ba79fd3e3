"""SlicerCOBOT's module: the panel. What it does is in COBOTLib."""

import contextlib
import pathlib

import qt
import slicer
import vtk
from COBOTLib import drawing, packages, weights
from COBOTLib.engines.base import EngineError
from COBOTLib.engines.in_process import InProcessEngine
from COBOTLib.engines.monai_label import MonaiLabelEngine
from COBOTLib.geometry import GeometryError
from COBOTLib.jobs import Background, BusyError, State
from COBOTLib.prompts import PromptError
from COBOTLib.segmentation import Overwrite, SegmentationError
from COBOTLib.session import Session, SessionError
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.parameterNodeWrapper import parameterNodeWrapper
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin

# What a user can do something about: shown without a traceback.
_EXPECTED = (EngineError, GeometryError, PromptError, SegmentationError, SessionError, BusyError)
_POLL_MILLISECONDS = 50
_TRAINING_MILLISECONDS = 3000
# What is drawn into, in the scene.
_BOX, _INSIDE, _OUTSIDE = "COBOT box", "COBOT inside", "COBOT outside"
_POINTS = "vtkMRMLMarkupsFiducialNode"
# None of these is a key of Slicer's views, or of the Segment Editor.
_KEYS = {
    "Ctrl+B": "drawBoxButton",
    "Ctrl+Return": "sliceButton",
    "Ctrl+Shift+Return": "acceptButton",
    "Ctrl+.": "cancelButton",
    "Ctrl+Shift+Z": "undoButton",
    "Ctrl+Shift+Y": "redoButton",
}


class COBOT(ScriptedLoadableModule):
    """The module as Slicer lists it."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = _("COBOT")
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "Segmentation")]
        self.parent.dependencies = ["Segmentations", "Markups", "SegmentEditor"]
        self.parent.contributors = ["monai_cobot contributors"]
        self.parent.helpText = _("Segment with SAM and adapters fine-tuned on medical scans: draw a box in any view.")
        self.parent.acknowledgementText = _("SAM-COBOT: Peng et al., CVPR 2024.")


@parameterNodeWrapper
class COBOTParameterNode:
    """What is saved with the scene."""

    volume: slicer.vtkMRMLScalarVolumeNode
    segmentation: slicer.vtkMRMLSegmentationNode
    box: slicer.vtkMRMLMarkupsROINode
    adapter: str = ""
    onServer: bool = False
    server: str = "http://127.0.0.1:8000"
    adaptersFolder: pathlib.Path
    checkpoint: pathlib.Path
    useWindow: bool = False


class COBOTWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """The panel: hands what the user draws to a session, and shows what it does."""

    def __init__(self, parent=None):
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.session = None
        self.engine = None
        self.place = None
        self.doing = ""
        self.outcome = None
        self.background = None
        self.madeSegmentation = None
        self.trainingRuns = False
        self.parameterNode = None

    def setup(self):
        ScriptedLoadableModuleWidget.setup(self)
        panel = slicer.util.loadUI(self.resourcePath("UI/COBOT.ui"))
        self.layout.addWidget(panel)
        self.ui = slicer.util.childWidgetVariables(panel)
        panel.setMRMLScene(slicer.mrmlScene)

        self.logic = COBOTLogic()
        self.background = Background()
        self.timer = qt.QTimer()
        self.timer.interval = _POLL_MILLISECONDS
        self.timer.connect("timeout()", self.onTimer)
        # a thread of its own: a training is looked after while the user segments
        self.trainingBackground = Background()
        self.trainingTimer = qt.QTimer()
        self.trainingTimer.interval = _TRAINING_MILLISECONDS
        self.trainingTimer.connect("timeout()", self.onTrainingTimer)

        self.ui.setupGroup.collapsed = not packages.missing()
        self.ui.segmentEditorWidget.undoEnabled = False  # two histories would contradict each other

        for button, slot in {
            self.ui.testButton: self.onTest,
            self.ui.installButton: self.onInstall,
            self.ui.downloadButton: self.onDownload,
            self.ui.drawBoxButton: self.onDrawBox,
            self.ui.sliceButton: self.onSegmentSlice,
            self.ui.regionButton: self.onSegmentRegion,
            self.ui.propagateButton: self.onPropagate,
            self.ui.positiveButton: lambda: self.placePoints(_INSIDE, (0.1, 0.8, 0.2)),
            self.ui.negativeButton: lambda: self.placePoints(_OUTSIDE, (0.9, 0.1, 0.1)),
            self.ui.undoButton: lambda: self.step("undo"),
            self.ui.redoButton: lambda: self.step("redo"),
            self.ui.acceptButton: self.onAccept,
            self.ui.cancelButton: self.onCancel,
            self.ui.submitButton: self.onSubmit,
            self.ui.trainButton: self.onTrain,
            self.ui.stopTrainingButton: self.onStopTraining,
        }.items():
            button.connect("clicked()", slot)
        self.ui.adapterComboBox.connect("activated(int)", self.onAdapterChosen)
        self.shortcuts = []
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndCloseEvent, self.onSceneEndClose)
        crosshair = slicer.util.getNode("Crosshair")
        self.addObserver(crosshair, crosshair.CursorPositionModifiedEvent, self.logic.onCursorMoved)
        self.setUpScene()

    def cleanup(self):
        self.exit()
        self.timer.stop()
        self.removeObservers()
        self.forgetSession()
        self.forgetEngine()
        self.setParameterNode(None)
        self.trainingBackground.close(timeout=1.0)
        self.background.close(timeout=1.0)

    def enter(self):
        for keys, name in _KEYS.items():
            shortcut = qt.QShortcut(qt.QKeySequence(keys), slicer.util.mainWindow())
            shortcut.connect("activated()", getattr(self.ui, name).click)  # which a disabled button ignores
            self.shortcuts.append(shortcut)

    def exit(self):
        self.ui.segmentEditorWidget.setActiveEffect(None)
        self.ui.segmentEditorWidget.removeViewObservations()
        self.logic.stopPlacing()
        for shortcut in self.shortcuts:
            shortcut.setParent(None)
        self.shortcuts = []

    # --- parameters

    def setParameterNode(self, node):
        """Show a parameter node in the panel, or none while the scene closes."""
        if self.parameterNode is not None:
            self.parameterNode.disconnectGui(self.guiTag)
            self.removeObserver(self.parameterNode, vtk.vtkCommand.ModifiedEvent, self.onParametersChanged)
        self.parameterNode = node
        if node is not None:
            self.guiTag = node.connectGui(self.ui)
            self.addObserver(node, vtk.vtkCommand.ModifiedEvent, self.onParametersChanged)
            if not node.volume:
                node.volume = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLScalarVolumeNode")
            self.onParametersChanged()

    def onParametersChanged(self, *_):
        """Forget what the change is about, and that alone: the engine may hold a loaded SAM."""
        node = self.parameterNode
        place = (node.onServer, node.server, str(node.adaptersFolder), str(node.checkpoint))
        if place != self.place:
            self.forgetEngine()
            self.place = place
        if self.session is not None and not self.session.shows(node.volume, node.segmentation):
            self.forgetSession()
        self.ui.segmentEditorWidget.setSegmentationNode(node.segmentation)
        self.ui.segmentEditorWidget.setSourceVolumeNode(node.volume)
        self.updateButtons()

    def onSceneStartClose(self, *_):
        self.background.cancel()
        self.forgetSession()
        self.forgetTraining()
        if self.engine is not None:
            self.background.afterwards(self.engine.forget_scans)
        self.setParameterNode(None)

    def onSceneEndClose(self, *_):
        self.setUpScene()

    def setUpScene(self):
        """What the panel needs of an empty scene."""
        self.editorNode = self.logic.getEditorNode()
        self.ui.segmentEditorWidget.setMRMLSegmentEditorNode(self.editorNode)
        self.setParameterNode(self.logic.getParameterNode())

    def forgetSession(self):
        if self.session is not None:
            self.session.close()
        self.session = None

    def forgetEngine(self):
        """Another one will be used. This one is closed where it works, behind what it does now."""
        self.background.cancel()
        if self.engine is not None:
            self.background.afterwards(self.engine.close)
        self.engine = None
        self.ui.adapterComboBox.clear()
        self.forgetTraining()

    # --- what runs

    def currentEngine(self):
        if self.engine is None:
            node = self.parameterNode
            if node.onServer:
                self.engine = MonaiLabelEngine(node.server)
            else:
                self.engine = InProcessEngine(_chosen(node.checkpoint), _chosen(node.adaptersFolder))
        return self.engine

    def currentSession(self):
        node = self.parameterNode
        if not node.volume:
            raise PromptError(_("Choose a volume first."))
        if self.session is None or self.session.closed:
            if not node.segmentation:
                self.madeSegmentation = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode")
                node.segmentation = self.madeSegmentation
            self.session = Session(node.volume, node.segmentation, self.currentEngine(), self.background)
        self.session.engine = self.currentEngine()
        return self.session

    def removeUnusedSegmentation(self):
        """A segmentation that was made for a prompt goes where nothing came of it."""
        node = self.madeSegmentation
        if node is None or self.background.state != State.IDLE:
            return
        self.madeSegmentation = None
        if node.GetScene() is not None and node.GetSegmentation().GetNumberOfSegments() == 0:
            slicer.mrmlScene.RemoveNode(node)

    @contextlib.contextmanager
    def errorsShown(self):
        try:
            yield
        except _EXPECTED as error:
            self.ui.statusLabel.text = str(error)
        except MemoryError:
            self.ui.statusLabel.text = _("The memory is full. Close other volumes and programs, and try again.")
        except Exception as error:
            slicer.util.errorDisplay(_("COBOT failed: {error}").format(error=error), detailedText=repr(error))
        self.removeUnusedSegmentation()
        self.updateButtons()

    def start(self, text, work, deliver):
        self.background.start(work, deliver)
        self.watch(text, lambda: _("Done."))

    def watch(self, text, outcome):
        """Say what runs, and look after it until it ends; then what ``outcome`` says is shown."""
        self.doing = self.ui.statusLabel.text = text
        self.outcome = outcome
        self.timer.start()

    def onTimer(self):
        with self.errorsShown():
            done, total = self.background.progress
            self.ui.progressBar.setRange(0, total)
            self.ui.progressBar.setValue(done)
            cancelled = self.background.state == State.CANCELLING
            try:
                ended = self.background.update()
            finally:
                if self.background.state == State.IDLE:
                    self.timer.stop()
            if ended and self.ui.statusLabel.text == self.doing:  # what was delivered may have said more
                self.ui.statusLabel.text = _("Cancelled.") if cancelled else self.outcome()

    def segmented(self):
        """What became of the last prompt. A segment that was made for it is selected."""
        if not self.session.found:
            return _("Nothing was found, and nothing was changed. Draw the box closer, or add points inside.")
        self.editorNode.SetSelectedSegmentID(self.session.object.edit.segment_id)
        return _("Done.")

    def updateButtons(self):
        if self.parameterNode is None:
            return
        idle = self.background.state == State.IDLE
        onServer = self.parameterNode.onServer
        self.ui.setupGroup.enabled = self.ui.inputGroup.enabled = idle  # an engine must not go while it works
        self.ui.serverLineEdit.enabled = onServer
        for widget in (
            self.ui.installButton,
            self.ui.adaptersPathLineEdit,
            self.ui.checkpointPathLineEdit,
            self.ui.downloadButton,
        ):
            widget.enabled = not onServer
        session = self.session
        ready = idle and bool(self.parameterNode.volume) and self.ui.adapterComboBox.count > 0
        for button in (self.ui.sliceButton, self.ui.regionButton):
            button.enabled = ready
        self.ui.propagateButton.enabled = ready and session is not None and session.object is not None
        self.ui.undoButton.enabled = idle and session is not None and session.can_undo
        self.ui.redoButton.enabled = idle and session is not None and session.can_redo
        self.ui.acceptButton.enabled = idle and session is not None and session.object is not None
        self.ui.cancelButton.enabled = not idle
        self.ui.progressBar.visible = not idle
        self.ui.submitButton.enabled = ready and onServer
        self.ui.trainButton.enabled = ready and onServer and not self.trainingRuns
        self.ui.stopTrainingButton.enabled = idle and onServer and self.trainingRuns

    # --- where it runs

    def onTest(self):
        with self.errorsShown():
            engine = self.currentEngine()
            self.start(_("Connecting..."), lambda job: (engine.test(job), engine.adapters(job)), self.showEngine)

    def showEngine(self, answer):
        text, adapters = answer
        self.listAdapters(adapters)
        self.ui.statusLabel.text = text
        if self.parameterNode.onServer:
            self.trainingTimer.start()

    def listAdapters(self, adapters):
        """Show what can segment; what was chosen, by hand or by itself, stays so."""
        box = self.ui.adapterComboBox
        before = box.currentData
        box.clear()
        for info in adapters:
            box.addItem(info.title, info.id)
            box.setItemData(box.count - 1, info.description, qt.Qt.ToolTipRole)
        places = [box.findData(one) for one in (self.parameterNode.adapter, before)]
        box.currentIndex = next((place for place in places if place >= 0), 0)

    def onAdapterChosen(self, *_):
        self.parameterNode.adapter = self.ui.adapterComboBox.currentData

    def onInstall(self):
        needed = ", ".join(packages.missing())
        if not needed:
            self.ui.statusLabel.text = _("Everything is installed.")
        elif slicer.util.confirmOkCancelDisplay(_("Install {needed}?").format(needed=needed)):
            with self.errorsShown(), slicer.util.tryWithErrorDisplay(_("Installation failed."), waitCursor=True):
                packages.install(self.logic.torchLogic(), slicer.util.pip_install)
                self.ui.statusLabel.text = _("Installed. Click Connect.")

    def onDownload(self):
        file = weights.VIT_B
        question = _("Download {url} ({size} MB)?").format(url=file.url, size=file.size // 1_000_000)
        if slicer.util.confirmOkCancelDisplay(question):
            with self.errorsShown():
                folder = self.logic.weightsFolder()
                self.start(_("Downloading..."), lambda job: weights.fetch(file, folder, job), self.chooseCheckpoint)

    def chooseCheckpoint(self, path):
        self.parameterNode.checkpoint = path
        self.ui.statusLabel.text = _("ViT-B is at {path}. Click Connect.").format(path=path)

    # --- what is drawn

    @property
    def positiveNode(self):
        """The points inside; None before some are to be placed."""
        return slicer.mrmlScene.GetFirstNode(_INSIDE, _POINTS)

    @property
    def negativeNode(self):
        """The points outside; None before some are to be placed."""
        return slicer.mrmlScene.GetFirstNode(_OUTSIDE, _POINTS)

    def onDrawBox(self):
        self.logic.erase(_BOX)
        self.parameterNode.box = self.logic.drawn("vtkMRMLMarkupsROINode", _BOX, (1.0, 0.8, 0.0))
        self.logic.place(self.parameterNode.box, persistent=False)

    def placePoints(self, name, color):
        self.logic.place(self.logic.drawn(_POINTS, name, color), persistent=True)

    def onSegmentSlice(self):
        with self.errorsShown():
            node = self.parameterNode
            self.segment(
                drawing.box_in_view(node.box, self.logic.view(), node.volume, self.positiveNode, self.negativeNode)
            )

    def onSegmentRegion(self):
        with self.errorsShown():
            node = self.parameterNode
            self.segment(drawing.box_in_3d(node.box, self.logic.view(), node.volume))

    def onPropagate(self):
        with self.errorsShown():
            self.segment(drawing.propagation(self.currentSession().object))

    def segment(self, request):
        node = self.parameterNode
        preset = drawing.window_preset(node.volume) if node.useWindow else None
        session = self.currentSession()
        selected = self.editorNode.GetSelectedSegmentID()
        if not selected or session.writer.node.GetSegmentation().GetSegment(selected) is None:
            selected = None
        session.segment(
            request.prompt,
            selected,
            self.ui.adapterComboBox.currentData,
            preset,
            Overwrite(self.editorNode.GetOverwriteMode()),
            request.plane,
        )
        self.watch(_("Segmenting..."), self.segmented)

    # --- steps

    def step(self, name):
        with self.errorsShown():
            if self.session is not None:
                getattr(self.session, name)()

    def onAccept(self):
        with self.errorsShown():
            if self.session is not None:
                self.session.accept()
                for name in (_BOX, _INSIDE, _OUTSIDE):
                    self.logic.erase(name)

    def onCancel(self):
        self.background.cancel()
        self.updateButtons()

    # --- training on the server

    def onSubmit(self):
        with self.errorsShown():
            session, engine = self.currentSession(), self.currentEngine()
            scan, labels = session.scan(), session.labels()
            self.start(_("Sending..."), lambda job: engine.submit(scan, labels, job), self.showSubmitted)

    def showSubmitted(self, imageId):
        self.ui.statusLabel.text = _('The label is on the server, as that of "{image}".').format(image=imageId)

    def onTrain(self):
        with self.errorsShown():
            engine, model = self.currentEngine(), self.ui.adapterComboBox.currentData
            self.start(_("Starting to train..."), lambda job: engine.train(model, job), self.followTraining)

    def onStopTraining(self):
        with self.errorsShown():
            engine = self.currentEngine()
            self.start(_("Stopping the training..."), engine.stop_training, self.followTraining)

    def followTraining(self, *_result):
        self.trainingTimer.start()

    def forgetTraining(self):
        self.trainingTimer.stop()
        self.trainingBackground.cancel()
        self.trainingRuns = False
        self.ui.trainingLabel.text = ""

    def onTrainingTimer(self):
        """Show what the server said of the training, and ask again."""
        with self.errorsShown():
            try:
                self.trainingBackground.update()
            except EngineError:
                self.forgetTraining()
                raise
            if self.trainingTimer.active and self.trainingBackground.state == State.IDLE:
                server = MonaiLabelEngine(self.parameterNode.server)
                self.trainingBackground.start(lambda job: _asked(server, job), self.showTraining)

    def showTraining(self, answer):
        training, adapters = answer
        self.trainingRuns = training is not None and training.runs
        if training is not None:
            text = _("Training: {status}. {said}")
            self.ui.trainingLabel.text = text.format(status=training.status.lower(), said=training.said)
        if not self.trainingRuns:
            self.trainingTimer.stop()
            self.listAdapters(adapters)


class COBOTLogic(ScriptedLoadableModuleLogic):
    """What of the panel's work touches the application and no widget."""

    def __init__(self):
        ScriptedLoadableModuleLogic.__init__(self)
        self._view = None

    def getParameterNode(self):
        return COBOTParameterNode(super().getParameterNode())

    def getEditorNode(self):
        """What the embedded Segment Editor is set to; one for a scene, also where scenes are joined."""
        node = slicer.mrmlScene.GetSingletonNode("COBOT", "vtkMRMLSegmentEditorNode")
        if node is None:
            node = slicer.vtkMRMLSegmentEditorNode()
            node.SetSingletonTag("COBOT")
            node = slicer.mrmlScene.AddNode(node)
        return node

    def drawn(self, className, name, color):
        """The node that a user draws into; made where the scene has none."""
        node = slicer.mrmlScene.GetFirstNode(name, className)
        if node is None:
            node = slicer.mrmlScene.AddNewNodeByClass(className, name)
            node.CreateDefaultDisplayNodes()
            node.GetDisplayNode().SetSelectedColor(color)
            node.GetDisplayNode().SetPointLabelsVisibility(False)
            node.GetDisplayNode().SetFillVisibility(False)  # or the box would hide what is in it
        return node

    def erase(self, name):
        """Take what was drawn away, with its node: a box whose points were removed cannot be drawn again."""
        node = slicer.mrmlScene.GetFirstNodeByName(name)
        if node is not None:
            slicer.mrmlScene.RemoveNode(node)

    def place(self, node, persistent):
        """Let the next clicks in the views place points of a node."""
        slicer.modules.markups.logic().SetActiveListID(node)
        slicer.modules.markups.logic().StartPlaceMode(persistent)

    def stopPlacing(self):
        """Let clicks in the views do again what they did before ``place``."""
        slicer.app.applicationLogic().GetInteractionNode().SwitchToViewTransformMode()

    def onCursorMoved(self, crosshair, *_):
        """Remember the slice view that the mouse is in: it is over the panel when a button is clicked."""
        self._view = crosshair.GetCursorPositionXYZ([0.0, 0.0, 0.0]) or self._view

    def view(self):
        """The slice view that the mouse was in last; the red one before."""
        return self._view or slicer.app.layoutManager().sliceWidget("Red").mrmlSliceNode()

    def weightsFolder(self):
        """Where downloaded weights are kept."""
        return pathlib.Path(slicer.app.cachePath) / "COBOT"

    def torchLogic(self):
        """The logic of the PyTorch extension; None where it is not installed."""
        try:
            import PyTorchUtils
        except ModuleNotFoundError:
            return None
        return PyTorchUtils.PyTorchUtilsLogic()


def _asked(server, job):
    """How the training is and, where it has ended, what can segment now."""
    training = server.training(job)
    return training, None if training is not None and training.runs else server.adapters(job)


def _chosen(path):
    """None for the path of an empty line."""
    return path if path and path != pathlib.Path() else None


class COBOTTest(ScriptedLoadableModuleTest):
    """Runs the tests in Testing/Python inside the application."""

    folder = pathlib.Path(__file__).parent / "Testing" / "Python"

    def runTest(self):
        import unittest

        if not self.folder.is_dir():  # a module that was built or installed has none; CTest runs them there
            raise RuntimeError(f"There are no tests in {self.folder}. Run them with CTest, or from the sources.")
        result = unittest.TextTestRunner().run(unittest.TestLoader().discover(str(self.folder), "COBOT*Test.py"))
        if not result.wasSuccessful() or result.testsRun == 0:
            raise AssertionError(f"COBOT: of {result.testsRun} tests, {len(result.failures + result.errors)} failed.")
