"""Runs Python commands in forks of a process that has imported what they need, so that a start takes no seconds.

Reads requests from stdin, one per line: {"argv", "cwd", "env", "stdout", "stderr"} starts a command and is answered
with its process id, {"wait": process id} is answered with its exit code. What imports read from the environment
(OMP_NUM_THREADS, HYDRA_FULL_ERROR) can't be set in a request.
"""

import json
import os
import runpy
import sys
import traceback
from pathlib import Path
from typing import Any

import hydra  # noqa: F401
import matplotlib.backends.backend_agg  # noqa: F401

import iwae_lab.runs.run  # noqa: F401


def run(request: dict[str, Any]) -> int:
    """In a child: the command of `request`, as `python *argv` would run it."""
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        file = os.open(request[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, descriptor)
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    sys.path[:0] = request["env"].get("PYTHONPATH", "").split(os.pathsep)
    try:
        if request["argv"][0] == "-m":
            sys.argv = request["argv"][1:]
            runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
        else:
            sys.argv = request["argv"]
            sys.path.insert(0, str(Path(sys.argv[0]).parent.resolve()))
            runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


for line in sys.stdin:
    request = json.loads(line)
    if "wait" in request:
        print(os.waitstatus_to_exitcode(os.waitpid(request["wait"], 0)[1]), flush=True)
    elif child := os.fork():
        print(child, flush=True)
    else:
        sys.stdin.close()
        os.setsid()
        os._exit(run(request))
