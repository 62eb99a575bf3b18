"""`edgeward verify`: says whether every file of a bundle is as its manifest names it, and whether its reports can be read."""

from __future__ import annotations

from pathlib import Path

import click
from rich.markup import escape

from edgeward import terminal
from fleet_io.bundle_directory import open_bundle
from fleet_protocol.profile import decode_profile


@click.command("verify", short_help="Check that a bundle is whole.")
@click.argument("bundle", type=click.Path(path_type=Path))
@terminal.json_option
def command(*, bundle: Path, as_json: bool) -> None:
    """Check that every file of the directory BUNDLE has the size and the digest that its manifest names.

    It says nothing about who made the bundle: signatures come with publishing.

    \b
    Examples:
      edgeward verify digits-1.0.0
    """
    opened = open_bundle(bundle)
    decode_profile(opened.path(opened.manifest.profile).read_bytes())
    files, notes = opened.manifest.files(), [path.name for path in opened.notes()]
    size = sum(descriptor.size for descriptor in files)
    if as_json:
        terminal.print_json(
            {"bundle": str(bundle), "digest": opened.digest, "files": len(files), "bytes": size, "unlisted": notes}
        )
        return
    terminal.out.print(
        f"[green]Whole:[/] {escape(str(bundle))} holds {opened.manifest.model} {opened.manifest.version}; all "
        f"{len(files)} files ({terminal.in_bytes(size)}) are as the manifest names them.",
        soft_wrap=True,
    )
    if notes:
        terminal.out.print(f"Not part of the release: {escape(', '.join(notes))}.", soft_wrap=True)
