"""``python -m sosr_det.compat SCRIPT [ARGUMENTS]``: run a script that imports mmdet's models before it reads a config.

MMDetection's ``tools/test.py`` is one. With compiled mmcv ops this is the same as ``python SCRIPT [ARGUMENTS]``.
"""

import runpy
import sys
from pathlib import Path

from sosr_det.compat.install import install_mmcv_ops


def main() -> None:
    """Install the ops, then run the script as ``python`` would: its arguments, its folder first on ``sys.path``."""
    if len(sys.argv) < 2 or not Path(sys.argv[1]).is_file():
        print(
            f"usage: python -m sosr_det.compat SCRIPT [ARGUMENTS]; got {sys.argv[1:2] or 'no script'}",
            file=sys.stderr,
        )
        sys.exit(2)
    install_mmcv_ops()
    del sys.argv[0]
    sys.path[0] = str(Path(sys.argv[0]).resolve().parent)
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
