"""What the Extensions Index checks, and that the panel's files fit one another. Nothing of Slicer is needed here."""

import ast
import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ET

import pytest
from PIL import Image


@pytest.fixture
def module(repository):
    return repository / "SlicerCOBOT"


@pytest.fixture
def widgets(module):
    """Name -> class of every widget in the panel."""
    tree = ET.parse(module / "Resources" / "UI" / "COBOT.ui")
    return {widget.get("name"): widget.get("class") for widget in tree.iter("widget")}


def test_the_extension_s_metadata_is_literal_and_complete(repository):
    text = (repository / "CMakeLists.txt").read_text(encoding="utf-8")
    assert re.search(r"^project\(COBOT\)$", text, re.MULTILINE)
    values = dict(re.findall(r'^set\((EXTENSION_\w+) "([^"$]+)"\)$', text, re.MULTILINE))
    assert values.keys() == {
        "EXTENSION_HOMEPAGE",
        "EXTENSION_CONTRIBUTORS",
        "EXTENSION_DESCRIPTION",
        "EXTENSION_ICONURL",
        "EXTENSION_SCREENSHOTURLS",
        "EXTENSION_DEPENDS",
    }
    assert values["EXTENSION_DEPENDS"] == "PyTorch"
    for name in ("EXTENSION_ICONURL", "EXTENSION_SCREENSHOTURLS"):
        path = values[name].split("/main/")[1]
        with Image.open(repository / path) as picture:
            assert picture.size >= (128, 128)
    assert (repository / "LICENSE").exists()


def test_the_index_entry_has_the_fields_that_the_index_knows(repository):
    entry = json.loads((repository / "COBOT.json").read_text(encoding="utf-8"))
    assert entry["$schema"].endswith("slicer-extension-catalog-entry-schema-v1.0.1.json#")
    assert entry["category"] == "Segmentation"
    assert entry["scm_url"].startswith("https://")
    assert entry["scm_url"].endswith(".git")
    assert entry.keys() <= {"$schema", "build_subdirectory", "category", "scm_revision", "scm_url", "tier"}


def test_cmake_lists_every_file_of_the_module(module):
    text = (module / "CMakeLists.txt").read_text(encoding="utf-8").replace("${MODULE_NAME}", "COBOT")
    listed = set(re.findall(r"^\s+(\S+\.(?:py|ui|png))$", text, re.MULTILINE))
    files = {
        path.relative_to(module).as_posix()
        for pattern in ("*.py", "COBOTLib/**/*.py", "Resources/**/*.*")
        for path in module.glob(pattern)
    }
    assert listed == files
    tests = (module / "Testing" / "Python" / "CMakeLists.txt").read_text(encoding="utf-8")
    assert set(re.findall(r"SCRIPT (\S+\.py)", tests)) == {path.name for path in module.glob("Testing/Python/*.py")}


def test_every_widget_that_the_code_names_is_in_the_panel(module, widgets):
    for path in (module / "COBOT.py", *module.glob("Testing/Python/*.py")):
        for name in re.findall(r"\.ui\.(\w+)", path.read_text(encoding="utf-8")):
            assert name in widgets, f"{path.name} names {name}"
        assert path.exists()


def test_every_widget_that_the_picture_of_the_panel_fills_in_is_in_the_panel(repository, widgets):
    text = (repository / "tools" / "show_panel.py").read_text(encoding="utf-8")
    named = re.findall(r'"((?!ctk|qMRML)[a-z]\w+(?:Button|Group|Selector|ComboBox|LineEdit|Label|Bar))"', text)
    assert len(named) > 10
    assert set(named) <= widgets.keys()


def test_the_segment_editor_shows_no_second_choice_of_the_segmentation(module):
    tree = ET.parse(module / "Resources" / "UI" / "COBOT.ui")
    (editor,) = (item for item in tree.iter("widget") if item.get("name") == "segmentEditorWidget")
    shown = {item.get("name"): item.findtext("bool") for item in editor.iter("property")}
    assert shown == {"segmentationNodeSelectorVisible": "false", "sourceVolumeNodeSelectorVisible": "false"}


def test_every_button_of_the_panel_does_something(module, widgets):
    text = (module / "COBOT.py").read_text(encoding="utf-8")
    for name, kind in widgets.items():
        if kind == "QPushButton":
            assert re.search(rf"self\.ui\.{name}: (self|lambda)", text), name


def test_every_parameter_of_the_panel_is_a_field_that_is_saved(module):
    tree = ast.parse((module / "COBOT.py").read_text(encoding="utf-8"))
    (saved,) = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "COBOTParameterNode")
    # the adapter is chosen in a list that the code fills
    fields = {node.target.id for node in saved.body if isinstance(node, ast.AnnAssign)} - {"adapter"}
    panel = ET.parse(module / "Resources" / "UI" / "COBOT.ui")
    named = [item.findtext("string") for item in panel.iter("property") if item.get("name") == "SlicerParameterName"]
    assert sorted(named) == sorted(fields)


def test_the_module_imports_nothing_heavy_and_starts_no_work(slicer, repository):
    """What takes time until the panel is there is Slicer's own."""
    code = (
        "import sys; sys.path[:0] = ['SlicerCOBOT', 'tools']\n"
        "import slicer.util, vtk\n"
        "from slicer_scene import opened\n"
        "from slicer_panel import stood_in\n"
        "with opened() as slicer:\n"
        "    slicer.mrmlScene.AddNode(slicer.vtkMRMLCrosshairNode())\n"
        "    with stood_in(slicer) as module:\n"
        "        panel = module.COBOTWidget()\n"
        "        panel.setup()\n"
        "        assert panel.engine is None and not panel.timer.active\n"
        "        panel.cleanup()\n"
        "print(sorted({'torch', 'monai', 'monai_cobot', 'SimpleITK', 'nibabel', 'scipy'} & set(sys.modules)))\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=repository, capture_output=True, encoding="utf-8")
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip().splitlines()[-1] == "[]"


def test_the_library_imports_neither_qt_nor_anything_heavy(module):
    code = (
        "import sys, importlib, pathlib\n"
        "for path in pathlib.Path('COBOTLib').rglob('*.py'):\n"
        "    importlib.import_module('.'.join(path.with_suffix('').parts).removesuffix('.__init__'))\n"
        "heavy = {'qt', 'ctk', 'slicer', 'vtk', 'torch', 'monai', 'monai_cobot', 'SimpleITK', 'nibabel'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=module, capture_output=True, encoding="utf-8", check=True)
    assert ran.stdout.strip() == "[]"
