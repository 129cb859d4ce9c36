"""`ddpo doctor` and `ddpo train --dry-run`: whether a recipe can train here, what it costs, why a run does not learn.

`checks` looks at a recipe on this machine; `dry_run` plans it, `cost` is the arithmetic, `counting` what one row costs,
`rehearsal` a real small iteration. `diagnosis` reads a run folder and never imports torch.
"""
