"""What a study leaves to be read and looked at: tables, figures, the relation matrices."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import load_file

from monai_cobot.files import write_atomically
from monai_cobot.networks import VARIANTS
from monai_cobot.peft import AdapterConfig, read_adapter_config
from monai_cobot.peft.adapter import ORCHESTRATOR
from monai_cobot.peft.io import CONFIG_FILE, WEIGHTS_FILE
from monai_cobot.reports import plot_relation_matrices, plot_widths
from monai_cobot.study.description import has_cobot, slug
from monai_cobot.study.plan import Plan, Run
from monai_cobot.study.tables import (
    ablation_tables,
    cost_table,
    main_table,
    rate_table,
    test_tables,
    width_courses,
    width_table,
    write_rates,
    write_summary,
    write_test_scores,
    write_tests,
)

__all__ = ["draw_relations", "write_report"]


def write_report(plan: Plan, not_done: Mapping[Run, str] | None = None) -> list[Path]:
    """Write what the runs that are done amount to: ``results.md``, tables as CSV files, and pictures.

    Args:
        plan: of the study.
        not_done: runs that failed, and why.

    Returns:
        The files.
    """
    study, lines = plan.study, [f"# {plan.study.title}", ""]
    done = sum(plan.record(run) is not None for run in plan.runs)
    lines += [f"{done} of {len(plan.runs)} runs are done{_made_with(plan)}.", ""]
    lines += _section(
        "Methods",
        main_table(plan),
        "DSC in percent on the test patients: the mean over labels of the mean over cases, then mean ± standard "
        f"deviation over {len(study.seeds)} seeds. Parameters are those trained in the image encoder.",
    )
    lines += _section(
        "Learning rates",
        rate_table(plan),
        "Chosen for each method and data set, among the same rates with the same seeds, on training patients that were "
        "held out for it; no test patient had a part in it. A rate at the end of those that were tried may not be the "
        "best. It is the adapter's: COBOT's own parameters learn at orchestration_factor times as much, the decoder at "
        "decoder_factor times, also where it alone is trained.",
    )
    lines += _section(
        "Cost",
        cost_table(plan),
        "Seconds of training an epoch on each data set, without validation, peak memory of the process (of the GPU "
        "where there is one) and the adapter's file; medians over runs, on a machine as busy as it was. What is frozen "
        "in front of the first trained weight, as all of the encoder with decoder_only and all but its neck with "
        "sam_parser, is computed once for all runs, and is in the seconds of the first of them alone.",
    )
    for title, table in ablation_tables(plan).items():
        lines += _section(title, table)
    pictures = []
    if courses := width_courses(plan):
        pictures.append(plot_widths(courses, plan.folder / "widths.png", title="DSC against the bottleneck's width"))
        lines += _section("Width of the bottleneck (the paper's Figure 5)", width_table(plan))
        lines += [f"![DSC against width]({pictures[-1].name})", ""]
    for title, table in test_tables(plan).items():
        lines += _section(
            title,
            table,
            "Wilcoxon's signed-rank test, two-sided, of the patients' differences; a patient's DSC is the mean over "
            "labels and seeds, and the gain the mean over patients; the tables above have the mean over labels. The "
            "test is of ranks, so that one patient far off weighs little in p and much in the gain. The interval is "
            "that of the gain if other patients had been drawn (bootstrap). The corrected p counts all tests of this "
            "table (Holm); what a table above has tested is not repeated. Where a data set does not tell patients "
            "apart, each case counts as one.",
        )
    relations = _relations(plan)
    if relations:
        lines += ["## Relation matrices", "", "What training changed of S, with each seed, on one scale.", ""]
        lines += [f"![{path.stem}]({path.name})" for path in relations] + [""]
    if not_done:
        lines += ["## Not done", "", *(f"- {run}: {reason}" for run, reason in not_done.items()), ""]
    report = write_atomically(plan.folder / "results.md", "\n".join(lines).encode())
    tables = [write_summary(plan), write_test_scores(plan), write_tests(plan)]
    if plan.study.learning_rates is not None:
        tables.append(write_rates(plan))
    return [report, *tables, *pictures, *relations]


def draw_relations(adapters: Mapping[str, Path], path: Path, title: str) -> Path:
    """Draw the relation matrices that adapters with COBOT learned, side by side.

    Args:
        adapters: name -> folder, of adapters with the same slots.
        path: the PNG file to write.
        title: of the picture.

    Raises:
        OSError: a file cannot be read or written.
        ValueError: one of them is no adapter, or one without a relation matrix.
    """
    relations, slots = {}, []
    for name, adapter in adapters.items():
        config = read_adapter_config(adapter)
        relation = load_file(adapter / WEIGHTS_FILE).get(f"{ORCHESTRATOR}.relation")
        if relation is None:
            raise ValueError(f"{adapter}: this adapter has no relation matrix: it is without COBOT, or was folded.")
        relations[name], slots = relation, slot_names(config, len(relation))
    return plot_relation_matrices(relations, path, title=title, slots=slots)


def slot_names(config: AdapterConfig, count: int) -> list[str]:
    """The names of an adapter's slots for COBOT, by block: q0, v0, q1, ... of LoRA; a0, m0, a1, ... of Houlsby's behind
    attention and MLP; 0, 1, ... where a block has one.

    Args:
        config: of the adapter.
        count: how many slots there are.
    """
    kinds = {"lora": ("q", "v"), "houlsby": ("a", "m")}.get(config.method, ("",))
    blocks = count // len(kinds)
    first = VARIANTS[config.variant].depth - blocks  # adapters are in the last blocks
    return [f"{kind}{first + block}" for block in range(blocks) for kind in kinds]


def _relations(plan: Plan) -> list[Path]:
    """A picture of each of the study's methods and data sets, with all seeds."""
    adapters: dict[tuple[str, str], dict[str, Path]] = {}
    for run in plan.runs:
        if run.learning_rate is not None or run.method not in plan.study.methods:
            continue
        adapter = plan.folder_of(run) / "last"
        if plan.record(run) is None or not has_cobot(plan.settings(run)) or not (adapter / CONFIG_FILE).exists():
            continue
        orchestration = read_adapter_config(adapter).orchestration
        if orchestration is not None and orchestration["relation"] == "learnable" and orchestration["coefficients"]:
            adapters.setdefault((run.dataset, run.method), {})[f"seed {run.seed}"] = adapter
    return [
        draw_relations(by_seed, plan.folder / f"relation_{slug(dataset)}_{slug(method)}.png", f"{dataset} · {method}")
        for (dataset, method), by_seed in adapters.items()
    ]


def _made_with(plan: Plan) -> str:
    """Versions, weights and devices of the runs that are done, by which they can be told from others."""
    records = [record for run in plan.runs if (record := plan.record(run)) is not None]
    versions = sorted({f"monai_cobot {record.package_version}" for record in records})
    weights = sorted({f"SAM {record.base_sha256[:12]}" for record in records if record.base_sha256})
    made = ", ".join([*versions, *weights, *sorted({record.device for record in records})])
    return f" ({made})" if made else ""


def _section(title: str, table: str | None, note: str = "") -> list[str]:
    if table is None:
        return []
    return [f"## {title}", "", *([note, ""] if note else []), table, ""]
