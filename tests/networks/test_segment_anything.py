import subprocess
import sys
from pathlib import Path

import pytest

from monai_cobot.networks import _segment_anything

pytestmark = pytest.mark.timeout(120)

MODULE = Path(_segment_anything.__file__)
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
    return subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8")


def write_torchvision(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = folder / "torchvision" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


USE = """
import copy, pickle
from monai_cobot.networks import build_sam
sam = build_sam("vit_mini", image_size=64)
pickle.loads(pickle.dumps(copy.deepcopy(sam)))
from segment_anything.modeling import Sam
assert isinstance(sam, Sam)
"""


def test_networks_work_beside_a_torchvision_that_does_not_match_torch_and_the_predictor_as_soon_as_it_does(
    tmp_path: Path,
) -> None:
    write_torchvision(tmp_path, WORKING | {"__init__.py": BROKEN})
    code = f"""
sys.dont_write_bytecode = True
{USE}
print("the networks work")
try:
    from segment_anything import SamPredictor
except RuntimeError as error:
    print(error)
open({str(tmp_path / "torchvision" / "__init__.py")!r}, "w").close()
from segment_anything import SamPredictor
assert SamPredictor(sam).model is sam
"""
    result = run(code, tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout == "the networks work\noperator torchvision::nms does not exist\n"


def test_a_torchvision_that_works_leaves_the_package_as_it_is(tmp_path: Path) -> None:
    write_torchvision(tmp_path, WORKING)
    # the module alone: importing all of MONAI would take seconds
    use = f"exec(open({str(MODULE)!r}).read())\nassert 'SamPredictor' in vars(segment_anything)\nSam, Attention"
    result = run(use, tmp_path)
    assert result.returncode == 0, result.stderr


def test_a_missing_package_is_named_with_the_command_that_installs_it(tmp_path: Path) -> None:
    hide = "sys.modules['segment_anything'] = None\ndel sys.modules['segment_anything']\n"
    hide += "sys.path[:] = [p for p in sys.path if 'site-packages' not in p]\n"
    result = run(hide + f"exec(open({str(MODULE)!r}).read())", tmp_path)
    assert "pip install segment-anything==1.0" in result.stderr
