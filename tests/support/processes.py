"""Code that might take the interpreter down runs in another one."""

import subprocess
import sys
import textwrap


def run_apart(code: str, *, timeout: float = 60) -> str:
    """What `code` prints; an AssertionError with its errors when it does not end well."""
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, f"exit status {done.returncode}\n{done.stderr}"
    return done.stdout
