"""The subcommands of `populora`, a thin file or room for each, and what several share."""
