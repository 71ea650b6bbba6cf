"""What ``populora report`` says of a run: reading it, working it out, drawing it, writing it down.

A run is read in `measures` (`data`, `measured`), and worked out there (`series`, `games`, `family`)
and in `text` and `examples`; audits judge it (`trends`, `audits`, `collusion`, there too);
`findings` is what more than one section needs; `charts` and `maps` draw; `sections` says what is
shown where, ``assets`` holds the words and all HTML, and `page` fills them in.
"""
