"""``python -m fastbn stats``: channel statistics of files of any size.

`command` has the arguments, `run` the course of a run, `readers` the file formats, `counting` the statistics, and
`output` what is printed and drawn.
"""
