"""``sosr-det registry``: the commands, in the order in which ``--help`` lists them."""

import typer

from sosr_det.cli.registry import card, diff, exchange, foreign, listing, maintenance, showing

app = typer.Typer(no_args_is_help=True, help="Look into the checkpoint registry, check it and change it.")
app.command("ls")(listing.list_command)
app.command("show")(showing.show_command)
app.command("diff")(diff.diff_command)
app.command("card")(card.card_command)
app.command("resolve")(listing.resolve_command)
app.command("verify")(maintenance.verify_command)
app.command("tag")(maintenance.tag_command)
app.command("rm")(maintenance.remove_command)
app.command("gc")(maintenance.gc_command)
app.command("push")(exchange.push_command)
app.command("pull")(exchange.pull_command)
app.command("import")(foreign.import_command)
app.command("export")(foreign.export_command)
