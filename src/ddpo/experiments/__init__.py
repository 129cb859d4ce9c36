"""The paper's figures as experiments: declarative files, a runner that resumes, tables, figures and pages.

`definition` reads the files in `definitions/`, `plan` turns one into commands, `runner` executes them as subprocesses,
`tables` reads the run folders, `figures` and `page` make the rest from these tables alone.
"""
