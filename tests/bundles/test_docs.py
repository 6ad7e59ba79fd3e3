import json
import re
from pathlib import Path


def test_the_table_of_options_names_what_each_configuration_has_at_its_top(repository: Path, configs: Path) -> None:
    text = (repository / "bundles" / "cobot_sam" / "docs" / "README.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1:5] for line in re.search(r"\| option \|.*?\n\n", text, re.DOTALL)[0].splitlines()[2:-1]]
    for column, name in enumerate(("train", "evaluate", "inference"), start=1):
        documented = {option for row in rows if row[column].strip() for option in re.findall(r"`(\w+)`", row[0])}
        assert documented == set(options_and_entries(configs / f"{name}.json")[0]) - {"trained", "own_images"}


def test_an_option_of_one_configuration_is_never_another_thing_in_another(configs: Path) -> None:
    parts = [options_and_entries(configs / f"{name}.json") for name in ("train", "evaluate", "inference")]
    options = {option for of_file, _ in parts for option in of_file} - {"trained", "own_images"}
    assert "rank" in options
    for _, entries in parts:
        assert not options.intersection(entries)


def options_and_entries(config: Path) -> tuple[list[str], list[str]]:
    """The names of what a user sets at the top of a configuration, and of all below."""
    content = list(json.loads(config.read_text(encoding="utf-8")))
    begin, end = content.index("bundle_root") + 1, content.index("cases")
    return content[begin:end], content[end:]
