"""`ddpo doctor`: whether a recipe can train on this machine, and what keeps a run from learning.

`recipe` looks at a machine and a configuration, one check after another: `environment`, `machine`, `hub` and
`rehearsal` hold the checks. `diagnosis` reads a run folder and never imports torch.
"""
