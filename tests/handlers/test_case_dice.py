import pytest
import torch
from ignite.engine import Engine, State

from monai_cobot.handlers import CaseDice


def masks(*areas: int) -> torch.Tensor:
    """One mask of a row of so many foreground pixels each, (B, 1, 1, 10)."""
    return torch.stack([(torch.arange(10) < area).float().view(1, 1, 10) for area in areas])


def test_slices_of_a_case_are_counted_together_in_any_order():
    metric = CaseDice()
    metric.update((["a", "b"], ["liver", "liver"], {"pred": masks(4, 2), "label": masks(2, 2)}))
    metric.update((["a"], ["liver"], {"pred": masks(0), "label": masks(6)}))
    value = metric.compute()
    assert dict(metric.scores.scores) == {("a", "liver"): pytest.approx(2 * 2 / (4 + 8)), ("b", "liver"): 1.0}
    assert value == pytest.approx((1 / 3 + 1) / 2)


def test_the_value_is_the_mean_over_cases_then_over_labels():
    metric = CaseDice()
    metric.update((["a", "b", "a"], ["liver", "liver", "spleen"], {"pred": masks(5, 0, 5), "label": masks(5, 5, 5)}))
    assert metric.compute() == pytest.approx((0.5 + 1.0) / 2)


def test_it_reads_the_engine_as_monais_evaluator_leaves_it():
    metric = CaseDice()
    engine = Engine(lambda engine, batch: None)
    engine.state = State(
        batch={"case": ["a"], "label_name": ["liver"]}, output={"pred": masks(3), "label": masks(3)}, metrics={}
    )
    metric.iteration_completed(engine)
    assert metric.compute() == 1.0


def test_a_reset_forgets_all_slices():
    metric = CaseDice()
    metric.update((["a"], ["liver"], {"pred": masks(3), "label": masks(3)}))
    metric.reset()
    with pytest.raises(ValueError, match="no case has been scored"):
        metric.compute()


def test_with_labels_a_slice_counts_for_all_of_them():
    metric = CaseDice(["liver", "spleen", "tumour"])
    engine = Engine(lambda engine, batch: None)
    predicted = torch.cat([masks(4, 0), masks(2, 0), masks(0, 0)], dim=1)  # (2, 3, 1, 10)
    true = torch.cat([masks(2, 2), masks(0, 0), masks(0, 0)], dim=1)
    engine.state = State(batch={"case": ["a", "a"]}, output={"pred": predicted, "label": true}, metrics={})
    metric.iteration_completed(engine)
    metric.compute()
    # the spleen is found where there is none, the tumour is neither there nor found
    assert dict(metric.scores.scores) == {("a", "liver"): 0.5, ("a", "spleen"): 0.0}
