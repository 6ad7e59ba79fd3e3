import ast
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

tomllib = pytest.importorskip("tomllib", reason="reading pyproject.toml needs Python 3.11, as constraints.txt does")


@pytest.fixture(scope="module")
def project(repository: Path) -> dict:
    return tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_the_constraints_pin_every_dependency_to_a_version_that_the_project_accepts(repository, project):
    lines = (
        line.split("#")[0].strip() for line in (repository / "constraints.txt").read_text(encoding="utf-8").splitlines()
    )
    constraints = [Requirement(line) for line in lines if line]
    pins = {}
    for constraint in constraints:
        (pin,) = constraint.specifier
        assert pin.operator == "==", f"{constraint} is not an exact pin"
        assert "+" not in pin.version, f"{constraint} fits one build only"
        pins[canonicalize_name(constraint.name)] = pin.version
    assert len(pins) == len(constraints), "a package is pinned twice"
    extras = project["optional-dependencies"].values()
    for text in [*project["dependencies"], *(dependency for extra in extras for dependency in extra)]:
        dependency = Requirement(text)
        if dependency.name == project["name"]:  # an extra that takes in others
            assert dependency.extras <= set(project["optional-dependencies"])
            continue
        assert dependency.specifier.contains(pins[canonicalize_name(dependency.name)]), text


def test_setup_is_a_shim(repository):
    tree = ast.parse((repository / "setup.py").read_text(encoding="utf-8"))
    docstring, from_setuptools, call = tree.body
    assert ast.unparse(from_setuptools) == "from setuptools import setup"
    assert ast.unparse(call) == "setup()"
    assert isinstance(ast.literal_eval(docstring.value), str)


def test_changelog_and_citation_speak_of_the_packages_version(repository, project):
    first_heading = re.search(r"^## .*", (repository / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)[0]
    assert project["version"] in first_heading
    citation = (repository / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {project['version']}\n" in citation


def test_the_citation_names_the_papers_of_the_methods_with_their_authors(repository):
    citation = (repository / "CITATION.cff").read_text(encoding="utf-8")
    assert citation.startswith("cff-version: 1.2.0\n")
    references = citation.split("\nreferences:\n")[1].split("  - type: conference-paper\n")[1:]
    authors = {re.search(r"arXiv:([\d.]+)", text)[1]: text.count("family-names") for text in references}
    assert authors == {
        "2311.17112": 6,  # SAM-COBOT
        "2308.14604": 5,  # SAM-PARSER
        "2401.17868": 5,  # Conv-LoRA
        "2304.02643": 12,  # SAM
        "2106.09685": 8,  # LoRA
        "2205.13535": 7,  # AdaptFormer
        "1902.00751": 8,  # Houlsby's adapters
        "2304.09148": 9,  # SAM-Adapter
        "2106.10199": 3,  # BitFit
        "2210.08823": 4,  # SSF
        "2203.12119": 7,  # VPT
        "2206.06522": 3,  # LST
    }


def test_the_licence_is_the_whole_apache_licence(repository):
    licence = (repository / "LICENSE").read_text(encoding="utf-8")
    assert "TERMS AND CONDITIONS FOR USE, REPRODUCTION, AND DISTRIBUTION" in licence
    assert "END OF TERMS AND CONDITIONS" in licence
    assert re.search(r"9\. Accepting Warranty or Additional Liability", licence)


def test_tracked_files_hold_no_machine_s_path_and_no_registry_s_address(repository):
    if shutil.which("git") is None or not (repository / ".git").exists():
        pytest.skip("needs a git checkout, to tell the project's files from others")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=repository, capture_output=True, check=True).stdout
    machine = re.compile(rb"(?<![\w.~])/(work|root|home|Users|tmp/env)/|(extra-)?index-url|://pypi\.|pythonhosted")
    found = []
    for name in filter(None, listed.decode().split("\0")):
        path = repository / name
        # A file may be deleted and not yet committed; this one holds the patterns.
        if path.is_file() and path != Path(__file__).resolve():
            found += [f"{name}: {match[0].decode()}" for match in machine.finditer(path.read_bytes())]
    assert found == []


README = """# A project

```bash
echo not under the heading
```

## Two commands

The first:

```bash
{first}
```

It prints:

```text
a table
```

```bash
{second}
```

## More

```bash
echo not in the section
```
"""


@pytest.fixture
def checkout(repository, tmp_path) -> Path:
    """A folder with the check script and nothing else, in a place with a blank in its name."""
    folder = tmp_path / "my checkout"
    (folder / ".ci").mkdir(parents=True)
    shutil.copy(repository / ".ci" / "run", folder / ".ci" / "run")
    return folder


def run_checks(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [folder / ".ci" / "run", *arguments], capture_output=True, encoding="utf-8", cwd="/", check=False
    )


def test_the_check_script_takes_the_two_commands_of_the_readme_as_they_stand(checkout):
    (checkout / "README.md").write_text(
        README.format(first="pip install \\\n    -e . && echo '$HOME'", second="true"), encoding="utf-8"
    )
    listed = run_checks(checkout, "--list")
    assert listed.stdout == "1: pip install \\\n    -e . && echo '$HOME'\n2: true\n"
    assert listed.returncode == 0


@pytest.mark.parametrize(
    ("readme", "message"),
    [
        ("# A project\n", "no heading '## Two commands'"),
        ("## Two commands\n\n```bash\ntrue\n```\n", "expected exactly two ```bash blocks"),
        ("## Two commands\n" + 3 * "\n```bash\ntrue\n```\n", "found 3"),
    ],
    ids=["no heading", "one", "three"],
)
def test_the_check_script_refuses_a_readme_without_exactly_two_commands(checkout, readme, message):
    (checkout / "README.md").write_text(readme, encoding="utf-8")
    for arguments in ([], ["--list"]):
        refused = run_checks(checkout, *arguments)
        assert refused.returncode != 0
        assert message in refused.stderr


def test_the_check_script_runs_the_commands_in_an_environment_of_its_own_and_stops_at_a_failure(checkout):
    first = "python -c 'import os, sys; assert sys.prefix != sys.base_prefix; print(os.getcwd())'"
    (checkout / "README.md").write_text(README.format(first=first, second="exit 3"), encoding="utf-8")
    checked = run_checks(checkout)
    assert checked.returncode != 0
    assert f"\n{checkout}\n" in checked.stdout
    assert re.search(r"=== command 1 took \d+ s", checked.stdout)
    assert re.search(r"=== command 2 failed after \d+ s \(exit status 3\)", checked.stdout)
    assert "ruff" not in checked.stdout


def test_the_readme_has_its_two_commands(repository):
    listed = run_checks(repository, "--list")
    assert listed.returncode == 0, listed.stderr
    assert "python -m monai.bundle run --config_file bundles/cobot_sam/configs/train.json" in listed.stdout
    assert "python -m pytest" in listed.stdout
