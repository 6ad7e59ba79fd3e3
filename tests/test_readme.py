import re


def test_the_python_example_runs_as_it_stands(repository, tmp_path, monkeypatch, capsys):
    example = re.search(r"```python\n(.*?)```", (repository / "README.md").read_text(encoding="utf-8"), re.DOTALL)[1]
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "README.md", "exec"), {})
    assert capsys.readouterr().out.startswith("{'encoder': ")
    assert (tmp_path / "runs" / "mine" / "adapter_config.json").exists()


def test_every_file_that_is_linked_exists(repository):
    for page in (
        repository / "README.md",
        *(repository / "docs").glob("*.md"),
        *repository.glob("bundles/*/docs/*.md"),
    ):
        for link in re.findall(r"\]\((?!https?://|#)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).exists(), f"{page.name} links to {link}"
