"""The commands of ``python -m fastbn``: each is a module that defines ``COMMAND``, which `parser` lists."""
