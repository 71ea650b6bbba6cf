"""A page that follows a run: what the run's files say is read as they grow, drawn and served.

`lines` reads what was appended to a file, `follower` knows a whole run folder, `sections` and
`conversation` work out what is shown, `server` answers a browser on this machine. Charts, measures
and most words are the report's (`evolution.reporting`).
"""
