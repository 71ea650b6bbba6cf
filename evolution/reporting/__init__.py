"""What ``populora report`` says of a run: reading it, working it out, drawing it.

Files from first to last: a run is read (`data`, `measured`); series, texts, games, family and
examples are worked out of it (`series`, `text`, `games`, `family`, `examples`); audits judge it
(`trends`, `audits`, `collusion`); `findings` is all of that; `figures` and `maps` draw it, `page`
has the HTML's pieces, `members` and `sections` put them together.
"""
