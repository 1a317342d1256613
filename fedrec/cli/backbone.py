"""Implement ``fedrec backbone``: networks from files, on which models are trained."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from fedrec._internal import number_format
from fedrec._internal.text import counted, one_line
from fedrec.cli.generated_options import fields_as_options
from fedrec.cli.json_output import print_json
from fedrec.cli.lazy_group import PLAIN, LazyGroup
from fedrec.errors import ConfigError
from fedrec.vision.backbones import backbone_files
from fedrec.vision.backbones.backbone_files import Preparation

app = typer.Typer(
    help="Add networks from files, on which models are trained.",
    cls=LazyGroup,
    no_args_is_help=True,
    **PLAIN,
)

_DEFAULT_SIZE = 224


@dataclass(frozen=True)
class AddOptions:
    """Options of ``fedrec backbone add``."""

    file: Annotated[Path, typer.Argument(help="The ONNX or safetensors file.")]
    name: Annotated[
        str,
        typer.Option(
            help="Name of the backbone; its models are NAME-head and, if it can be fine-tuned, NAME-lora."
        ),
    ]
    size: Annotated[int, typer.Option(help="Side of the network's pictures in pixels.")]
    mean: Annotated[str, typer.Option(help="R,G,B: subtracted from pixels in 0 to 1.")]
    std: Annotated[str, typer.Option(help="R,G,B: what they are divided by afterwards.")]
    architecture: Annotated[
        str | None, typer.Option(help="timm's name of the network whose weights a safetensors file holds.")
    ] = None
    rank: Annotated[
        int | None, typer.Option(help="Rank of the changes that fine-tuning makes. Default: 8.")
    ] = None
    adapted_blocks: Annotated[
        int | None,
        typer.Option(
            help="Fine-tune so many of the last blocks, from cached tokens; all of them: from pictures. "
            "Default: a third."
        ),
    ] = None
    layer: Annotated[
        list[str] | None, typer.Option(help="Output to use; repeat it for several. Default: the only one.")
    ] = None
    view: Annotated[
        list[str] | None,
        typer.Option(help="wide, squash, crop or flip; features of several are averaged. Default: wide."),
    ] = None
    sha256: Annotated[str | None, typer.Option(help="What the file's SHA-256 must be.")] = None
    code: Annotated[
        str | None, typer.Option(help="What the hash of file and options must be, as the plan names it.")
    ] = None


@app.command()
@fields_as_options(AddOptions)
def add(options: AddOptions) -> None:
    """Check a network's file, try it, and keep a copy of it."""
    from fedrec.vision import model_registry
    from fedrec.vision.backbones.adding import add_backbone

    name = options.name
    pictures = backbone_files.pictures_of(
        name=name,
        size=options.size,
        mean=_colours(options.mean, "--mean"),
        std=_colours(options.std, "--std"),
        views=tuple(options.view or ("wide",)),
        architecture=options.architecture,
        rank=options.rank,
        adapted_blocks=options.adapted_blocks,
    )
    for option, value in (("--rank", options.rank), ("--adapted-blocks", options.adapted_blocks)):
        if value is not None and options.architecture is None:
            raise ConfigError(
                f"{option} is for fine-tuning, which takes an architecture and a safetensors file"
            )
    for model in (f"{name}{ending}" for ending in (backbone_files.HEAD, backbone_files.LORA)):
        if model in model_registry.REGISTRY.names():
            raise ConfigError(
                f"--name: there is a model '{model}', so that a backbone can't be called '{name}'"
            )
    made = add_backbone(
        options.file, pictures, layers=options.layer or (), sha256=options.sha256, code=options.code
    )
    for line in _lines(made):
        typer.echo(line)


@app.command("list")
def list_command(
    as_json: Annotated[bool, typer.Option("--json", help="Print them as JSON.")] = False,
) -> None:
    """List the added backbones, with their hashes and the command that adds each elsewhere."""
    found = [made for name in backbone_files.names() if (made := backbone_files.read(name)) is not None]
    if as_json:
        print_json([{"code": made.code} | made.model_dump(mode="json") for made in found])
        return
    if not found:
        typer.echo("no backbone was added")
    for made in found:
        for line in _lines(made):
            typer.echo(line)


@app.command()
def remove(name: Annotated[str, typer.Argument(help="The backbone's name.")]) -> None:
    """Delete an added backbone."""
    backbone_files.remove(name)
    typer.echo(f"backbone {name} is removed; features that it computed stay in the cache")


@app.command()
def check(
    file: Annotated[Path, typer.Argument(help="The ONNX or safetensors file.")],
    size: Annotated[
        int | None, typer.Option(help="Side of the pictures, where the file leaves it open. Default: 224.")
    ] = None,
    architecture: Annotated[
        str | None, typer.Option(help="timm's name of the network whose weights a safetensors file holds.")
    ] = None,
) -> None:
    """Check a network's file and try it, and add nothing."""
    from fedrec.vision.backbones.adding import read_file, try_file
    from fedrec.vision.backbones.trial import Trial

    asked = _DEFAULT_SIZE if size is None and architecture is not None else size
    found = read_file(file, architecture=architecture, size=asked)
    side = asked or found.size or _DEFAULT_SIZE
    lengths = try_file(Trial(file, found.sha256, found.outputs, side, architecture=architecture))
    typer.echo(f"{found.summary}, {len(found.data):,} bytes")
    typer.echo(f"SHA-256 {found.sha256}")
    taken = "any side" if found.size is None else f"{side} pixels"
    typer.echo(f"pictures of {taken}, tried with {side}")
    for name, length in lengths.items():
        typer.echo(f"output {one_line(name)}: {counted(length, 'feature')}")


def _lines(made: Preparation) -> list[str]:
    layers = ", ".join(f"{one_line(layer.name)} ({layer.length:,})" for layer in made.layers)
    options = [
        f"--name {made.name} --size {made.size}",
        f"--mean {','.join(map(repr, made.mean))} --std {','.join(map(repr, made.std))}",
        *([] if made.architecture is None else [f"--architecture {made.architecture}"]),
        *([] if made.rank is None else [f"--rank {made.rank}"]),
        *([] if made.adapted_blocks is None else [f"--adapted-blocks {made.adapted_blocks}"]),
        *(f"--layer {shlex.quote(one_line(layer.name))}" for layer in made.layers),
        *(f"--view {view}" for view in made.views),
        f"--code {made.code}",
    ]
    what = "" if made.architecture is None else f"{made.architecture}, "
    return [
        f"{' and '.join(made.models)}: {what}{made.size} pixels, {layers}, "
        f"{number_format.size(made.file_bytes)}",
        *_adaptation(made),
        f"  file    {made.file_sha256}",
        f"  code    {made.code} (for policy 'model_code')",
        f"  elsewhere: fedrec backbone add FILE {' '.join(options)}",
    ]


def _adaptation(made: Preparation) -> list[str]:
    """Say which blocks fine-tuning adapts, and what is cached for it."""
    if made.tokens is None or made.adapted_blocks is None:
        return []
    if made.frozen_blocks is None:
        return [f"  adapts  all {counted(made.attentions, 'block')}, from pictures"]
    count, width = made.tokens
    last = f"the last {made.adapted_blocks} of {counted(made.attentions, 'block')}"
    size = f"{2 * count * width / 1000:,.0f} kB a photo in the cache"
    return [f"  adapts  {last}, from {count} tokens of {width} numbers: {size}"]


def _colours(text: str, option: str) -> tuple[float, ...]:
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if len(values) != 3:
        raise ConfigError(
            f"{option} {one_line(text, most=40)!r} isn't three numbers, such as 0.485,0.456,0.406"
        )
    return values
