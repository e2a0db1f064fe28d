"""``sosr-det registry``: the commands, in the order in which ``--help`` lists them."""

import typer

from sosr_det.cli.registry import listing, maintenance

app = typer.Typer(no_args_is_help=True, help="Look into the checkpoint registry, check it and change it.")
app.command("ls")(listing.list_command)
app.command("show")(listing.show_command)
app.command("resolve")(listing.resolve_command)
app.command("verify")(maintenance.verify_command)
