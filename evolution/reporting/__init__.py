"""What ``populora report`` says of a run: reading it, working it out, drawing it.

A run is read in `measures` (`data`, `measured`), and worked out there (`series`, `games`, `family`)
and in `text` and `examples`; audits judge it (`trends`, `audits`, `collusion`, there too);
`findings` is all of that; `charts` and `maps` draw it, `page` has the HTML's pieces, `members` and
`sections` put them together.
"""
