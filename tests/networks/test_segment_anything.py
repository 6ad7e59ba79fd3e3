import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(120)

BROKEN = 'raise RuntimeError("operator torchvision::nms does not exist")\n'
WORKING = {
    "__init__.py": "",
    "ops/__init__.py": "",
    "ops/boxes.py": "batched_nms = box_area = None\n",
    "transforms/__init__.py": "",
    "transforms/functional.py": "resize = to_pil_image = None\n",
}


def run(code: str, search_path: Path) -> subprocess.CompletedProcess[str]:
    """Run code in a new interpreter that finds the packages of a folder first."""
    code = f"import sys; sys.path.insert(0, {str(search_path)!r})\n{code}"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def write_torchvision(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = folder / "torchvision" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


USE = """
import copy, pickle
from monai_cobot.networks import build_sam
sam = build_sam("vit_mini", image_size=64)
pickle.loads(pickle.dumps(copy.deepcopy(sam)))
from segment_anything.modeling import Sam
assert isinstance(sam, Sam)
"""


def test_networks_work_beside_a_torchvision_that_does_not_match_torch_and_the_predictor_says_why_not(
    tmp_path: Path,
) -> None:
    write_torchvision(tmp_path, {"__init__.py": BROKEN})
    result = run(USE + "print('the networks work')\nfrom segment_anything import SamPredictor", tmp_path)
    assert result.stdout == "the networks work\n", result.stderr
    assert result.returncode != 0
    assert result.stderr.rstrip().endswith("RuntimeError: operator torchvision::nms does not exist")


def test_the_predictor_imports_once_torchvision_does(tmp_path: Path) -> None:
    write_torchvision(tmp_path, {"__init__.py": BROKEN})
    repair = f"open({str(tmp_path / 'torchvision' / '__init__.py')!r}, 'w').close()\n"
    write_torchvision(tmp_path, {name: text for name, text in WORKING.items() if name != "__init__.py"})
    use = "from segment_anything import SamPredictor\nassert SamPredictor(sam).model is sam"
    result = run("import sys; sys.dont_write_bytecode = True\n" + USE + repair + use, tmp_path)
    assert result.returncode == 0, result.stderr


def test_a_torchvision_that_works_leaves_the_package_as_it_is(tmp_path: Path) -> None:
    write_torchvision(tmp_path, WORKING)
    use = "import segment_anything\nassert 'SamPredictor' in vars(segment_anything)"
    result = run(USE + use, tmp_path)
    assert result.returncode == 0, result.stderr


def test_a_missing_package_is_named_with_the_command_that_installs_it(tmp_path: Path) -> None:
    hide = "sys.modules['segment_anything'] = None\ndel sys.modules['segment_anything']\n"
    hide += "sys.path[:] = [p for p in sys.path if 'site-packages' not in p]\n"
    module = Path(__file__).resolve().parents[2] / "monai_cobot" / "networks" / "_segment_anything.py"
    result = run(hide + f"exec(open({str(module)!r}).read())", tmp_path)
    assert "pip install segment-anything==1.0" in result.stderr
