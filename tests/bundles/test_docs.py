import json
import re
from pathlib import Path


def test_the_table_of_options_names_what_each_configuration_has_at_its_top(repository: Path, configs: Path) -> None:
    text = (repository / "bundles" / "cobot_sam" / "docs" / "README.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1:5] for line in re.search(r"\| option \|.*?\n\n", text, re.DOTALL)[0].splitlines()[2:-1]]
    for column, name in enumerate(("train", "evaluate", "inference"), start=1):
        documented = {option for row in rows if row[column].strip() for option in re.findall(r"`(\w+)`", row[0])}
        content = list(json.loads((configs / f"{name}.json").read_text(encoding="utf-8")))
        top = content[content.index("bundle_root") + 1 : content.index("cases")]
        assert documented == set(top) - {"trained", "own_images"}
