"""The commands of a shell script, noted by a stand-in for python instead of run."""

import os
import shlex
import subprocess
from pathlib import Path

from conftest import ROOT, SCRIPTS


def commands_of(script, folder, **environment):
    """Return the commands of a shell script, to run here without thirteen starts of Python."""
    note = folder / "python"
    note.write_text('#!/bin/sh\nprintf "\'%s\' " "$@" >>"$OUT/commands"\necho >>"$OUT/commands"\n')
    note.chmod(0o755)
    path = os.pathsep.join([str(folder), os.environ["PATH"]])
    done = subprocess.run(
        ["sh", str(ROOT / "scripts" / script)],
        cwd=folder,
        env=os.environ | environment | {"PATH": path, "OUT": str(folder)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (folder / "log").write_text(done.stderr)
    lines = [shlex.split(line) for line in (folder / "commands").read_text().splitlines()]
    return [shlex.join([Path(file).stem, *words]) for file, *words in lines]


def parsed(protocol, folder, **environment):
    """Return a protocol's commands as (script, options), which the scripts' own parsers took."""
    found = []
    for command in commands_of(f"protocol_{protocol}.sh", folder, **environment):
        name, *words = shlex.split(command)
        args = SCRIPTS[name].get_parser().parse_args(words)
        getattr(SCRIPTS[name], "check", lambda args: None)(args)
        found.append((name, args))
    return found
