"""``cobot adapters``: what adapter folders hold, and what can be made of them."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from monai_cobot.cli.models import CheckpointOption, build_for

__all__ = ["adapters"]

adapters = typer.Typer(help="List, look into, check and convert adapter folders.", no_args_is_help=True)

Folder = Annotated[Path, typer.Argument(help="An adapter folder.")]


@adapters.command("list")
def list_adapters(
    folder: Annotated[Path, typer.Argument(help="Searched with all folders in it.")] = Path("runs"),
) -> None:
    """Show the adapters below a folder."""
    from monai_cobot.peft import AdapterError, read_adapter_config
    from monai_cobot.peft.io import CONFIG_FILE

    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: there is no such folder.")
    table = Table("folder", "method", "decoder", "SAM", "size", "labels")
    found = sorted(path.parent for path in folder.rglob(CONFIG_FILE))
    for path in found:
        shown = escape(str(path.relative_to(folder)))
        try:
            config = read_adapter_config(path)
        except AdapterError as error:
            table.add_row(shown, Text(str(error), "red"), "", "", "", "")
            continue
        method = config.method + (" with COBOT" if config.orchestration is not None else "")
        row = (method, config.decoder, config.variant, str(config.image_size), ", ".join(config.labels))
        table.add_row(shown, *map(escape, row))
    if not found:
        raise ValueError(f"{folder}: no adapter is below this folder; an adapter folder holds {CONFIG_FILE}.")
    Console().print(table)


@adapters.command()
def info(folder: Folder) -> None:
    """Show all that an adapter says of itself."""
    from monai_cobot.peft import read_adapter_config

    table = Table("", "", show_header=False)
    for name, value in asdict(read_adapter_config(folder)).items():
        table.add_row(name, escape(str(value)))
    Console().print(table)


@adapters.command()
def verify(folder: Folder, sam_checkpoint: CheckpointOption = None) -> None:
    """Check that an adapter is whole and fits its SAM: checksums, names and shapes."""
    from monai_cobot.peft import load_adapter

    adapter = load_adapter(build_for(folder, None, sam_checkpoint, None), folder)
    counts = adapter.count_parameters()
    print(
        f"{folder}: whole, and fits its SAM ({counts['encoder']:,} parameters in the encoder, {counts['decoder']:,} in "
        "the decoder)."
    )


@adapters.command()
def fold(
    folder: Folder,
    output: Annotated[Path, typer.Argument(help="Folder of the new adapter.")],
    sam_checkpoint: CheckpointOption = None,
) -> None:
    """Fold COBOT into a plain adapter of the base method, with the same output."""
    from monai_cobot.peft import load_adapter, read_adapter_config, save_adapter

    config = read_adapter_config(folder)
    if config.orchestration is None:
        raise ValueError(f"{folder}: this adapter has no COBOT to fold; it is a plain {config.method} already.")
    _refuse_to_replace(output)
    adapter = load_adapter(build_for(folder, None, sam_checkpoint, None), folder)
    adapter.fold()
    print(save_adapter(adapter, output, preset=config.preset, labels=config.labels, details=config.details))


@adapters.command()
def merge(
    folder: Folder,
    output: Annotated[Path, typer.Argument(help="File of the merged SAM, .safetensors.")],
    sam_checkpoint: CheckpointOption = None,
) -> None:
    """Put an adapter into SAM's own weights, for linear methods such as LoRA: a checkpoint that needs no adapter."""
    from safetensors.torch import save

    from monai_cobot.files import write_atomically
    from monai_cobot.peft import load_adapter, read_adapter_config

    if read_adapter_config(folder).classes is not None:
        raise ValueError(f"{folder}: this adapter segments classes, which a checkpoint of SAM has no place for.")
    if output.suffix != ".safetensors":
        raise ValueError(f"{output}: the merged SAM is written as .safetensors.")
    _refuse_to_replace(output)
    sam = build_for(folder, None, sam_checkpoint, None)
    names = list(sam.state_dict())
    load_adapter(sam, folder).merge()
    merged = sam.state_dict()
    print(write_atomically(output, save({name: merged[name].contiguous() for name in names})))


@adapters.command()
def relation(
    folder: Folder,
    output: Annotated[Path, typer.Argument(help="PNG file of the picture.")] = Path("relation.png"),
) -> None:
    """Draw the relation matrix that COBOT learned: which blocks' adapters learn from which."""
    from monai_cobot.study import draw_relations

    print(draw_relations({"": folder}, output, str(folder)))


@adapters.command()
def rollback(
    folder: Folder,
    to: Annotated[int | None, typer.Option(min=1, help="The version; without, the one before that in use.")] = None,
) -> None:
    """Put an earlier version of an adapter that was trained on a server into use again, also while the server runs."""
    from monai_cobot.label.versions import list_versions, roll_back

    version = roll_back(folder, to)
    print(f"{folder}: version {version} of {', '.join(map(str, list_versions(folder)))} is in use now.")


def _refuse_to_replace(output: Path) -> None:
    if output.exists():
        raise FileExistsError(f"{output} exists already; name another, or delete it first.")
