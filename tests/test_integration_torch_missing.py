"""Where torch is not installed, the integration says how to have it."""

import subprocess
import sys

SCRIPT = """
import sys
sys.modules["torch"] = None  # as if it were not installed
try:
    import pagedkv.integrations.torch
except ImportError as error:
    print(error)
"""


def test_the_error_names_the_extra() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], check=True, capture_output=True, text=True
    )
    assert done.stdout.startswith("[integrations.torch] torch cannot be imported (")
    assert "expected it to be installed: pip install 'pagedkv[torch]'" in done.stdout
