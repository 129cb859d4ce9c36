"""The paper's figures as experiments: declarative files, a runner that resumes, tables, figures and pages.

`definition` reads the files in `definitions/`, `plan` turns one into steps, `runner` executes them as subprocesses,
`tables` reads the run folders into CSV files, `figures` and `pages` make the rest from these alone.
"""
