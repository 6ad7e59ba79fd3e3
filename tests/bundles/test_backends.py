from pathlib import Path

import pytest

from tests.bundles.conftest import TINY, Run


def test_openvino_scores_an_adapter_as_eager_does(
    run: Run, phantom: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    scores = {}
    for backend in ("eager", "openvino"):
        workflow = run(
            "evaluate",
            dataset_dir=str(phantom),
            adapter_dir=str(trained / "best"),
            min_foreground=TINY["min_foreground"],
            backend=backend,
            output_dir=str(tmp_path / backend),
        )
        network = workflow.parser.get_parsed_content("network")
        assert network.choice.name == backend
        scores[backend] = workflow.parser.get_parsed_content("evaluator").state.metrics["val_mean_dice"]
    assert scores["openvino"] == pytest.approx(scores["eager"], abs=1e-3)
